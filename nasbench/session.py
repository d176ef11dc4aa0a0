"""What every phase of a run shares: device, folder, display, interruption and saving."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nasbench.clock import Clock
from nasbench.display import Display
from nasbench.interrupt import Interrupt, Interrupted
from nasbench.loggers import Logger
from nasbench.precision import Precision
from nasbench.run_folder import RunFolder
from nasbench.settings import HardwareSettings


@dataclass
class Session:
    """One process working on one run folder."""

    folder: RunFolder
    hardware: HardwareSettings
    device: torch.device
    precision: Precision
    display: Display
    logger: Logger
    interrupt: Interrupt
    result: dict[str, Any]
    clock: Clock = field(init=False)
    _saved: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.clock = Clock(self.device)

    def record(self, metrics: dict[str, Any]) -> None:
        """One epoch's line in metrics.jsonl, on the display and in the logger."""
        self.folder.append("metrics.jsonl", metrics)
        self.display.epoch(metrics)
        self.logger.log(metrics)

    def save(self, state: dict[str, Any]) -> None:
        """Checkpoint this state with all global generators and the result so far."""
        generators = {"torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(self.device)
        self.folder.save({"result": self.result, "generators": generators, **state})
        self._saved = time.monotonic()

    def restore_generators(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["generators"]["torch"])
        if self.device.type == "cuda" and "cuda" in state["generators"]:
            torch.cuda.set_rng_state(state["generators"]["cuda"], self.device)

    def step_done(self, state: Callable[[], dict[str, Any]], healthy: Callable[[], None]) -> None:
        """Between two steps: save if a signal came or if it is time to.

        `healthy` raises when the state is not worth saving (a loss that is not finite)."""
        due = time.monotonic() - self._saved >= self.hardware.checkpoint_seconds
        if self.interrupt.received is None and not due:
            return
        healthy()
        self.save(state())
        if self.interrupt.received is not None:
            raise Interrupted(self.interrupt.received)


class Averages:
    """Epoch averages of per-step device scalars; read once, checked for finiteness when read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, metrics: dict[str, Tensor], size: int) -> None:
        """Add one step's values, weighted by its number of images."""
        for key, value in metrics.items():
            if value.dim() == 0:
                weighted = value.detach().double() * size
                self.sums[key] = self.sums[key] + weighted if key in self.sums else weighted
        self.count += size

    def read(self) -> dict[str, float]:
        return {key: float(value) / self.count for key, value in self.sums.items()}

    def check(self, where: str, knobs: str) -> None:
        """ValueError when an average is not finite, saying where and what to change."""
        for key, value in self.read().items():
            if not math.isfinite(value):
                raise ValueError(f"{where}: {key} is not finite; the last checkpoint is kept; "
                                 f"try {knobs}")

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "count": self.count}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.sums = {key: value.to(device) for key, value in state["sums"].items()}
        self.count = state["count"]
