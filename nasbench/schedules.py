"""Learning-rate schedules: functions of the epoch alone, so that resuming needs no state."""

from __future__ import annotations

import math


def cosine(epoch: int, epochs: int, start: float, end: float) -> float:
    """end + (start - end) (1 + cos(pi epoch / epochs)) / 2, epochs from 0 (DARTS)."""
    return end + (start - end) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def learning_rate(epoch: int, *, schedule: str, epochs: int, start: float, end: float,
                  warmup_epochs: int = 0, decay: float | None = None, cycles: int | None = None,
                  power: float | None = None) -> float:
    """The rate of one epoch.

    Linear warm-up reaches `start` in epoch warmup_epochs - 1; the schedule runs over the rest.
    linear: start to end; exponential: start * decay^epoch (DARTS on ImageNet); power_cosine:
    `cycles` restarts, cycle k from start * decay^k; with c = (1 + cos)/2 its shape is
    (power^c - 1) / (power - 1), plain cosine at power 1 (sharpDARTS, 2019; ASAP, XNAS).
    """
    if epoch < warmup_epochs:
        return start * (epoch + 1) / warmup_epochs
    t, total = epoch - warmup_epochs, epochs - warmup_epochs
    if schedule == "cosine":
        return cosine(t, total, start, end)
    if schedule == "linear":
        return start + (end - start) * t / total
    if schedule == "exponential":
        assert decay is not None
        return start * decay**t
    assert schedule == "power_cosine" and decay and cycles and power
    cycle = min(t * cycles // total, cycles - 1)
    first, after = -(-cycle * total // cycles), -(-(cycle + 1) * total // cycles)
    shape = cosine(t - first, after - first, 1.0, 0.0)
    if power != 1:
        shape = (power**shape - 1) / (power - 1)
    return end + (start * decay**cycle - end) * shape
