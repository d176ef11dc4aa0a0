"""Products of float32 with all their digits, where TensorFloat-32 would do harm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Within, forward and backward passes use no TensorFloat-32; after, all is as before."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        products.allow_tf32 = convolutions.allow_tf32 = False
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
