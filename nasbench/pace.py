"""How long a phase will take, judged by its first steps."""

from __future__ import annotations

import time

import torch

WARM_UP, JUDGED = 10, 10  # on a GPU the first steps compile, warm up and are recorded


class Pace:
    """`pace(step)` after each step of the first epoch -> seconds per step, once, else None."""

    def __init__(self, device: torch.device, steps: int):
        self._gpu = device.type == "cuda"
        self._first, self._last = (WARM_UP, WARM_UP + JUDGED) if self._gpu else (0, min(5, steps))
        self._started = time.perf_counter()

    def __call__(self, step: int) -> float | None:
        if step not in (self._first, self._last):
            return None
        if self._gpu:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if step == self._first:
            self._started = now
            return None
        return (now - self._started) / (self._last - self._first)
