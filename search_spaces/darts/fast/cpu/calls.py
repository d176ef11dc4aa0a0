"""Small things every kernel call needs."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.darts.fast.terms import running

SERIAL = 8192  # values of a feature map below which waking threads costs more than it saves


def threads_for(values: int) -> int:
    """How many threads a kernel over a feature map of that many values should use."""
    return torch.get_num_threads() if values >= SERIAL else 1


def addresses(values: Sequence[int]) -> bytes:
    """A C array of addresses. As an argument it lives until the call is over."""
    return array("Q", values).tobytes()


def pointers(tensors: Sequence[Tensor]) -> bytes:
    return addresses([address_of(v) for v in tensors])


def doubles(values: Sequence[float]) -> bytes:
    return array("d", values).tobytes()


def factor(norm: nn.BatchNorm2d) -> float:
    """The weight of the newest batch; without momentum a plain average over the batches."""
    return 1 / float(running(norm)[2]) if norm.momentum is None else norm.momentum


def check_count(values: int) -> None:
    """As `nn.BatchNorm2d` refuses in training."""
    if values < 2:
        raise ValueError("batch statistics need more than one value per channel, got a batch "
                         "of one 1x1 image")


def address_of(tensor: Tensor) -> int:
    if not tensor.is_contiguous():
        raise ValueError(f"the kernels need contiguous memory, got strides {tensor.stride()} for "
                         f"a shape of {tuple(tensor.shape)}")
    return tensor.data_ptr()


def or_null(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def reached(ctx: Any, index: int) -> bool:
    """Whether this backward pass goes on from the input (`torch.autograd.grad` asks for a part)."""
    node = ctx.next_functions[index][0]
    try:
        return node is not None and torch._C._will_engine_execute_node(node)
    except (AttributeError, RuntimeError):  # a leaf under autograd.grad: the engine will not say
        return True
