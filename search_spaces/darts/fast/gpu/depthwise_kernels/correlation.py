"""The correlation of strips with a kernel of 3, 5 or 7 taps a side, forward or reversed."""

from __future__ import annotations

import triton
import triton.language as tl

from search_spaces.darts.fast.gpu.depthwise_kernels.strips import load_below


@triton.jit
def _column(total, source, inside, row, height, row_stride, dilation, channels, taps, kh, kw,
            tap_stride, ROW: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr,
            SHIFT: tl.constexpr, FORWARD: tl.constexpr):
    """Add one column of taps to the ROW-th output row of the strips."""
    for j in tl.static_range((K + STEP - 1) // STEP):
        value = load_below(source, inside, row, (SHIFT * ROW + j) * dilation, height, row_stride,
                           channels, FORWARD, total.dtype)
        tap = kh + j if FORWARD else kh - j * STEP
        if STEP == 1:
            weight = tl.load(taps + (tap * K + kw) * tap_stride, mask=channels, other=0.0)
        else:  # the parity may have one tap less
            at = tl.minimum(tap, K - 1) * K + tl.minimum(kw, K - 1)
            weight = tl.load(taps + at * tap_stride, mask=channels, other=0.0)
            weight = tl.where((tap < K) & (kw < K), weight, 0.0)
        total += value * weight[None, :]
    return total


@triton.jit
def _strip(a0, a1, a2, a3, source, row, column, height, width, row_stride, column_stride, dilation,
           channels, taps, kh, kw, tap_stride, K: tl.constexpr, STEP: tl.constexpr,
           SHIFT: tl.constexpr, FORWARD: tl.constexpr, ROWS: tl.constexpr):
    """Correlate, of relu if FORWARD: `source` points at the first tap (row, column) of the pixels,
    where the weight's tap (kh, kw) lies; the next is the following one, or the STEP-th before it.
    An output row lies SHIFT taps below the one before."""
    for k in range((K + STEP - 1) // STEP):
        right = k * dilation
        inside = (column + right >= 0) & (column + right < width)
        at = source + right * column_stride
        tap = kw + k if FORWARD else kw - k * STEP
        a0 = _column(a0, at, inside, row, height, row_stride, dilation, channels, taps, kh, tap,
                     tap_stride, 0, K, STEP, SHIFT, FORWARD)
        if ROWS > 1:
            a1 = _column(a1, at, inside, row, height, row_stride, dilation, channels, taps, kh,
                         tap, tap_stride, 1, K, STEP, SHIFT, FORWARD)
        if ROWS > 2:
            a2 = _column(a2, at, inside, row, height, row_stride, dilation, channels, taps, kh,
                         tap, tap_stride, 2, K, STEP, SHIFT, FORWARD)
            a3 = _column(a3, at, inside, row, height, row_stride, dilation, channels, taps, kh,
                         tap, tap_stride, 3, K, STEP, SHIFT, FORWARD)
    return a0, a1, a2, a3


@triton.jit
def correlate(a0, a1, a2, a3, kernel, source, row, column, height, width, row_stride, column_stride,
              dilation, channels, taps, kh, kw, tap_stride, STEP: tl.constexpr, SHIFT: tl.constexpr,
              FORWARD: tl.constexpr, LARGE: tl.constexpr, ROWS: tl.constexpr):
    """`_strip` for the kernel size; nothing for a size of 0."""
    if kernel == 3:
        a0, a1, a2, a3 = _strip(a0, a1, a2, a3, source, row, column, height, width, row_stride,
                                column_stride, dilation, channels, taps, kh, kw, tap_stride, 3,
                                STEP, SHIFT, FORWARD, ROWS)
    elif kernel == 5:
        a0, a1, a2, a3 = _strip(a0, a1, a2, a3, source, row, column, height, width, row_stride,
                                column_stride, dilation, channels, taps, kh, kw, tap_stride, 5,
                                STEP, SHIFT, FORWARD, ROWS)
    elif LARGE and kernel == 7:
        a0, a1, a2, a3 = _strip(a0, a1, a2, a3, source, row, column, height, width, row_stride,
                                column_stride, dilation, channels, taps, kh, kw, tap_stride, 7,
                                STEP, SHIFT, FORWARD, ROWS)
    return a0, a1, a2, a3
