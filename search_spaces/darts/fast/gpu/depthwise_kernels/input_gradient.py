"""The gradient of x, through the ReLU."""

from __future__ import annotations

import triton
import triton.language as tl

from search_spaces.darts.fast.gpu.depthwise_kernels.correlation import correlate
from search_spaces.darts.fast.gpu.depthwise_kernels.strips import strip_pixels


@triton.jit
def _store_gated(target, x, total, row, height, row_stride, channels, down):
    """The gradient through the ReLU, `down` image rows below."""
    mask = (row + down < height)[:, None] & channels[None, :]
    value = tl.load(x + down * row_stride, mask=mask, other=0.0)
    total = tl.where(value.to(total.dtype) <= 0, 0.0, total)
    tl.store(target + down * row_stride, total.to(target.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["N", "H", "W", "h", "w", "E", "spacing"])
def input_kernel(x, packed, kinds, du, dx, N, H, W, h, w, E, C, spacing, STRIDE: tl.constexpr,
                 SHARED: tl.constexpr, LARGE: tl.constexpr, ROWS: tl.constexpr, BP: tl.constexpr,
                 BC: tl.constexpr):
    """A correlation of the output's gradient with the reversed taps. At stride 2 a program owns
    input pixels of one parity, which every second tap reaches (all or none if the dilation is
    even): no load is in vain."""
    rest = tl.program_id(0)
    down = rest % STRIDE
    right = rest // STRIDE % STRIDE
    rest = rest // (STRIDE * STRIDE)
    first, last, pixel = 0, E, C
    if not SHARED:
        first = rest % E
        last, pixel = first + 1, E * C
        rest = rest // E
        spacing = tl.load(kinds + 3 * first + 1)
        if STRIDE == 2:
            spacing = tl.where(spacing % 2 == 0, spacing // 2, spacing)
    cols = rest % tl.cdiv(C, BC) * BC + tl.arange(0, BC)
    channels = cols < C
    image, line, place = strip_pixels(rest // tl.cdiv(C, BC), N, tl.cdiv(H, STRIDE),
                                      tl.cdiv(W, STRIDE), spacing, ROWS, BP)
    row_stride = tl.cast(w, tl.int64) * (E * C)
    zero = tl.zeros([BP, BC], packed.dtype.element_ty)
    a0, a1, a2, a3 = zero, zero, zero, zero
    for e in range(first, last):
        kernel = tl.load(kinds + 3 * e)
        dilation = tl.load(kinds + 3 * e + 1)
        taps = packed + tl.load(kinds + 3 * e + 2).to(tl.int64) * C + cols
        pad = kernel // 2 * dilation
        kh, kw, step = 0, 0, 1
        other = spacing == 2 * dilation  # strips twice as far apart as these taps
        if STRIDE == 2:
            other = dilation % 2 == 1  # every second tap
            step = 1 + dilation % 2
            kh, kw = (down + pad) % 2, (right + pad) % 2
            kernel = tl.where(other | (kh + kw == 0), kernel, 0)
        back = (kernel + step - 1) // step - 1
        apart = dilation * step // STRIDE
        row = line + (down + pad - kh * dilation) // STRIDE - back * apart
        column = place + (right + pad - kw * dilation) // STRIDE - back * apart
        kh, kw = kh + back * step, kw + back * step
        offset = ((image * h + row) * w + column) * (E * C)
        source = du + offset[:, None] + (cols + e * C)[None, :]
        if other:
            a0, a1, a2, a3 = correlate(a0, a1, a2, a3, kernel, source, row, column, h, w,
                                       row_stride, E * C, apart, channels, taps, kh, kw, C, STRIDE,
                                       3 - STRIDE, False, LARGE, ROWS)
        else:
            a0, a1, a2, a3 = correlate(a0, a1, a2, a3, kernel, source, row, column, h, w,
                                       row_stride, E * C, apart, channels, taps, kh, kw, C, 1, 1,
                                       False, LARGE, ROWS)
    row = line * STRIDE + down
    column = place * STRIDE + right
    at = (((image * H + row) * W + column) * pixel)[:, None] + (cols if SHARED else
                                                                cols + first * C)[None, :]
    row = tl.where(column < W, row, H)
    below = tl.cast(W, tl.int64) * pixel
    lines = spacing * STRIDE
    _store_gated(dx + at, x + at, a0, row, H, below, channels, 0)
    if ROWS > 1:
        _store_gated(dx + at, x + at, a1, row, H, below, channels, lines)
    if ROWS > 2:
        _store_gated(dx + at, x + at, a2, row, H, below, channels, 2 * lines)
        _store_gated(dx + at, x + at, a3, row, H, below, channels, 3 * lines)
