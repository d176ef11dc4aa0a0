"""The preprocessing of a cell input (ReLU, pointwise, normalisation) on the CPU kernels."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from search_spaces.darts.fast.cpu.calls import (
    check_count,
    doubles,
    factor,
    or_null,
    pointers,
    reached,
    threads_for,
)
from search_spaces.darts.fast.cpu.native import Shape, library
from search_spaces.darts.fast.terms import Point, running


def preprocess(point: Point, training: bool, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """x [N,C,H,W] -> [N,out,h,w], channels last; `weights`: of the convolutions, possibly views."""
    return _Preprocess.apply(point, training, x, *weights)


class _Preprocess(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, point: Point, training: bool, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        x = x.permute(0, 2, 3, 1).contiguous()
        n, height, width, channels = x.shape
        parts, norm = len(point.convolutions), point.norm
        h, w = height // point.stride, width // point.stride
        out = sum(c.out_channels for c in point.convolutions)
        threads = threads_for(n * h * w * out)
        shape = Shape(n, height, width, channels, h, w, parts, point.stride, 1, threads)
        wide = Shape(n, h, w, out, h, w, 0, 1, 1, threads)
        kernels = library(x.dtype)
        stat = torch.empty(3, out, dtype=torch.float64)
        z, y = (torch.empty((n, h, w, out), dtype=x.dtype) for _ in range(2))
        matrices = [w.contiguous() for w in weights]
        kernels.point_forward(shape, x.data_ptr(), pointers(matrices), out, z.data_ptr(), norm.eps,
                              stat.data_ptr() if training else None)
        running_mean, running_var, count = running(norm)
        if training:
            check_count(n * h * w)
            count.add_(1)
            kernels.update_running(wide, 1, pointers([stat]), pointers([running_mean]),
                                   pointers([running_var]), doubles([factor(norm)]))
        else:
            stat[0] = running_mean
            stat[1] = (running_var.double() + norm.eps).rsqrt()
        kernels.combine(wide, 1, pointers([z]), pointers([stat]), doubles([1.0]), y.data_ptr())
        ctx.held = (shape, wide, x, z, stat)
        ctx.save_for_backward(*weights)
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = [needed and reached(ctx, i) for i, needed in enumerate(ctx.needs_input_grad[2:])]
        if gradient is None or not any(wanted):
            return (None,) * (2 + len(wanted))
        shape, wide, x, z, stat = ctx.held
        matrices = [w.contiguous() for w in ctx.saved_tensors]
        dy = gradient.permute(0, 2, 3, 1).contiguous()
        kernels = library(x.dtype)
        sums, unused = torch.empty(2, wide.C, dtype=torch.float64), array("d", [0.0])
        kernels.node_sums(wide, 1, pointers([z]), pointers([stat]), dy.data_ptr(), sums.data_ptr(),
                          unused.buffer_info()[0])
        dx = torch.empty_like(x) if wanted[0] else None
        found = [torch.empty_like(w) for w in matrices] if any(wanted[1:]) else []
        kernels.point_backward(shape, x.data_ptr(), pointers(matrices), wide.C, z.data_ptr(),
                               stat.data_ptr(), dy.data_ptr(), sums.data_ptr(), 1.0, or_null(dx), 0,
                               pointers(found) if found else None)
        return (None, None, None if dx is None else dx.permute(0, 3, 1, 2),
                *(found or (None,) * len(matrices)))
