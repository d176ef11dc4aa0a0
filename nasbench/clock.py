"""Where the seconds go: exclusive, nested sections, without waiting for the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """`with clock("weights"): ...` adds to that section and pauses the one around it.

    On a GPU boundaries are CUDA events, read only in `read()`; on a CPU they are timestamps.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self._cuda = torch.device(device).type == "cuda"
        self._stack: list[str] = []
        self._spans: list[tuple[str, object, object]] = []
        self._mark: object = None

    def _now(self) -> object:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _close(self) -> None:
        now = self._now()
        if self._stack:
            self._spans.append((self._stack[-1], self._mark, now))
        self._mark = now

    @contextmanager
    def __call__(self, section: str) -> Iterator[None]:
        self._close()
        self._stack.append(section)
        try:
            yield
        finally:
            self._close()
            self._stack.pop()

    def read(self) -> dict[str, float]:
        """Seconds per section since the last read; waits for the device once."""
        if self._cuda:
            torch.cuda.synchronize()
        totals: dict[str, float] = {}
        for section, start, end in self._spans:
            seconds = start.elapsed_time(end) / 1000 if self._cuda else end - start  # type: ignore
            totals[section] = totals.get(section, 0.0) + seconds
        self._spans.clear()
        return totals
