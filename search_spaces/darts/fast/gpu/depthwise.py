"""ReLU and the depthwise convolutions that read one map, as one differentiable function.

On a GPU these are three kernels (`depthwise_kernels/`), one launch each for all convolutions
(`triton_depthwise.py`); elsewhere, and without Triton, the library's grouped convolutions, which
are also the tests' oracle.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["depthwise_relu", "library_depthwise_relu", "pack", "triton_depthwise_relu"]

log = logging.getLogger(__name__)


def pack(stages: Sequence[Sequence[Tensor]], like: Tensor) -> list[Tensor]:
    """The weights of many stages as the GPU kernels read them: per stage [taps, C] in the type of
    sums over `like`, where neighbouring threads find neighbouring channels. Without gradients."""
    if not stages:
        return []
    with torch.no_grad():
        taps = torch.cat([w.flatten(1).t() for stage in stages for w in stage])
        return list(taps.to(_sum_type(like)).split(
            [sum(w[0].numel() for w in stage) for stage in stages]))


def depthwise_relu(x: Tensor, weights: Sequence[Tensor], dilations: Sequence[int],
                   stride: int = 1, *, shared: bool, packed: Tensor | None = None) -> Tensor:
    """Convolution e of relu(x), for all E of them.

    x: `shared` [N, H, W, C], else [N, H, W, E, C] (convolution e reads x[..., e, :]), contiguous.
    weights: E tensors [C, 1, K, K] of one float type, K in 3, 5, 7; the padding dilation*(K-1)/2
    (of zeros, behind the ReLU) keeps the size at stride 1. stride: 1 or 2. packed: the weights'
    values, if they have been packed for many stages at once.
    -> [N, ceil(H/stride), ceil(W/stride), E, C] in x's type, contiguous; sums in float32 (float64
    for float64), whatever autocast says. Once differentiable on a GPU. New kernel sizes and
    dilations are uploaded at their first use there: not inside the capture of a CUDA graph.
    """
    assert x.is_contiguous() and x.dim() == (4 if shared else 5) and stride in (1, 2)
    assert len(weights) == len(dilations) == (len(weights) if shared else x.shape[3]) > 0
    assert all(w.shape == (x.shape[-1], 1, w.shape[-1], w.shape[-1]) and w.shape[-1] in (3, 5, 7)
               for w in weights)
    if x.is_cuda and _triton_is_here():
        return triton_depthwise_relu(x, weights, dilations, stride, shared=shared, packed=packed)
    return library_depthwise_relu(x, weights, dilations, stride, shared=shared)


@functools.cache
def _triton_is_here() -> bool:
    here = importlib.util.find_spec("triton") is not None
    if not here:
        log.warning("depthwise convolutions run on the library's kernels: there is no triton")
    return here


def library_depthwise_relu(x: Tensor, weights: Sequence[Tensor], dilations: Sequence[int],
                           stride: int = 1, *, shared: bool) -> Tensor:
    """As `depthwise_relu`: a grouped convolution per kernel size and dilation."""
    kind = _sum_type(x)
    groups: dict[tuple[int, int], list[int]] = {}
    for e, (weight, dilation) in enumerate(zip(weights, dilations, strict=True)):
        groups.setdefault((weight.shape[-1], dilation), []).append(e)
    parts: list[Tensor] = [x] * len(weights)
    with torch.autocast(x.device.type, enabled=False):
        rectified = torch.relu(x).to(kind)
        for (kernel, dilation), members in groups.items():
            own = (rectified.unsqueeze(3).expand(-1, -1, -1, len(members), -1) if shared
                   else rectified[:, :, :, members])
            maps = own.flatten(3).permute(0, 3, 1, 2)
            out = functional.conv2d(
                maps, torch.cat([weights[e] for e in members]).to(kind), None, stride,
                dilation * (kernel // 2), dilation, maps.shape[1]).permute(0, 2, 3, 1)
            for e, part in zip(members, out.chunk(len(members), -1), strict=True):
                parts[e] = part
        return torch.stack(parts, 3).to(x.dtype)


def triton_depthwise_relu(x: Tensor, weights: Sequence[Tensor], dilations: Sequence[int],
                          stride: int = 1, *, shared: bool, packed: Tensor | None = None
                          ) -> Tensor:
    """As `depthwise_relu`, on the GPU kernels."""
    if packed is None:
        packed, = pack([weights], x)
    return _Depthwise.apply(x, packed, tuple(dilations), stride, shared, *weights)


def _sum_type(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, dilations: tuple[int, ...], stride: int,
                shared: bool, *weights: Tensor) -> Tensor:
        from search_spaces.darts.fast.gpu import triton_depthwise as kernels

        kinds = kernels.Kinds(tuple(w.shape[-1] for w in weights), dilations)
        ctx.set_materialize_grads(False)
        ctx.options = kinds, stride, shared
        ctx.shapes = [w.shape for w in weights]
        ctx.kind = weights[0].dtype
        ctx.save_for_backward(x, packed)
        return kernels.forward(x, packed, kinds, stride, shared)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, du: Tensor | None) -> tuple[Tensor | None, ...]:
        from search_spaces.darts.fast.gpu import triton_depthwise as kernels

        dx: Tensor | None = None
        dw: list[Tensor | None] = [None] * len(ctx.shapes)
        if du is not None:
            x, packed = ctx.saved_tensors
            kinds, stride, shared = ctx.options
            du = du.contiguous()
            if ctx.needs_input_grad[0]:
                dx = kernels.input_gradient(x, packed, kinds, stride, shared, du)
            if any(ctx.needs_input_grad[5:]):
                flat = kernels.weight_gradient(x, kinds, stride, shared, du).to(ctx.kind)
                views = flat.split([shape.numel() for shape in ctx.shapes])
                dw = [v.view(shape) for v, shape in zip(views, ctx.shapes, strict=True)]
        return dx, None, None, None, None, *dw
