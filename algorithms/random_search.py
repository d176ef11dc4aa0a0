"""Random search with weight sharing, and random sampling (Li & Talwalkar, UAI 2019).

* `sample_genotype`: uniform over the space: per node two distinct inputs, each with a uniform real
  operation.
* Training: each step draws one fresh cell pair and trains only its weights (single-path sharing).
* After the last epoch N candidates are scored on `search_valid` under the shared weights; the best
  is returned. N = 1 is pure random *sampling*: nothing is scored, and no weights need training.

Departures
1. `none` is not drawn: the derived network would not be the sampled one.
2. Candidates are scored on all of `search_valid`, not on one batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from algorithms.strategy import Batch, Derived, Metrics, Problem, Strategy, check
from search_spaces import Genotype, Mixing
from search_spaces.sampling import sample_genotype


class RandomSearch(Strategy):
    """candidates: N, how many cells are scored; epochs: when scoring happens (search.epochs)."""

    needs_valid = False

    def __init__(self, candidates: int, epochs: int):
        check(candidates >= 1, "candidates", "at least 1", candidates)
        self.candidates, self.epochs = candidates, epochs

    def setup(self, problem: Problem) -> None:
        super().setup(problem)
        self.cells = [sample_genotype(self.supernet.space, problem.rng)
                      for _ in range(self.candidates)]
        self.errors: list[float] = []
        self._ones = self.supernet.place(torch.ones(self.supernet.mixing_shape))

    def _code(self, genotype: Genotype) -> Mixing:
        """Weight 1 for what is live; nothing is sent to the device at a step."""
        network = self.supernet
        code = network.space.one_hot(genotype)[list(network.row_types)]
        return Mixing(self._ones, code != 0)

    def mixing(self) -> Mixing:
        return self._code(self._best())

    def _best(self) -> Genotype:
        if not self.errors:
            return self.cells[0]
        return self.cells[min(range(len(self.errors)), key=self.errors.__getitem__)]

    def search_step(self, train: Batch, valid: Batch | None) -> dict[str, Tensor]:
        cell = sample_genotype(self.supernet.space, self.problem.rng)
        return self.problem.weights.step(train, [self._code(cell)])

    def on_epoch_end(self, epoch: int) -> Metrics:
        if epoch + 1 < self.epochs or self.candidates == 1:
            return {}
        self.errors = [self.problem.score(self._code(cell)) for cell in self.cells]
        return {"candidates_scored": len(self.errors), "candidate_best_error": min(self.errors)}

    def should_stop(self) -> str | None:
        return "one random sample: there is nothing to train" if self.candidates == 1 else None

    def derive(self) -> list[Derived]:
        n = self.candidates
        rule = "one uniform sample" if n == 1 else \
            f"best of {n} uniform samples under shared weights"
        accuracy = 100 - min(self.errors) if self.errors else None
        return [Derived(f"random (N={n})", self._best(), rule, accuracy)]

    def state_dict(self) -> dict[str, Any]:
        return {"cells": [cell.to_dict() for cell in self.cells], "errors": list(self.errors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cells = [Genotype.from_dict(cell) for cell in state["cells"]]
        self.errors = list(state["errors"])
