"""Signs of collapse (DARTS+, Liang et al., arXiv 1909.06035): skip connections, settled orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from search_spaces.genotype import Genotype
from search_spaces.space import CELL_TYPES, CellSpace

COMPARISONS = ("full", "argmax")
CELL_CHOICES = (*CELL_TYPES, "both")
COLLAPSE_SHARE = 0.5  # of the normal cell's inputs; DARTS+ itself already stops at 2 of 8


def skip_connects(genotype: Genotype, cells: str) -> int:
    """Skip connections of the `normal` or the `reduce` cell, or the larger count for `both`."""
    kinds = CELL_TYPES if cells == "both" else (cells,)
    return max(getattr(genotype, kind).skip_connects() for kind in kinds)


def learnable_order(weights: Tensor, space: CellSpace, row_types: Sequence[int], *, compare: str,
                    cells: str) -> Tensor:
    """The order of the operations with weights on every edge, strongest first.

    weights [rows, edges, operations] -> int64 operation indices [chosen rows, edges, n]: all
    learnable operations (`full`) or the strongest (`argmax`); ties keep the lower index.
    """
    rows = [i for i, t in enumerate(row_types) if cells in ("both", CELL_TYPES[t])]
    columns = torch.tensor(space.learnable)
    table = weights.detach().cpu()[rows][..., columns]
    order = columns[table.argsort(dim=-1, descending=True, stable=True)]
    return order if compare == "full" else order[..., :1]


def stable_since(history: Sequence[Tensor], space: CellSpace, row_types: Sequence[int], *,
                 compare: str = "full", cells: str = "both") -> int | None:
    """The first epoch from which on the learnable order never changed again, None for no history.

    history: the architecture weights after each epoch, from epoch 0. The last epoch itself means
    that the order was still changing when the search ended.
    """
    orders = [learnable_order(w, space, row_types, compare=compare, cells=cells) for w in history]
    since = None
    for epoch in range(len(orders) - 1, -1, -1):
        if not torch.equal(orders[epoch], orders[-1]):
            break
        since = epoch
    return since


def order_stable_since(history: Sequence[Tensor], space: CellSpace, row_types: Sequence[int]
                       ) -> dict[str, int | None]:
    """Per cell type the epoch from which on the full learnable order stayed as it ended; None where
    it still changed in the last epoch (or there is nothing to order)."""
    found: dict[str, int | None] = {}
    for t, kind in enumerate(CELL_TYPES):
        watched = bool(history) and bool(space.learnable) and t in row_types
        since = stable_since(history, space, row_types, cells=kind) if watched else None
        found[kind] = None if since == len(history) - 1 else since
    return found


def collapse_warning(genotype: Genotype) -> str | None:
    """A sentence when more than half of the normal cell's inputs are skip connections, else None.

    A sign, not a verdict: ASAP's published normal cell has 5 of 8 and is good.
    """
    skips, inputs = genotype.normal.skip_connects(), len(genotype.normal.edges)
    if skips <= COLLAPSE_SHARE * inputs:
        return None
    return (f"{skips} of the {inputs} inputs of the derived normal cell are skip connections: the "
            "search has probably collapsed; compare with random sampling, or search with "
            "early_stop=skip_count")


def diagnosis_plots(genotypes: Sequence[Genotype], weights: Sequence[Tensor], space: CellSpace,
                    row_types: Sequence[int]) -> list[dict[str, Any]]:
    """Figures of a search's epochs: skip connections of the derived cells, and per cell type the
    architecture weight of every operation, mean over edges (and over cells of their own).

    genotypes, weights [rows, edges, operations]: one per epoch, from epoch 0; no weights, no figure
    of them. Returned in the form of `Strategy.plots`.
    """
    skips = {kind: [(epoch, getattr(genotype, kind).skip_connects())
                    for epoch, genotype in enumerate(genotypes)] for kind in CELL_TYPES}
    figures: list[dict[str, Any]] = [
        {"name": "skip_connects", "title": "Skip connections of the derived cells",
         "x_label": "epoch", "y_label": "skip connections", "series": skips}]
    for t, kind in enumerate(CELL_TYPES):
        rows = [i for i, row_type in enumerate(row_types) if row_type == t]
        if not rows or not weights:
            continue
        means = [w.detach().cpu()[rows].mean(dim=(0, 1)).tolist() for w in weights]
        figures.append({
            "name": f"operation_weights_{kind}", "x_label": "epoch", "y_label": "mean weight",
            "title": f"Operations of the {kind} cell, mean over edges",
            "series": {name: [(epoch, mean[o]) for epoch, mean in enumerate(means)]
                       for o, name in enumerate(space.operations)}})
    return figures
