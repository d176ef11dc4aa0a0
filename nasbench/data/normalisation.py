"""Pixel bytes to normalised floats, and the mean and deviation to do it with."""

from collections.abc import Iterable

import torch
from torch import Tensor

from .images import ArrayImages, Images

Channels = tuple[float, ...]


class Normaliser:
    """uint8 [n, C, H, W] to float32 ``(x / 255 - mean) / std``, on the same device."""

    def __init__(
        self,
        mean: Channels,
        std: Channels,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        self.mean = mean
        self.device = device
        centre = torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1)
        spread = torch.tensor(std, dtype=torch.float64).view(1, -1, 1, 1)
        # x * scale + shift: one multiplication and one addition per pixel instead of three
        # operations.
        self.scale = (1 / (255 * spread)).float().to(device)
        self.shift = (-centre / spread).float().to(device)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, memory_format=self.layout).mul_(self.scale).add_(self.shift)


def pixel_statistics(images: Images, decoded_at_most: int = 2000) -> tuple[Channels, Channels]:
    """Mean and standard deviation per channel, of pixels scaled to [0, 1].

    Of every image in memory, else of evenly spaced files, because decoding takes time. A constant
    channel counts as deviation 1, so that normalising stays finite.
    """
    n = len(images.labels)
    if isinstance(images, ArrayImages):
        chunks: Iterable[Tensor] = images.data.split(1000)
    else:
        step = -(-n // decoded_at_most)
        chunks = (images.pixels(index)[None] for index in range(0, n, step))
    count, total, squares = 0, torch.zeros(1), torch.zeros(1)
    for chunk in chunks:
        x = chunk.double() / 255
        count += x.numel() // x.shape[1]
        total = total + x.sum(dim=(0, 2, 3))
        squares = squares + (x * x).sum(dim=(0, 2, 3))
    mean = total / count
    std = (squares / count - mean * mean).clamp(min=0).sqrt()
    std = torch.where(std < 1e-6, torch.ones_like(std), std)
    return tuple(mean.tolist()), tuple(std.tolist())
