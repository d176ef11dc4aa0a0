"""The cell search space: candidate operations on every edge of a small directed acyclic graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from search_spaces.genotype import Cell, Genotype
from search_spaces.operations import get_operation

CELL_TYPES = ("normal", "reduce")


@dataclass(frozen=True)
class CellSpace:
    """`operations` in index order; `nodes` intermediate nodes, each fed by all earlier ones.

    Edge order everywhere: by destination node, then by source (DARTS 1.1); with four nodes
    2+3+4+5 = 14 edges. Raises ValueError for no or unknown operations or fewer than one node.
    """

    operations: tuple[str, ...]
    nodes: int = 4

    def __post_init__(self) -> None:
        if not self.operations:
            raise ValueError("search_space.operations: name at least one operation")
        if len(set(self.operations)) != len(self.operations):
            raise ValueError("search_space.operations: an operation is named twice")
        try:
            if all(get_operation(name).zero for name in self.operations):
                raise ValueError("only zero operations, nothing could be derived")
        except ValueError as error:
            raise ValueError(f"search_space.operations: {error}") from None
        if not 1 <= self.nodes <= 16:
            raise ValueError(f"search_space.nodes: 1 to 16, got {self.nodes}")

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(source, destination) of every edge, in edge order."""
        return tuple((s, d) for d in range(2, 2 + self.nodes) for s in range(d))

    @cached_property
    def concat(self) -> tuple[int, ...]:
        """The output of a derived cell: all intermediate nodes, in order."""
        return tuple(range(2, 2 + self.nodes))

    def incoming(self, node: int) -> list[int]:
        """Edge indices that end in `node`, by source."""
        return [i for i, (_, d) in enumerate(self.edges) if d == node]

    @cached_property
    def real(self) -> tuple[int, ...]:
        """Indices of the operations that compute something (all but zero operations)."""
        return tuple(i for i, n in enumerate(self.operations) if not get_operation(n).zero)

    @cached_property
    def learnable(self) -> tuple[int, ...]:
        """Indices of the operations with weights at stride 1 (convolutions)."""
        return tuple(i for i, n in enumerate(self.operations) if get_operation(n).learnable)

    @cached_property
    def skips(self) -> tuple[int, ...]:
        """Indices of the skip connections."""
        return tuple(i for i, n in enumerate(self.operations) if get_operation(n).identity)

    def cell(self, chosen: Sequence[tuple[int, int]]) -> Cell:
        """The cell that keeps the given (edge, operation) indices, in that order; nodes that lose
        every input leave the concatenation."""
        edges = tuple((self.operations[o], *self.edges[e]) for e, o in chosen)
        fed = {d for _, _, d in edges}
        return Cell(edges, tuple(n for n in self.concat if n in fed))

    def choices(self, cell: Cell) -> list[tuple[int, int]]:
        """(edge, operation) indices of a cell of this space; ValueError if it is not one."""
        out = []
        for op, source, target in cell.edges:
            if op not in self.operations or (source, target) not in self.edges:
                raise ValueError(f"({op}, {source} -> {target}) is not in this search space")
            out.append((self.edges.index((source, target)), self.operations.index(op)))
        return out

    def one_hot(self, genotype: Genotype) -> Tensor:
        """[2, edges, operations]: how often each (edge, operation) occurs in the genotype."""
        code = torch.zeros(len(CELL_TYPES), len(self.edges), len(self.operations))
        for row, kind in enumerate(CELL_TYPES):
            for e, o in self.choices(getattr(genotype, kind)):
                code[row, e, o] += 1
        return code
