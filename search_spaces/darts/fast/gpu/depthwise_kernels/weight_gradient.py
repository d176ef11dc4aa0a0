"""The gradient of the taps, as partial sums."""

from __future__ import annotations

import triton
import triton.language as tl

from search_spaces.darts.fast.gpu.depthwise_kernels.strips import load_below, strip_pixels


@triton.jit
def _products(total, source, inside, row, height, row_stride, gradient, line, lines, line_stride,
              dilation, channels, KH: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr):
    """Add gradient times input under tap KH, over the rows of the strips."""
    for r in tl.static_range(ROWS):
        value = load_below(source, inside, row, (STRIDE * r + KH) * dilation, height, row_stride,
                           channels, True, total.dtype)
        total += value * load_below(gradient, line >= 0, line, r * dilation, lines, line_stride,
                                    channels, False, total.dtype)
    return total


@triton.jit
def _sum_taps(x, du, partial, N, H, W, h, w, C, pixel, out_pixel, dilation, cols, out_cols,
              channels, first, last, K: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr,
              BP: tl.constexpr, BC: tl.constexpr):
    """Tiles first to last; a column of taps at a time, as all would not fit the registers."""
    pad = K // 2 * dilation
    row_stride = tl.cast(W, tl.int64) * pixel
    line_stride = tl.cast(w, tl.int64) * out_pixel
    zero = tl.zeros([BP, BC], partial.dtype.element_ty)
    for kw in range(K):
        b0, b1, b2, b3, b4, b5, b6 = zero, zero, zero, zero, zero, zero, zero
        for tile in range(first, last):
            image, line, place = strip_pixels(tile, N, h, w, dilation, ROWS, BP)
            row = line * STRIDE - pad
            column = place * STRIDE - pad + kw * dilation
            inside = (column >= 0) & (column < W)
            s = x + (((image * H + row) * W + column) * pixel)[:, None] + cols[None, :]
            g = du + (((image * h + line) * w + place) * out_pixel)[:, None] + out_cols[None, :]
            b0 = _products(b0, s, inside, row, H, row_stride, g, line, h, line_stride, dilation,
                           channels, 0, STRIDE, ROWS)
            b1 = _products(b1, s, inside, row, H, row_stride, g, line, h, line_stride, dilation,
                           channels, 1, STRIDE, ROWS)
            b2 = _products(b2, s, inside, row, H, row_stride, g, line, h, line_stride, dilation,
                           channels, 2, STRIDE, ROWS)
            if K > 3:
                b3 = _products(b3, s, inside, row, H, row_stride, g, line, h, line_stride,
                               dilation, channels, 3, STRIDE, ROWS)
                b4 = _products(b4, s, inside, row, H, row_stride, g, line, h, line_stride,
                               dilation, channels, 4, STRIDE, ROWS)
            if K > 5:
                b5 = _products(b5, s, inside, row, H, row_stride, g, line, h, line_stride,
                               dilation, channels, 5, STRIDE, ROWS)
                b6 = _products(b6, s, inside, row, H, row_stride, g, line, h, line_stride,
                               dilation, channels, 6, STRIDE, ROWS)
        tl.store(partial + kw, tl.sum(b0, 0), mask=channels)
        tl.store(partial + K + kw, tl.sum(b1, 0), mask=channels)
        tl.store(partial + 2 * K + kw, tl.sum(b2, 0), mask=channels)
        if K > 3:
            tl.store(partial + 3 * K + kw, tl.sum(b3, 0), mask=channels)
            tl.store(partial + 4 * K + kw, tl.sum(b4, 0), mask=channels)
        if K > 5:
            tl.store(partial + 5 * K + kw, tl.sum(b5, 0), mask=channels)
            tl.store(partial + 6 * K + kw, tl.sum(b6, 0), mask=channels)


@triton.jit(do_not_specialize=["N", "H", "W", "h", "w", "E", "total", "chunk"])
def weight_kernel(x, kinds, du, partial, N, H, W, h, w, E, C, total, chunk, STRIDE: tl.constexpr,
                  SHARED: tl.constexpr, LARGE: tl.constexpr, ROWS: tl.constexpr,
                  BP: tl.constexpr, BC: tl.constexpr):
    """partial [splits, total], as the weights lie one behind the other: sums over `chunk` tiles."""
    program = tl.program_id(0)
    e = program % E
    rest = program // E
    block = rest % tl.cdiv(C, BC)
    split = rest // tl.cdiv(C, BC)
    cols = block * BC + tl.arange(0, BC)
    channels = cols < C
    kernel = tl.load(kinds + 3 * e)
    dilation = tl.load(kinds + 3 * e + 1)
    at = split.to(tl.int64) * total + tl.load(kinds + 3 * e + 2) * C + cols * (kernel * kernel)
    strips = N * (tl.cdiv(h, ROWS * dilation) * dilation) * w
    first = split * chunk
    last = tl.minimum(first + chunk, tl.cdiv(strips, BP))
    pixel = C if SHARED else E * C
    own = cols if SHARED else cols + e * C
    if kernel == 3:
        _sum_taps(x, du, partial + at, N, H, W, h, w, C, pixel, E * C, dilation, own,
                  cols + e * C, channels, first, last, 3, STRIDE, ROWS, BP, BC)
    elif kernel == 5:
        _sum_taps(x, du, partial + at, N, H, W, h, w, C, pixel, E * C, dilation, own,
                  cols + e * C, channels, first, last, 5, STRIDE, ROWS, BP, BC)
    elif LARGE:  # 7
        _sum_taps(x, du, partial + at, N, H, W, h, w, C, pixel, E * C, dilation, own,
                  cols + e * C, channels, first, last, 7, STRIDE, ROWS, BP, BC)
