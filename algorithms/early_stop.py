"""When to end a search early: the criteria of DARTS+ (Liang et al., arXiv 1909.06035).

* `SkipCount`: criterion 1, the derived cell holds `limit` (2) or more skip connections.
* `RankStable`: criterion 1* (criterion 2 of the second version), the order of the architecture
  weights of the learnable operations has not changed for `epochs` (10) epochs.

A criterion is a part of its own, so that it works under any strategy with the state it watches. It
is asked once at the end of every epoch, never before the first (a random start already derives two
skips in a third of the draws). The genotype of the epoch that fires is the result.

Where the paper is silent
1. Criterion 1 watches `cells: normal`, as the second version is quoted; the first says "in one
   cell". `both` fires on the cell type with more of them.
2. Criterion 1* compares the `full` order of the learnable operations on every edge of the normal
   cell, the literal reading. The search costs of the paper's tables (0.6 GPU-days where criterion 1
   stops at epoch 35 with 0.4) put it at about epoch 50, so it has to be the slower of the two.
   `argmax` compares only the best learnable operation of each edge.
3. `epochs: n` asks for n epochs in a row without a change against the epoch before; epochs that do
   not move the weights at all (ASAP's grace, a warm-up) are not counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from search_spaces import CellSpace, Genotype
from search_spaces.diagnosis import CELL_CHOICES, COMPARISONS, learnable_order, skip_connects


def _check(condition: bool, key: str, allowed: str, got: object) -> None:
    if not condition:
        raise ValueError(f"early_stop.{key}: must be {allowed}, got {got!r}")


class EarlyStop(ABC):
    """A stopping rule; whatever it remembers is in `state_dict` (plain Python and tensors)."""

    def prepare(self, architecture_weights: Tensor | None,  # noqa: B027 - most watch nothing
                space: CellSpace) -> None:
        """Before the first epoch: ValueError when there is nothing this rule could watch."""

    @abstractmethod
    def check(self, epoch: int, genotype: Genotype, architecture_weights: Tensor | None,
              space: CellSpace, row_types: Sequence[int]) -> str | None:
        """To be called once at the end of every epoch, in order, with the derived genotype and the
        architecture weights [rows, edges, operations]; why the search should end now, or None."""

    def metrics(self) -> dict[str, int]:
        """Numbers to record with the epoch just checked."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (optional to override)
        """Continue from `state_dict`."""


class Never(EarlyStop):
    """The whole budget is used."""

    def check(self, epoch: int, genotype: Genotype, architecture_weights: Tensor | None,
              space: CellSpace, row_types: Sequence[int]) -> None:
        return None


class SkipCount(EarlyStop):
    """limit: so many skip connections end the search; cells: normal, reduce, both (whichever has
    more); min_epoch: the first epoch, counted from 0, at whose end it may fire."""

    def __init__(self, limit: int, cells: str, min_epoch: int):
        _check(limit >= 1, "limit", "at least 1", limit)
        _check(cells in CELL_CHOICES, "cells", " or ".join(CELL_CHOICES), cells)
        _check(min_epoch >= 0, "min_epoch", "at least 0", min_epoch)
        self.limit, self.cells, self.min_epoch = limit, cells, min_epoch

    def check(self, epoch: int, genotype: Genotype, architecture_weights: Tensor | None,
              space: CellSpace, row_types: Sequence[int]) -> str | None:
        if epoch < self.min_epoch or skip_connects(genotype, self.cells) < self.limit:
            return None
        kind = self.cells if self.cells != "both" else \
            max(("normal", "reduce"), key=lambda k: skip_connects(genotype, k))
        return (f"skip_count: {skip_connects(genotype, kind)} skip connections in the derived "
                f"{kind} cell after epoch {epoch} (limit {self.limit})")


class RankStable(EarlyStop):
    """epochs: so many epochs in a row without a change end the search; compare: full or argmax;
    cells: normal, reduce, both; min_epoch: the first epoch at whose end it may fire (the count runs
    before it too). Needs architecture weights and two or more learnable operations."""

    def __init__(self, epochs: int, compare: str, cells: str, min_epoch: int):
        _check(epochs >= 1, "epochs", "at least 1", epochs)
        _check(compare in COMPARISONS, "compare", " or ".join(COMPARISONS), compare)
        _check(cells in CELL_CHOICES, "cells", " or ".join(CELL_CHOICES), cells)
        _check(min_epoch >= 0, "min_epoch", "at least 0", min_epoch)
        self.epochs, self.compare, self.cells, self.min_epoch = epochs, compare, cells, min_epoch
        self._order: Tensor | None = None
        self._weights: Tensor | None = None
        self._stable = 0

    def prepare(self, architecture_weights: Tensor | None, space: CellSpace) -> None:
        if architecture_weights is None:
            raise ValueError("early_stop: rank_stable watches architecture weights, which this "
                             "algorithm does not have; use early_stop=skip_count or none")
        if len(space.learnable) < 2:
            raise ValueError("early_stop: rank_stable needs two or more operations with weights in "
                             f"search_space.operations, got {len(space.learnable)}")

    def check(self, epoch: int, genotype: Genotype, architecture_weights: Tensor | None,
              space: CellSpace, row_types: Sequence[int]) -> str | None:
        assert architecture_weights is not None
        order = learnable_order(architecture_weights, space, row_types, compare=self.compare,
                                cells=self.cells)
        if not len(order):
            raise ValueError(f"early_stop.cells: the search network has no {self.cells} cell of "
                             "its own; use both or more search.cells")
        same = self._order is not None and torch.equal(order, self._order)
        moved = self._weights is None or not torch.equal(architecture_weights, self._weights)
        self._weights = architecture_weights
        if moved:  # an epoch that did not train them (grace, warm-up) says nothing
            self._stable, self._order = (self._stable + 1 if same else 0), order
        if epoch < self.min_epoch or self._stable < self.epochs:
            return None
        what = "full order" if self.compare == "full" else "best"
        cells = "both cells" if self.cells == "both" else f"the {self.cells} cell"
        return (f"rank_stable: the {what} of the learnable operations on every edge of {cells} has "
                f"not changed for {self._stable} epochs, after epoch {epoch}")

    def metrics(self) -> dict[str, int]:
        return {"stable_epochs": self._stable}

    def state_dict(self) -> dict[str, Any]:
        return {"order": self._order, "stable": self._stable, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order, self._stable = state["order"], state["stable"]
        self._weights = state["weights"]
