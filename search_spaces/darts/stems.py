"""What turns an image into the two inputs of the first cell (DARTS 1.3 to 1.5)."""

from __future__ import annotations

from torch import nn


def strided_front(in_channels: int, channels: int) -> list[nn.Module]:
    """DARTS+ on Tiny-ImageNet: a stride-2 convolution to 3C, BN, ReLU before the usual stem."""
    return [nn.Conv2d(in_channels, 3 * channels, 3, 2, 1, bias=False),
            nn.BatchNorm2d(3 * channels), nn.ReLU()]


def imagenet_stems(in_channels: int, channels: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Three stride-2 convolutions (224 -> 28): two in the first stem, one in the second."""
    stem0 = nn.Sequential(
        nn.Conv2d(in_channels, channels // 2, 3, 2, 1, bias=False),
        nn.BatchNorm2d(channels // 2), nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels))
    stem1 = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 3, 2, 1, bias=False),
                          nn.BatchNorm2d(channels))
    return stem0, stem1
