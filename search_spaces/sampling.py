"""Uniform random cells: per node two distinct inputs, each with its own uniform operation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from search_spaces.genotype import Cell, Genotype
from search_spaces.space import CellSpace


def sample_node(incoming: Sequence[int], operations: Sequence[int], rng: torch.Generator
                ) -> list[tuple[int, int]]:
    """Two distinct edges of `incoming` (one where only one exists), in index order, each with a
    uniform one of `operations`: (edge, operation) pairs."""
    order = torch.randperm(len(incoming), generator=rng).tolist()[:2]
    draws = torch.randint(len(operations), (2,), generator=rng).tolist()
    return [(incoming[i], operations[o]) for i, o in zip(sorted(order), draws, strict=False)]


def sample_cell(space: CellSpace, rng: torch.Generator) -> Cell:
    """Two inputs per node with real operations: `none` is never drawn."""
    return space.cell([pair for node in space.concat
                       for pair in sample_node(space.incoming(node), space.real, rng)])


def sample_genotype(space: CellSpace, rng: torch.Generator) -> Genotype:
    """A normal and a reduction cell, independent."""
    return Genotype(sample_cell(space, rng), sample_cell(space, rng))
