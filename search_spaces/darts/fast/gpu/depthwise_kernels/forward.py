"""The convolutions of relu(x)."""

from __future__ import annotations

import triton
import triton.language as tl

from search_spaces.darts.fast.gpu.depthwise_kernels.correlation import correlate
from search_spaces.darts.fast.gpu.depthwise_kernels.strips import strip_pixels


@triton.jit
def _store_row(target, total, row, height, row_stride, channels, down):
    mask = (row + down < height)[:, None] & channels[None, :]
    tl.store(target + down * row_stride, total.to(target.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["N", "H", "W", "h", "w", "E"])
def forward_kernel(x, packed, kinds, u, N, H, W, h, w, E, C, STRIDE: tl.constexpr,
                   SHARED: tl.constexpr, LARGE: tl.constexpr, ROWS: tl.constexpr,
                   BP: tl.constexpr, BC: tl.constexpr):
    program = tl.program_id(0)
    e = program % E
    rest = program // E
    cols = rest % tl.cdiv(C, BC) * BC + tl.arange(0, BC)
    channels = cols < C
    kernel = tl.load(kinds + 3 * e)
    dilation = tl.load(kinds + 3 * e + 1)
    taps = packed + tl.load(kinds + 3 * e + 2).to(tl.int64) * C + cols
    image, line, place = strip_pixels(rest // tl.cdiv(C, BC), N, h, w, dilation, ROWS, BP)
    pixel = C if SHARED else E * C
    row = line * STRIDE - kernel // 2 * dilation
    column = place * STRIDE - kernel // 2 * dilation
    offset = ((image * H + row) * W + column) * pixel
    source = x + offset[:, None] + (cols if SHARED else cols + e * C)[None, :]
    row_stride = tl.cast(W, tl.int64) * pixel
    zero = tl.zeros([BP, BC], packed.dtype.element_ty)
    a0, a1, a2, a3 = correlate(zero, zero, zero, zero, kernel, source, row, column, H, W,
                               row_stride, pixel, dilation, channels, taps, 0, 0, C, 1, STRIDE,
                               True, LARGE, ROWS)
    out = ((image * h + line) * w + place) * (E * C)
    target = u + out[:, None] + (cols + e * C)[None, :]
    below = tl.cast(w, tl.int64) * (E * C)
    _store_row(target, a0, line, h, below, channels, 0)
    if ROWS > 1:
        _store_row(target, a1, line, h, below, channels, dilation)
    if ROWS > 2:
        _store_row(target, a2, line, h, below, channels, 2 * dilation)
        _store_row(target, a3, line, h, below, channels, 3 * dilation)
