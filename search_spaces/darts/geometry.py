"""Where the reductions are, which stem an image needs, and which sizes can work."""

from __future__ import annotations

STEMS = ("cifar", "strided", "imagenet")
STEM_STRIDE = {"cifar": 1, "strided": 2, "imagenet": 8}


def reductions(cells: int) -> tuple[int, ...]:
    """Indices of the reduction cells: at one and two thirds of the depth (DARTS 1.1)."""
    return tuple(sorted({cells // 3, 2 * cells // 3}))


def resolve_stem(stem: str, image_size: int) -> str:
    """`auto` picks by size: cifar up to 40 pixels, strided up to 96, imagenet above."""
    if stem == "auto":
        return "cifar" if image_size <= 40 else "strided" if image_size <= 96 else "imagenet"
    if stem not in STEMS:
        raise ValueError(f"stem must be auto, {', '.join(STEMS)}; got {stem!r}")
    return stem


def check_geometry(image_size: int, stem: str, channels: int, cells: int) -> int:
    """The edge length of the last feature map; ValueError when a halving would meet an odd size."""
    if cells < 1:
        raise ValueError(f"cells must be at least 1, got {cells}")
    if channels < 2 or channels % 2:
        raise ValueError(f"channels must be even and at least 2, got {channels}")
    count = len(reductions(cells))
    stride = STEM_STRIDE[stem]
    size = -(-image_size // stride)  # a stride-2 convolution with padding 1 rounds up
    for _ in range(count):
        if size < 2 or size % 2:
            whole = stride * 2**count
            raise ValueError(
                f"image_size {image_size} cannot be halved {count} times behind the {stem} stem; "
                f"use a multiple of {whole}, such as {max(1, round(image_size / whole)) * whole}")
        size //= 2
    return size
