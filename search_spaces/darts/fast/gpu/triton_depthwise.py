"""Launches of the GPU kernels of `depthwise.py` (`depthwise_kernels/`): one each for the forward
pass, the input gradient and the weight gradient.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from search_spaces.darts.fast.gpu.depthwise_kernels.forward import forward_kernel
from search_spaces.darts.fast.gpu.depthwise_kernels.input_gradient import input_kernel
from search_spaces.darts.fast.gpu.depthwise_kernels.weight_gradient import weight_kernel
from search_spaces.upload import upload

WARPS = 4
TILE = 512  # pixels x channels of a program: 8-byte loads of bfloat16, 16-byte loads of float32
PARTIAL_PROGRAMS, PARTIAL_TILES = 1024, 8  # weight gradient: enough to fill a GPU; L1 holds 8


class Kinds(NamedTuple):
    """Kernel size and dilation per convolution."""

    kernels: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def taps(self) -> int:
        return sum(k * k for k in self.kernels)


@functools.cache  # never evicted: a captured graph may hold the address
def table(kinds: Kinds, device: torch.device) -> Tensor:
    """[E, 3]: kernel size, dilation, first tap in the packed weights. Its first use uploads, so
    it must come before a capture."""
    rows, first = [], 0
    for kernel, dilation in zip(*kinds, strict=True):
        rows.append((kernel, dilation, first))
        first += kernel * kernel
    with torch.inference_mode(False):  # scored first, trained later
        return upload(torch.tensor(rows, dtype=torch.int32), device)


def channel_block(channels: int) -> int:
    """Channels of a program: the width with the least padding."""
    if channels < 16:
        return max(2, triton.next_power_of_2(channels))
    return min((64, 32, 16), key=lambda block: -(-channels // block) * block)


def rows_for(values: int) -> int:
    """Output rows per thread: fewer when few values would leave the GPU without work."""
    return 4 if values >= 2**19 else 2 if values >= 2**18 else 1


def tiles_of(images: int, height: int, width: int, rows: int, spacings: Sequence[int],
             pixels: int) -> int:
    """Tiles of `pixels` strips that cover the images at the worst spacing."""
    strips = max(triton.cdiv(height, rows * s) * s for s in spacings) * images * width
    assert strips < 2**31 - pixels
    return triton.cdiv(strips, pixels)


def _sizes(x: Tensor, convolutions: int, stride: int) -> tuple[int, ...]:
    """N, H, W, h, w, E, C: what all kernels are told."""
    n, height, width, channels = x.shape[0], x.shape[1], x.shape[2], x.shape[-1]
    return n, height, width, -(-height // stride), -(-width // stride), convolutions, channels


def forward(x: Tensor, packed: Tensor, kinds: Kinds, stride: int, shared: bool) -> Tensor:
    """packed [taps, C]: the taps of all convolutions. -> u [N, h, w, E, C]."""
    sizes = n, _, _, h, w, e, c = _sizes(x, len(kinds.kernels), stride)
    u = x.new_empty((n, h, w, e, c))
    block, rows = channel_block(c), rows_for(u.numel())
    tiles = tiles_of(n, h, w, rows, kinds.dilations, TILE // block)
    with torch.cuda.device_of(x):
        forward_kernel[(e * triton.cdiv(c, block) * tiles,)](
            x, packed, table(kinds, x.device), u, *sizes, STRIDE=stride, SHARED=shared,
            LARGE=max(kinds.kernels) > 5, ROWS=rows, BP=TILE // block, BC=block,
            num_warps=WARPS, enable_fp_fusion=True)
    return u


def input_gradient(x: Tensor, packed: Tensor, kinds: Kinds, stride: int, shared: bool,
                   du: Tensor) -> Tensor:
    """du [N, h, w, E, C] contiguous -> gradient of x, zero where x <= 0."""
    sizes = n, height, width, _, _, e, c = _sizes(x, len(kinds.kernels), stride)
    apart = [d // stride if d % stride == 0 else d for d in kinds.dilations]
    block, rows, spacing = channel_block(c), rows_for(x.numel()), 1
    if shared:
        spacing = math.lcm(*apart)
        if any(spacing > (3 - stride) * d for d in apart):  # no strips that suit them all
            rows, spacing = 1, 1
    tiles = tiles_of(n, -(-height // stride), -(-width // stride), rows,
                     [spacing] if shared else apart, TILE // block)
    dx = torch.empty_like(x)
    programs = stride * stride * (1 if shared else e) * triton.cdiv(c, block) * tiles
    with torch.cuda.device_of(x):
        input_kernel[(programs,)](
            x, packed, table(kinds, x.device), du, dx, *sizes, spacing, STRIDE=stride,
            SHARED=shared, LARGE=max(kinds.kernels) > 5, ROWS=rows, BP=TILE // block, BC=block,
            num_warps=WARPS, enable_fp_fusion=True)
    return dx


def weight_gradient(x: Tensor, kinds: Kinds, stride: int, shared: bool, du: Tensor) -> Tensor:
    """-> flat gradient of all weights, [C, 1, K, K] each, one behind the other; in float64 for
    float64 inputs, else in float32."""
    sizes = n, _, _, h, w, e, c = _sizes(x, len(kinds.kernels), stride)
    block, rows = channel_block(c), rows_for(du.numel())
    tiles = tiles_of(n, h, w, rows, kinds.dilations, TILE // block)
    chunk = min(PARTIAL_TILES, max(2, tiles * e // PARTIAL_PROGRAMS))
    splits = triton.cdiv(tiles, chunk)
    if splits > PARTIAL_PROGRAMS // 4:  # else the partial sums outgrow what they save
        chunk = triton.cdiv(tiles, max(PARTIAL_PROGRAMS // 4, PARTIAL_PROGRAMS // e))
        splits = triton.cdiv(tiles, chunk)
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    partial = x.new_empty((splits, kinds.taps * c), dtype=kind)
    with torch.cuda.device_of(x):
        weight_kernel[(e * triton.cdiv(c, block) * splits,)](
            x, table(kinds, x.device), du, partial, *sizes, kinds.taps * c, chunk, STRIDE=stride,
            SHARED=shared, LARGE=max(kinds.kernels) > 5, ROWS=rows, BP=TILE // block, BC=block,
            num_warps=WARPS, enable_fp_fusion=True)
    return partial.sum(0)
