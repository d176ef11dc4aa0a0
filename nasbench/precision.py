"""Numeric precision of forward passes: float32, or bfloat16 autocast with float32 state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Precision:
    """name: `float32` or `bfloat16`; tf32: allow TensorFloat-32 products where float32 remains."""

    device: torch.device
    name: str
    tf32: bool

    @staticmethod
    def choose(device: torch.device, name: str, tf32: bool | None) -> Precision:
        """name `auto`: bfloat16 on a GPU that has it, else float32; tf32 None: with bfloat16 only,
        as float32 by name means all its digits. ValueError for another name."""
        if name not in PRECISIONS:
            raise ValueError(f"hardware.precision: must be one of {', '.join(PRECISIONS)}, "
                             f"got {name!r}")
        if name == "auto":
            able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            name = "bfloat16" if able else "float32"
        return Precision(device, name, name == "bfloat16" if tf32 is None else tf32)

    def apply(self) -> None:
        """Set the process-wide TF32 switches."""
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.allow_tf32 = self.tf32

    @contextmanager
    def context(self, *, full: bool = False) -> Iterator[None]:
        """Autocast as configured; `full`: plain float32 without TF32, whatever is configured."""
        if full and self.tf32 and self.device.type == "cuda":
            Precision(self.device, "float32", False).apply()
            try:
                yield
            finally:
                self.apply()
            return
        bf16 = self.name == "bfloat16" and not full
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext():
            yield
