"""From architecture weights to a genotype (DARTS section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from search_spaces.genotype import Cell, Genotype
from search_spaces.space import CellSpace


def top_two(weights: Tensor, space: CellSpace, edge_strength: Tensor | None = None) -> Cell:
    """Keep per node the two strongest incoming edges, each with its best real operation.

    weights: [edges, operations], usually a softmax; zero operations are never chosen but, being in
    the softmax, weaken their edge. edge_strength [edges] replaces "the largest real weight". Edges
    are listed in descending strength; ties keep the lower source and the lower operation index.
    """
    table = weights.detach().double().cpu()[:, list(space.real)]
    best = [max(range(table.shape[1]), key=row.__getitem__) for row in table.tolist()]
    strength = (table.max(dim=1).values if edge_strength is None else edge_strength).tolist()
    chosen = []
    for node in space.concat:
        ranked = sorted(space.incoming(node), key=lambda e: -strength[e])
        chosen += [(e, space.real[best[e]]) for e in ranked[:2]]
    return space.cell(chosen)


def derive_top_two(weights: Tensor, space: CellSpace, row_types: Sequence[int]) -> Genotype:
    """weights [rows, edges, operations] -> genotype; rows of one cell type are averaged."""
    rows = {kind: [i for i, t in enumerate(row_types) if t == kind] for kind in (0, 1)}
    cells = [top_two(weights[rows[kind]].mean(dim=0), space) for kind in (0, 1)]
    return Genotype(*cells)
