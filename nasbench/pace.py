"""How long a phase will take, judged by its first steps."""

from __future__ import annotations

import time

import torch

WARM_UP = 10  # on a GPU the first steps compile, warm up and are recorded
JUDGED = {"cuda": 10}


class Pace:
    """`pace(step)` after each step of an epoch from `start` on -> seconds per step, once, else
    None; never where too few steps are left to judge."""

    def __init__(self, device: torch.device, start: int, steps: int):
        self._gpu = device.type == "cuda"
        self._first = start + (WARM_UP if self._gpu else 0)
        self._last = min(self._first + JUDGED.get(device.type, 5), steps)
        self._started = time.perf_counter()

    def __call__(self, step: int) -> float | None:
        if self._first >= self._last or step not in (self._first, self._last):
            return None
        if self._gpu:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if step == self._first:
            self._started = now
            return None
        return (now - self._started) / (self._last - self._first)
