"""Numeric precision of forward passes: float32, or bfloat16 autocast with float32 state."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

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

    def context(self, *, full: bool = False) -> AbstractContextManager[Any]:
        """Autocast as configured, for a forward pass; `full`: none."""
        if full or self.name != "bfloat16":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)
