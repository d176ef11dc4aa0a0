"""Sending small tensors to a device inside a training loop."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(x: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for it, which takes page-locked memory."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
