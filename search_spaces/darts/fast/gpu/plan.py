"""What a live set computes in a cell, source node by source node, in an order that batches.

Convolutions out of one node read the same feature map, so they are grouped; within a group the
terms are ordered in levels: first the first operation of every edge, then the second of those edges
that have two, and so on, so that their sum per edge is a sum of prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from search_spaces.darts.fast.terms import Stage, Term

POOLED = ("max", "avg", "skip")  # what needs no weights of its own


@dataclass(frozen=True)
class Group:
    """Terms of one source that run together. levels: how many edges have a first, second, ...
    operation; targets: the destination node of every edge, as in the first level."""

    terms: tuple[Term, ...]
    levels: tuple[int, ...]
    targets: tuple[int, ...]

    @property
    def stages(self) -> list[list[Stage]]:
        """First, second, ... stage of all terms."""
        return [list(stages) for stages in zip(*(t.stages for t in self.terms), strict=True)]


@dataclass(frozen=True)
class Pooled:
    """Pools and skips of one source. kinds: which maps exist; terms[kind]: its live terms; targets:
    destinations; slots: per (target, kind) the flat index of its mixing weight, None where dead."""

    kinds: tuple[str, ...]
    terms: dict[str, tuple[Term, ...]]
    targets: tuple[int, ...]
    slots: tuple[int | None, ...]


@dataclass(frozen=True)
class SourcePlan:
    """Everything that leaves one node."""

    separable: Group | None
    dilated: Group | None
    points: Group | None
    pooled: Pooled | None
    library: tuple[tuple[Term, int], ...]  # with the destination

    @property
    def convolutions(self) -> list[Group]:
        """Those that start with a depthwise convolution."""
        return [g for g in (self.separable, self.dilated) if g]

    @property
    def depthwise(self) -> list[list[Stage]]:
        """The first stages of all convolutions, which read the node, then the second ones."""
        groups = self.convolutions
        first = [stage for g in groups for stage in g.stages[0]]
        return [first, *(stages for g in groups for stages in g.stages[1:])] if first else []

    def slots(self, operations: int) -> list[list[int | None]]:
        """Flat indices of the mixing weights, one list per part, in the order they are used."""
        groups = self.convolutions + ([self.points] if self.points else [])
        out: list[list[int | None]] = [[_slot(t, operations) for t in g.terms] for g in groups]
        if self.pooled:
            out.append(list(self.pooled.slots))
        return out + [[_slot(t, operations)] for t, _ in self.library]


@dataclass(frozen=True)
class CellPlan:
    """Per source node 0, 1, ..., the last but one."""

    sources: tuple[SourcePlan, ...]
    operations: int

    @cached_property
    def slots(self) -> list[list[int | None]]:
        return [part for s in self.sources for part in s.slots(self.operations)]

    @cached_property
    def pointwise(self) -> list[list[Tensor]]:
        """Weights of the pointwise convolutions, one list per stage, in the order of use."""
        return [[stage.pointwise.weight for stage in stages] for s in self.sources
                for group in s.convolutions for stages in group.stages]

    @cached_property
    def depthwise(self) -> list[list[Tensor]]:
        """Weights of the depthwise convolutions that run together, in the order of use."""
        return [[stage.depthwise.weight for stage in stages] for s in self.sources
                for stages in s.depthwise]


def _slot(term: Term, operations: int) -> int:
    return term.edge * operations + term.operation


def plan_cell(terms: Sequence[Sequence[Term]], edges: Sequence[tuple[int, int]], operations: int
              ) -> CellPlan:
    """From the live terms per node."""
    live = [t for node in terms for t in node]
    last = max(d for _, d in edges)
    return CellPlan(tuple(_plan_source([t for t in live if t.source == s], edges, operations)
                          for s in range(last)), operations)


def _plan_source(terms: list[Term], edges: Sequence[tuple[int, int]], operations: int
                 ) -> SourcePlan:
    convolutions = [t for t in terms if t.kind == "conv"]
    return SourcePlan(_group([t for t in convolutions if len(t.stages) == 2], edges),
                      _group([t for t in convolutions if len(t.stages) == 1], edges),
                      _group([t for t in terms if t.kind == "point"], edges),
                      _pooled([t for t in terms if t.kind in POOLED], edges, operations),
                      tuple((t, edges[t.edge][1]) for t in terms if t.kind == "library"))


def _group(terms: list[Term], edges: Sequence[tuple[int, int]]) -> Group | None:
    if not terms:
        return None
    per_edge: dict[int, list[Term]] = {}
    for t in terms:
        per_edge.setdefault(t.edge, []).append(t)
    order = sorted(per_edge, key=lambda e: -len(per_edge[e]))
    levels = [[per_edge[e][i] for e in order if len(per_edge[e]) > i]
              for i in range(len(per_edge[order[0]]))]
    return Group(tuple(t for level in levels for t in level), tuple(len(x) for x in levels),
                 tuple(edges[e][1] for e in order))


def _pooled(terms: list[Term], edges: Sequence[tuple[int, int]], operations: int) -> Pooled | None:
    if not terms:
        return None
    kinds = tuple(k for k in POOLED if any(t.kind == k for t in terms))
    at = {(t.edge, t.kind): _slot(t, operations) for t in terms}
    leaving = sorted({t.edge for t in terms})
    return Pooled(kinds, {k: tuple(t for t in terms if t.kind == k) for k in kinds},
                  tuple(edges[e][1] for e in leaving),
                  tuple(at.get((e, k)) for e in leaving for k in kinds))
