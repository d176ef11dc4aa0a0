"""What a thread keeps: a strip of output pixels in a column, and loads relative to it."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def strip_pixels(tile, images, height, width, spacing, ROWS: tl.constexpr, BP: tl.constexpr):
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
def load_below(source, inside, row, down, height, row_stride, channels, RELU: tl.constexpr,
               TYPE: tl.constexpr):
    """[BP, BC]: what lies `down` rows below the pixels, zero outside the map."""
    here = inside & (row + down >= 0) & (row + down < height)
    value = tl.load(source + down * row_stride, mask=here[:, None] & channels[None, :], other=0.0)
    value = value.to(TYPE)
    if RELU:
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return value
