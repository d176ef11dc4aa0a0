"""GPU kernels of `depthwise.py`: forward, input gradient, weight gradient, one launch each.

A program owns pixels x channels of one convolution (of all that share the input, in its gradient).
Kernel size and dilation come from a device table, so that a new set of live operations needs no
compilation; the program branches once to a loop whose rows of taps are unrolled. A loop bounded at
run time would wait for every load in turn, and a compiled kernel per kind would be a launch each.

* A thread keeps ROWS output pixels, as far apart as the taps: each value that it loads, converts
  and rectifies serves up to ROWS taps, each weight serves ROWS pixels. The helpers load as if they
  did not; the compiler merges equal loads.
* Channels are the fastest axis: a warp reads whole sectors. The taps of neighbouring pixels come
  from L1, the halo of a tile from L2.
* Sums have a fixed order (no atomics). Pixel offsets are 64-bit; a pixel's number is 32-bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

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


@triton.jit
def _value(source, inside, row, down, height, row_stride, channels, RELU: tl.constexpr,
           TYPE: tl.constexpr):
    """[BP, BC]: what lies `down` rows below the pixels, zero outside the map."""
    here = inside & (row + down >= 0) & (row + down < height)
    value = tl.load(source + down * row_stride, mask=here[:, None] & channels[None, :], other=0.0)
    value = value.to(TYPE)
    if RELU:
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return value


@triton.jit
def _column(total, source, inside, row, height, row_stride, dilation, channels, taps, kh, kw,
            tap_stride, ROW: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr,
            SHIFT: tl.constexpr, FORWARD: tl.constexpr):
    """Add one column of taps to the ROW-th output row of the strips."""
    for j in tl.static_range((K + STEP - 1) // STEP):
        value = _value(source, inside, row, (SHIFT * ROW + j) * dilation, height, row_stride,
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
def _strips(a0, a1, a2, a3, kernel, source, row, column, height, width, row_stride, column_stride,
            dilation, channels, taps, kh, kw, tap_stride, STEP: tl.constexpr,
            SHIFT: tl.constexpr, FORWARD: tl.constexpr, LARGE: tl.constexpr,
            ROWS: tl.constexpr):
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


@triton.jit
def _pixels(tile, images, height, width, spacing, ROWS: tl.constexpr, BP: tl.constexpr):
    """Image, first row and column of the tile's strips; where there is none the row is far out."""
    groups = tl.cdiv(height, ROWS * spacing) * spacing
    strip = tile * BP + tl.arange(0, BP)
    column = strip % width
    line = strip // width
    group = line % groups
    image = line // groups
    row = group // spacing * (ROWS * spacing) + group % spacing
    return image.to(tl.int64), tl.where(image < images, row, 1 << 28), column


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
    image, line, place = _pixels(rest // tl.cdiv(C, BC), N, h, w, dilation, ROWS, BP)
    pixel = C if SHARED else E * C
    row = line * STRIDE - kernel // 2 * dilation
    column = place * STRIDE - kernel // 2 * dilation
    offset = ((image * H + row) * W + column) * pixel
    source = x + offset[:, None] + (cols if SHARED else cols + e * C)[None, :]
    row_stride = tl.cast(W, tl.int64) * pixel
    zero = tl.zeros([BP, BC], packed.dtype.element_ty)
    a0, a1, a2, a3 = _strips(zero, zero, zero, zero, kernel, source, row, column, H, W, row_stride,
                             pixel, dilation, channels, taps, 0, 0, C, 1, STRIDE, True, LARGE,
                             ROWS)
    out = ((image * h + line) * w + place) * (E * C)
    target = u + out[:, None] + (cols + e * C)[None, :]
    below = tl.cast(w, tl.int64) * (E * C)
    _store_row(target, a0, line, h, below, channels, 0)
    if ROWS > 1:
        _store_row(target, a1, line, h, below, channels, dilation)
    if ROWS > 2:
        _store_row(target, a2, line, h, below, channels, 2 * dilation)
        _store_row(target, a3, line, h, below, channels, 3 * dilation)


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
    image, line, place = _pixels(rest // tl.cdiv(C, BC), N, tl.cdiv(H, STRIDE),
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
            a0, a1, a2, a3 = _strips(a0, a1, a2, a3, kernel, source, row, column, h, w, row_stride,
                                     E * C, apart, channels, taps, kh, kw, C, STRIDE, 3 - STRIDE,
                                     False, LARGE, ROWS)
        else:
            a0, a1, a2, a3 = _strips(a0, a1, a2, a3, kernel, source, row, column, h, w, row_stride,
                                     E * C, apart, channels, taps, kh, kw, C, 1, 1, False, LARGE,
                                     ROWS)
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


@triton.jit
def _products(total, source, inside, row, height, row_stride, gradient, line, lines, line_stride,
              dilation, channels, KH: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr):
    """Add gradient times input under tap KH, over the rows of the strips."""
    for r in tl.static_range(ROWS):
        value = _value(source, inside, row, (STRIDE * r + KH) * dilation, height, row_stride,
                       channels, True, total.dtype)
        total += value * _value(gradient, line >= 0, line, r * dilation, lines, line_stride,
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
            image, line, place = _pixels(tile, N, h, w, dilation, ROWS, BP)
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
