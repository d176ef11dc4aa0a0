"""Scoring an architecture on `search_valid` under shared weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from algorithms.strategy import Batch
from nasbench.clock import Clock
from nasbench.precision import Precision
from search_spaces import Mixing, SearchNetwork

BATCH_NORMS = ("running", "batch", "recalibrated")


class Scorer:
    """`scorer(mixing) -> error in percent` on the whole validation split.

    batch_norm: `running` statistics (the original DARTS code), `batch` statistics of each scoring
    batch (the DARTS paper: "batch-specific statistics"), or `recalibrated`: running statistics
    re-estimated for this mixing on `calibration` batches of search_train, then put back.
    """

    def __init__(self, network: SearchNetwork, valid: Callable[[], Iterable[Batch]],
                 calibration: Callable[[], list[Batch]], *, batch_norm: str, precision: Precision,
                 clock: Clock):
        if batch_norm not in BATCH_NORMS:
            raise ValueError(f"search.batch_norm: must be one of {', '.join(BATCH_NORMS)}, "
                             f"got {batch_norm!r}")
        self.network, self.valid, self.calibration = network, valid, calibration
        self.batch_norm, self.precision, self.clock = batch_norm, precision, clock
        self._norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]

    def __call__(self, mixing: Mixing, *, weights: dict[str, Tensor] | None = None,
                 batch_norm: str | None = None) -> float:
        with self.clock("evaluation"):
            return self.loss_and_error(mixing, weights=weights, batch_norm=batch_norm)[1]

    def loss_and_error(self, mixing: Mixing, *, weights: dict[str, Tensor] | None = None,
                       batch_norm: str | None = None) -> tuple[float, float]:
        """Mean cross entropy and error in percent; weights and statistics end as they began."""
        with self._weights(weights), self._statistics(mixing, batch_norm or self.batch_norm):
            loss = correct = torch.zeros((), dtype=torch.float64)
            count = 0
            with torch.inference_mode():
                for x, y in self.valid():
                    with self.precision.context():
                        logits = self.network(x, mixing)
                    loss = loss.to(x.device) + cross_entropy(logits.float(), y, reduction="sum")
                    correct = correct.to(x.device) + (logits.argmax(dim=1) == y).sum()
                    count += len(y)
        return float(loss) / count, 100 - 100 * float(correct) / count

    @contextmanager
    def _weights(self, weights: dict[str, Tensor] | None) -> Iterator[None]:
        if weights is None:
            yield
            return
        kept = {key: value.clone() for key, value in self.network.state_dict().items()}
        try:
            self.network.load_state_dict(weights)
            yield
        finally:
            self.network.load_state_dict(kept)

    @contextmanager
    def _statistics(self, mixing: Mixing, policy: str) -> Iterator[None]:
        assert policy in BATCH_NORMS
        training = self.network.training
        momenta = [m.momentum for m in self._norms]
        kept = [[b.clone() for b in m.buffers()] for m in self._norms] \
            if policy == "recalibrated" else None
        try:
            if kept is not None:
                for norm in self._norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # a plain average over the calibration batches
                self.network.train()
                with torch.no_grad():
                    for x, _ in self.calibration():
                        with self.precision.context():
                            self.network(x, mixing)
            self.network.train(policy == "batch")
            for norm in self._norms:
                norm.momentum = 0.0
            yield
        finally:
            for norm, momentum in zip(self._norms, momenta, strict=True):
                norm.momentum = momentum
            if kept is not None:
                for norm, values in zip(self._norms, kept, strict=True):
                    for buffer, value in zip(norm.buffers(), values, strict=True):
                        buffer.copy_(value)
            self.network.train(training)
