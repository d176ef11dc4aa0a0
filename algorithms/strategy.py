"""The contract between a search algorithm and the benchmark.

A strategy is handed its problem (a search network, the trainer of its weights, a scorer), is timed
by someone else and scored by someone else. It owns architecture parameters and nothing more: no
data loading, clock, logging or device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from search_spaces import Genotype, Mixing, SearchNetwork

Batch = tuple[Tensor, Tensor]
Metrics = dict[str, Any]


@dataclass(frozen=True)
class Gradients:
    """Of the mean cross entropy of one batch, in train mode.

    mixing: like `Mixing.weights`; weights: one tensor per network parameter (zeros where unused),
    empty unless asked for.
    """

    loss: Tensor
    mixing: Tensor
    weights: list[Tensor]


class Weights(Protocol):
    """The trainer's side of the shared weights: precision, backward, clipping and the optimiser."""

    lr: float
    momentum: float
    weight_decay: float

    def step(self, batch: Batch, mixing: Mixing | Sequence[Mixing], *,
             mixing_gradient: bool = False) -> dict[str, Tensor]:
        """One SGD step on the mean loss over the given mixings; a sequence says that they are
        sampled anew at each step.

        Returns device scalars `train_loss`, `train_accuracy` (percent) and, on request (single
        mixing), `mixing_gradient`, shaped like the mixing weights. Weights that no mixing uses stay
        untouched: no gradient, no momentum, no decay.
        """
        ...

    def gradients(self, batch: Batch, mixing: Mixing, *, weights: bool = False,
                  full_precision: bool = False) -> Gradients:
        """Gradients at the current weights; nothing is updated but batch-norm statistics.
        `full_precision` runs in float32 without TF32 whatever the configured precision."""
        ...

    def at(self, displaced: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Within, the parameters have these values and batch-norm statistics do not move; after,
        everything is exactly as before."""
        ...

    def values(self) -> list[Tensor]:
        """The parameters themselves (detached views), in network order."""
        ...

    def momentum_buffers(self) -> list[Tensor]:
        """The optimiser's momentum, zeros where there is none yet."""
        ...

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all weights and statistics, for `score(..., weights=snapshot)`."""
        ...


class Score(Protocol):
    def __call__(self, mixing: Mixing, *, weights: dict[str, Tensor] | None = None,
                 batch_norm: str | None = None) -> float:
        """Error in percent on `search_valid` under current or given weights. batch_norm: `running`
        statistics, `batch` statistics, `recalibrated` (on search_train), None: as configured."""
        ...


@dataclass
class Problem:
    """What a strategy is given to solve.

    batches(split, n, seed) -> n extra batches without augmentation from `search_train` or
    `search_valid`; measure(genotype, names) -> {name: number} for costs named `params`,
    `mult_adds`, `latency_ms` of the final network at retraining scale; `with timed(name):` reports
    the seconds within apart.
    """

    supernet: SearchNetwork
    weights: Weights
    score: Score
    batches: Callable[[str, int, int], list[Batch]]
    measure: Callable[[Genotype, Sequence[str]], dict[str, float]]
    rng: torch.Generator
    timed: Callable[[str], AbstractContextManager[None]] = field(default=lambda name: nullcontext())


@dataclass(frozen=True)
class Derived:
    """A genotype a search returns. `derivation` says by which rule, in words; `extra` is recorded
    beside it. Without `supernet_valid_accuracy` (percent) the search network's own is recorded."""

    name: str
    genotype: Genotype
    derivation: str
    supernet_valid_accuracy: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Strategy(ABC):
    """Constructor arguments come from `conf/algorithm/NAME.yaml`; ValueError names a bad one."""

    needs_valid = True  # whether search_step reads its second batch
    latency_device: str | None = None  # where `latency_ms` is measured; None: as the run
    problem: Problem

    def setup(self, problem: Problem) -> None:
        """Take the problem and create the architecture parameters."""
        self.problem = problem

    @property
    def supernet(self) -> SearchNetwork:
        return self.problem.supernet

    @abstractmethod
    def search_step(self, train: Batch, valid: Batch | None) -> dict[str, Tensor]:
        """Architecture and weight step(s) on one batch of each split; returns device scalars, at
        least `train_loss` and `train_accuracy`, averaged over the epoch by the caller. Must not
        wait for the device."""

    def on_epoch_end(self, epoch: int) -> Metrics:
        """Anneal, prune, re-estimate, evolve; returns plain numbers to record with the epoch."""
        return {}

    def should_stop(self) -> str | None:
        """The reason to end the search, or None; asked before the first epoch and after each."""
        return None

    @abstractmethod
    def mixing(self) -> Mixing:
        """The architecture whose accuracy the trainer records each epoch, detached."""

    @abstractmethod
    def derive(self) -> list[Derived]:
        """The result so far: one genotype, or a family. Cheap, valid at any time."""

    def architecture_weights(self) -> Tensor | None:
        """[rows, edges, operations] on the CPU, for early stopping, logs and plots."""
        return None

    def plots(self, history: list[Metrics]) -> list[dict[str, Any]]:
        """Figures from the recorded epochs: dicts with `name`, `title`, `x_label`, `y_label` and
        `series` {label: [(x, y), ...]}; optional `kind` "line" (default) or "scatter", and
        `retrained`: a size to put the retrained networks at, with their test error."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain Python: all that resuming needs beyond weights and generators."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - nothing to do
        """Continue from `state_dict`."""


def check(condition: bool, key: str, allowed: str, got: object) -> None:
    """ValueError `algorithm.KEY: must be ALLOWED, got GOT` unless the condition holds."""
    if not condition:
        raise ValueError(f"algorithm.{key}: must be {allowed}, got {got!r}")
