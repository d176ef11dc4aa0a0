"""Scoring an architecture on `search_valid` under shared weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
        self._tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        self._norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        self._statistics_of = [b for m in self._norms for b in m.buffers()]
        self._scratch: list[Tensor] = []  # batch-norm statistics that may be spoilt

    def __call__(self, mixing: Mixing, *, weights: dict[str, Tensor] | None = None,
                 batch_norm: str | None = None) -> float:
        with self.clock("evaluation"):
            return self.loss_and_error(mixing, weights=weights, batch_norm=batch_norm)[1]

    def loss_and_error(self, mixing: Mixing, *, weights: dict[str, Tensor] | None = None,
                       batch_norm: str | None = None) -> tuple[float, float]:
        """Mean cross entropy and error in percent; weights and statistics end as they began."""
        with self._weights(weights), self._statistics(mixing, batch_norm or self.batch_norm):
            sums, count = [], 0
            with torch.inference_mode():
                for x, y in self.valid():
                    with self.precision.context():
                        logits = self.network(x, mixing)
                    loss = cross_entropy(logits.float(), y, reduction="sum")
                    correct = (logits.argmax(dim=1) == y).sum()
                    sums.append(torch.stack([loss.double(), correct.double()]))
                    count += len(y)
                loss_sum, right = torch.stack(sums).sum(dim=0).tolist()  # the only wait
        return loss_sum / count, 100 - 100 * right / count

    @contextmanager
    def _weights(self, weights: dict[str, Tensor] | None) -> Iterator[None]:
        if weights is None:
            yield
            return
        with _pointing_at([self._tensors[key] for key in weights], list(weights.values())):
            yield

    @contextmanager
    def _statistics(self, mixing: Mixing, policy: str) -> Iterator[None]:
        assert policy in BATCH_NORMS
        training = self.network.training
        try:
            if policy == "running":
                self._mode(False)
                yield
                return
            if not self._scratch:
                self._scratch = [b.clone() for b in self._statistics_of]
            with _pointing_at(self._statistics_of, self._scratch):
                if policy == "recalibrated":
                    self._recalibrate(mixing)
                self._mode(policy == "batch")
                yield
        finally:
            self._mode(training)

    def _mode(self, training: bool) -> None:
        if self.network.training != training:  # thousands of modules: it takes milliseconds
            self.network.train(training)

    def _recalibrate(self, mixing: Mixing) -> None:
        momenta = [m.momentum for m in self._norms]
        try:
            for norm in self._norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain average over the calibration batches
            self._mode(True)
            with torch.no_grad():
                for x, _ in self.calibration():
                    with self.precision.context():
                        self.network(x, mixing)
        finally:
            for norm, momentum in zip(self._norms, momenta, strict=True):
                norm.momentum = momentum


@contextmanager
def _pointing_at(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Within, the tensors have these values; nothing is copied, so it costs no device time."""
    kept = [tensor.data for tensor in tensors]
    try:
        for tensor, value in zip(tensors, values, strict=True):
            tensor.data = value.to(tensor)  # itself where device and type agree
        yield
    finally:
        for tensor, data in zip(tensors, kept, strict=True):
            tensor.data = data
