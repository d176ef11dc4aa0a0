"""The preprocessing of a cell input (ReLU, pointwise, normalisation) on the CPU kernels."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from search_spaces.darts.fast.cpu.calls import (
    address_of,
    check_count,
    factor,
    or_null,
    pointers_to,
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
        held, matrices = pointers_to([address_of(c.weight) for c in point.convolutions])
        kernels.point_forward(shape, x.data_ptr(), matrices, out, z.data_ptr(), norm.eps,
                              stat.data_ptr() if training else None)
        a, stats = pointers_to([stat.data_ptr()])
        running_mean, running_var, count = running(norm)
        if training:
            check_count(n * h * w)
            count.add_(1)
            momentum = array("d", [factor(norm)])
            b, mean = pointers_to([address_of(running_mean)])
            c, variance = pointers_to([address_of(running_var)])
            kernels.update_running(wide, 1, stats, mean, variance, momentum.buffer_info()[0])
        else:
            stat[0] = running_mean
            stat[1] = (running_var.double() + norm.eps).rsqrt()
        d, source = pointers_to([z.data_ptr()])
        one = array("d", [1.0])
        kernels.combine(wide, 1, source, stats, one.buffer_info()[0], y.data_ptr())
        ctx.held = (point, shape, wide, x, z, stat)
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = [needed and reached(ctx, i) for i, needed in enumerate(ctx.needs_input_grad[2:])]
        if gradient is None or not any(wanted):
            return (None,) * (2 + len(wanted))
        point, shape, wide, x, z, stat = ctx.held
        dy = gradient.permute(0, 2, 3, 1).contiguous()
        kernels = library(x.dtype)
        sums, unused = torch.empty(2, wide.C, dtype=torch.float64), array("d", [0.0])
        a, source = pointers_to([z.data_ptr()])
        b, stats = pointers_to([stat.data_ptr()])
        kernels.node_sums(wide, 1, source, stats, dy.data_ptr(), sums.data_ptr(),
                          unused.buffer_info()[0])
        dx = torch.empty_like(x) if wanted[0] else None
        found: list[Tensor] = []
        if any(wanted[1:]):
            found = [torch.empty_like(c.weight) for c in point.convolutions]
        c, matrices = pointers_to([address_of(v.weight) for v in point.convolutions])
        d, targets = pointers_to([address_of(g) for g in found])
        kernels.point_backward(shape, x.data_ptr(), matrices, wide.C, z.data_ptr(), stat.data_ptr(),
                               dy.data_ptr(), sums.data_ptr(), 1.0, or_null(dx), 0,
                               targets if found else None)
        return (None, None, None if dx is None else dx.permute(0, 3, 1, 2),
                *(found if found else (None,) * len(point.convolutions)))
