"""Labelled images before they are batches: in memory, or as files still to be decoded."""

import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class Images(Protocol):
    """N labelled images; ``labels`` int64 [N] on the CPU."""

    @property
    def labels(self) -> Tensor: ...

    def subset(self, indices: Tensor) -> "Images": ...

    def picture(self, index: int) -> Image.Image:
        """The whole picture, grey ("L") or RGB."""

    def pixels(self, index: int) -> Tensor:
        """The picture at the data set's size, uint8 [C, H, W]."""

    def in_memory(self, threads: int) -> "ArrayImages": ...


@dataclass(frozen=True)
class ArrayImages:
    """data uint8 [N, C, H, W], labels int64 [N]."""

    data: Tensor
    labels: Tensor

    def subset(self, indices: Tensor) -> "ArrayImages":
        return ArrayImages(self.data[indices], self.labels[indices])

    def picture(self, index: int) -> Image.Image:
        image = self.data[index]
        return Image.fromarray((image[0] if len(image) == 1 else image.permute(1, 2, 0)).numpy())

    def pixels(self, index: int) -> Tensor:
        return self.data[index]

    def in_memory(self, threads: int) -> "ArrayImages":
        return self


@dataclass(frozen=True)
class FileImages:
    """One file per image.

    channels: 1 or 3, every picture is converted. size: edge in pixels. resize: shorter edge before
    the centre crop. exact: no resizing is wanted, another size is a ValueError.
    """

    paths: Sequence[Path]
    labels: Tensor
    channels: int
    size: int
    resize: int
    exact: bool

    def subset(self, indices: Tensor) -> "FileImages":
        return replace(
            self, paths=[self.paths[i] for i in indices.tolist()], labels=self.labels[indices]
        )

    def picture(self, index: int) -> Image.Image:
        return read_picture(self.paths[index], self.channels)

    def pixels(self, index: int) -> Tensor:
        picture = self.picture(index)
        if self.exact and picture.size != (self.size, self.size):
            raise ValueError(
                f"dataset.image_size: sizes differ (the first image is {self.size}x{self.size}, "
                f"{self.paths[index]} is {picture.width}x{picture.height}); "
                "give the size to bring all images to"
            )
        array = np.array(fit(picture, self.size, self.resize))
        return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())

    def in_memory(self, threads: int) -> ArrayImages:
        data = torch.empty(len(self.paths), self.channels, self.size, self.size, dtype=torch.uint8)

        def load(index: int) -> None:
            data[index] = self.pixels(index)

        # Threads, not processes: decoding leaves the interpreter lock, and the result is in place.
        with ThreadPoolExecutor(max(1, threads)) as pool:
            for _ in pool.map(load, range(len(self.paths))):
                pass
        return ArrayImages(data, self.labels)


def read_picture(path: Path, channels: int) -> Image.Image:
    """Decode ``path`` as grey (1 channel) or RGB (3); ValueError naming the file if that fails."""
    try:
        with Image.open(path) as picture:
            # Pillow clips these to 8 bits: most of such a picture would silently turn white.
            if picture.mode[0] in "IF":
                raise ValueError(f"its pixels have more than 8 bits (mode {picture.mode})")
            return picture.convert("L" if channels == 1 else "RGB")
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: not a readable image: {reason}; replace the file or remove it"
        ) from error


def fit(picture: Image.Image, size: int, resize: int) -> Image.Image:
    """Shorter edge to ``resize``, then the centre ``size`` x ``size``: ImageNet's test recipe."""
    width, height = picture.size
    if min(width, height) != resize:
        scale = resize / min(width, height)
        scaled = max(resize, int(width * scale)), max(resize, int(height * scale))
        picture = picture.resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((picture.width - size) / 2), round((picture.height - size) / 2)
    return picture.crop((left, top, left + size, top + size))
