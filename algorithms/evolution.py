"""Cells as individuals of a population: encoding, uniform sampling, mutation and crossover.

An individual lists per cell type and node the (edge, operation) pairs that feed the node: two
distinct edges, each with one operation, sorted by edge. That is the canonical form: two orders of
one node are one individual, and a pair that draws a zero operation (`none`) is left out, so that
node keeps one input or none. Individuals are plain tuples: hashable, equal when the networks are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb, prod

import torch
from torch import Tensor

from search_spaces import CELL_TYPES, CellSpace, Genotype
from search_spaces.sampling import sample_node

Node = tuple[tuple[int, int], ...]
Individual = tuple[Node, ...]  # the nodes of the normal cell, then those of the reduction cell


@dataclass(frozen=True)
class Encoding:
    """Individuals of one space. With `include_none` zero operations are drawn as well."""

    space: CellSpace
    include_none: bool = False

    @cached_property
    def operations(self) -> tuple[int, ...]:
        """Indices of the operations drawn from."""
        return tuple(range(len(self.space.operations))) if self.include_none else self.space.real

    @cached_property
    def _incoming(self) -> tuple[list[int], ...]:
        return tuple(self.space.incoming(node) for node in self.space.concat) * len(CELL_TYPES)

    @cached_property
    def nodes(self) -> int:
        """Nodes of an individual, both cell types together."""
        return len(self._incoming)

    @cached_property
    def size(self) -> int:
        """How many distinct individuals have two inputs at every node: all of them, but for those
        that `include_none` adds."""
        return prod(comb(len(edges), 2) * len(self.space.real)**2 for edges in self._incoming)

    def node(self, index: int, rng: torch.Generator) -> Node:
        """Two uniform inputs with uniform operations for one node."""
        drawn = sample_node(self._incoming[index], self.operations, rng)
        return tuple(pair for pair in drawn if pair[1] in self.space.real)

    def random(self, rng: torch.Generator) -> Individual:
        """A uniform individual; drawn again where no path leads from an input to the output."""
        while True:
            individual = tuple(self.node(i, rng) for i in range(self.nodes))
            if self.valid(individual):
                return individual

    def valid(self, individual: Individual) -> bool:
        """Whether it is a network; always so without `include_none`."""
        if not self.include_none:
            return True
        try:
            self.decode(individual)
        except ValueError:
            return False
        return True

    def decode(self, individual: Individual) -> Genotype:
        """The very network that is evaluated; a node without inputs leaves the concatenation."""
        cells = [self.space.cell([pair for node in part for pair in node])
                 for part in self._cells(individual)]
        return Genotype(*cells)

    def encode(self, genotype: Genotype) -> Individual:
        """Inverse of `decode` up to the order within a node; ValueError if not of this space."""
        nodes: list[Node] = []
        for kind in CELL_TYPES:
            choices = sorted(self.space.choices(getattr(genotype, kind)))
            nodes += [tuple(c for c in choices if self.space.edges[c[0]][1] == node)
                      for node in self.space.concat]
        return tuple(nodes)

    def mask(self, individual: Individual) -> Tensor:
        """bool [2, edges, operations] on the CPU: C of the paper."""
        edges, operations = len(self.space.edges), len(self.space.operations)
        flat = [(row * edges + e) * operations + o
                for row, part in enumerate(self._cells(individual)) for node in part
                for e, o in node]
        mask = torch.zeros(len(CELL_TYPES) * edges * operations, dtype=torch.bool)
        mask[flat] = True
        return mask.view(len(CELL_TYPES), edges, operations)

    def _cells(self, individual: Individual) -> tuple[Individual, Individual]:
        return individual[:self.nodes // 2], individual[self.nodes // 2:]


def mutate(parent: Individual, coins: Sequence[bool], encoding: Encoding, rng: torch.Generator
           ) -> Individual:
    """Redraw inputs and operations of the nodes whose coin fell heads."""
    return tuple(encoding.node(i, rng) if coin else node
                 for i, (node, coin) in enumerate(zip(parent, coins, strict=True)))


def cross(a: Individual, b: Individual, coins: Sequence[bool]) -> Individual:
    """Each node whole, from `b` where the coin fell heads, else from `a`."""
    return tuple(y if coin else x for x, y, coin in zip(a, b, coins, strict=True))


@dataclass(frozen=True)
class Operators:
    """How children are made: the shares of mutation and crossover (the rest is drawn afresh), the
    probability per node, and whether a node index has one coin for both cell types."""

    mutation: float
    crossover: float
    node_probability: float
    shared_coin: bool

    ATTEMPTS = 64  # a converged population may have no new crossover left: then draw afresh

    def offspring(self, parents: Sequence[Individual], encoding: Encoding, rng: torch.Generator
                  ) -> tuple[list[Individual], Counter[str]]:
        """As many children as parents, distinct from them and from each other, and how many came
        from which operator."""
        known, children, made = set(parents), [], Counter[str]()
        for _ in parents:
            u = float(torch.rand((), generator=rng))
            kind = "mutation" if u < self.mutation else \
                "crossover" if u < self.mutation + self.crossover else "new"
            attempts = 0
            while (child := self._child(kind, parents, encoding, rng)) in known \
                    or not encoding.valid(child):
                attempts += 1
                kind = kind if attempts < self.ATTEMPTS else "new"
            known.add(child)
            children.append(child)
            made[kind] += 1
        return children, made

    def coins(self, encoding: Encoding, rng: torch.Generator) -> list[bool]:
        """One coin per node of an individual."""
        count = encoding.nodes // (2 if self.shared_coin else 1)
        coins = (torch.rand(count, generator=rng) < self.node_probability).tolist()
        return coins * (2 if self.shared_coin else 1)

    def _child(self, kind: str, parents: Sequence[Individual], encoding: Encoding,
               rng: torch.Generator) -> Individual:
        if kind == "new":
            return encoding.random(rng)
        coins = self.coins(encoding, rng)
        a, b = torch.randperm(len(parents), generator=rng)[:2].tolist()
        if kind == "mutation":
            return mutate(parents[a], coins, encoding, rng)
        return cross(parents[a], parents[b], coins)
