"""Small-sample statistics: spreads, intervals, a paired test, rank correlation.

Random numbers come from a generator with a fixed seed: the same records give the same table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
EXACT_UP_TO = 16      # 65,536 sign patterns
RESAMPLES = 10_000
MIN_PAIRS = 5         # below, a rank correlation says nothing


@dataclass(frozen=True)
class Summary:
    """n values: mean, standard deviation (n - 1; None for one value), lowest."""

    n: int
    mean: float
    std: float | None
    best: float

    def interval(self) -> tuple[float, float] | None:
        """Student's t interval of the mean at CONFIDENCE; None for one value."""
        if self.std is None:
            return None
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, self.n - 1)) * self.std / math.sqrt(self.n)
        return self.mean - half, self.mean + half


def summarise(values: Sequence[float]) -> Summary:
    """ValueError on no values."""
    if not len(values):
        raise ValueError("no values to summarise")
    data = np.asarray(values, dtype=float)
    std = float(data.std(ddof=1)) if data.size > 1 else None
    return Summary(data.size, float(data.mean()), std, float(data.min()))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean at CONFIDENCE; None below three values, where
    resampling has next to nothing to draw from."""
    data = np.asarray(values, dtype=float)
    if data.size < 3:
        return None
    rng = np.random.default_rng(0)
    means = data[rng.integers(0, data.size, (RESAMPLES, data.size))].mean(axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def sign_flip_test(differences: Sequence[float]) -> float | None:
    """Two-sided p of "the mean paired difference is zero": every pattern of signs up to n = 16
    (the smallest possible p is 2 / 2^n), sampled patterns above; None without a pair."""
    data = np.asarray(differences, dtype=float)
    if not data.size:
        return None
    if data.size <= EXACT_UP_TO:
        bits: NDArray[np.int64] = np.arange(2 ** data.size)[:, None] >> np.arange(data.size)
        signs = 1.0 - 2.0 * (bits & 1)
        extra = 0
    else:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (RESAMPLES, data.size))
        extra = 1  # the observed pattern itself
    observed = abs(data.sum())
    as_extreme = int((np.abs(signs @ data) >= observed * (1 - 1e-12) - 1e-12).sum())
    return (as_extreme + extra) / (len(signs) + extra)


def kendall_tau(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's tau-b; None below MIN_PAIRS pairs or when one side is constant."""
    if len(x) < MIN_PAIRS:
        return None
    tau = float(stats.kendalltau(x, y).statistic)
    return None if math.isnan(tau) else tau


def relative_improvement(error: float, random_error: float) -> float:
    """100 (Acc - Acc_random) / Acc_random of two errors in percent (Yang et al., ICLR 2020)."""
    return 100 * (random_error - error) / (100 - random_error)
