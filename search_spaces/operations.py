"""The primitives of the published cells by name; a user's own operation is one registered function.

Composition and order follow DARTS (Liu et al. 2019, original code `operations.py`):

* inside the *search* network every batch normalisation has no affine parameters, and pooling is
  followed by one (so that the outputs of all candidates have the same scale);
* inside a *final* network batch normalisation is affine and pooling is bare.

Parameter names (`dw1`, `pw1`, `bn1`, `fr.conv1`, ...) are the project's logical keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Of the DARTS space, in the order of the original code; `none` takes part in the softmax only.
DARTS_OPERATIONS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3",
                    "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")

Builder = Callable[[int, int, bool], nn.Module]


@dataclass(frozen=True)
class Operation:
    """A registered primitive: `build(channels, stride, search)` maps [N,C,H,W] to [N,C,H/s,W/s]."""

    name: str
    build: Builder
    zero: bool = False  # contributes nothing and is never computed in the search network
    identity: bool = False  # a skip connection: never dropped by drop-path

    @property
    def learnable(self) -> bool:
        """Whether the stride-1 form has weights (the 'learnable operators' of DARTS+)."""
        return any(True for _ in self.build(2, 1, True).parameters())


OPERATIONS: dict[str, Operation] = {}


def operation(name: str, *, zero: bool = False, identity: bool = False
              ) -> Callable[[Builder], Builder]:
    """Register `build(channels, stride, search) -> Module` under `name`; twice is an error."""

    def register(build: Builder) -> Builder:
        known = OPERATIONS.get(name)
        if known is not None and known.build.__qualname__ != build.__qualname__:
            raise ValueError(f"operation {name!r} is already registered")
        OPERATIONS[name] = Operation(name, build, zero=zero, identity=identity)
        return build

    return register


def get_operation(name: str) -> Operation:
    """The registered operation; ValueError names the known ones."""
    if name not in OPERATIONS:
        raise ValueError(f"unknown operation {name!r}; known: {', '.join(OPERATIONS)}")
    return OPERATIONS[name]


def batch_norm(channels: int, search: bool) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=not search)


class Zero(nn.Module):
    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class Pool(nn.Module):
    """3x3 pooling; in the search network with batch normalisation behind it."""

    def __init__(self, pool: nn.Module, channels: int, search: bool):
        super().__init__()
        self.pool = pool
        self.bn = batch_norm(channels, search) if search else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.pool(x))


class SeparableConv(nn.Module):
    """(ReLU, depthwise kxk, pointwise, BN) twice; the stride is in the first depthwise only."""

    def __init__(self, channels: int, kernel: int, stride: int, search: bool):
        super().__init__()

        def depthwise(s: int) -> nn.Conv2d:
            return nn.Conv2d(channels, channels, kernel, s, kernel // 2, groups=channels,
                             bias=False)

        self.dw1 = depthwise(stride)
        self.pw1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = batch_norm(channels, search)
        self.dw2 = depthwise(1)
        self.pw2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn2 = batch_norm(channels, search)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.pw1(self.dw1(torch.relu(x))))
        return self.bn2(self.pw2(self.dw2(torch.relu(x))))


class DilatedConv(nn.Module):
    """ReLU, depthwise kxk with dilation 2, pointwise, BN (once)."""

    def __init__(self, channels: int, kernel: int, stride: int, search: bool):
        super().__init__()
        self.dw = nn.Conv2d(channels, channels, kernel, stride, kernel - 1, dilation=2,
                            groups=channels, bias=False)
        self.pw = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = batch_norm(channels, search)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.pw(self.dw(torch.relu(x))))


class Conv7x1(nn.Module):
    """AmoebaNet's factorised 7x7: ReLU, 1x7 (stride 1,s), 7x1 (stride s,1), BN."""

    def __init__(self, channels: int, stride: int, search: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False)
        self.conv2 = nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False)
        self.bn = batch_norm(channels, search)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv2(self.conv1(torch.relu(x))))


class ReluConvBN(nn.Module):
    """ReLU, 1x1 convolution, BN: the preprocessing of a cell input."""

    def __init__(self, in_channels: int, channels: int, search: bool):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn = batch_norm(channels, search)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(torch.relu(x)))


class FactorizedReduce(nn.Module):
    """Halve the resolution without losing pixels: two 1x1 stride-2 convolutions, one shifted."""

    def __init__(self, in_channels: int, channels: int, search: bool):
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels must be even for a factorized reduction, got {channels}")
        self.conv1 = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.bn = batch_norm(channels, search)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return self.bn(torch.cat([self.conv1(x), self.conv2(x[:, :, 1:, 1:])], dim=1))


class StridedSkip(nn.Module):
    """The stride-2 skip connection: a factorized reduction that keeps the width."""

    def __init__(self, channels: int, search: bool):
        super().__init__()
        self.fr = FactorizedReduce(channels, channels, search)

    def forward(self, x: Tensor) -> Tensor:
        return self.fr(x)


@operation("none", zero=True)
def none(channels: int, stride: int, search: bool) -> nn.Module:
    return Zero(stride)


@operation("max_pool_3x3")
def max_pool_3x3(channels: int, stride: int, search: bool) -> nn.Module:
    return Pool(nn.MaxPool2d(3, stride, 1), channels, search)


@operation("avg_pool_3x3")
def avg_pool_3x3(channels: int, stride: int, search: bool) -> nn.Module:
    return Pool(nn.AvgPool2d(3, stride, 1, count_include_pad=False), channels, search)


@operation("skip_connect", identity=True)
def skip_connect(channels: int, stride: int, search: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else StridedSkip(channels, search)


@operation("sep_conv_3x3")
def sep_conv_3x3(channels: int, stride: int, search: bool) -> nn.Module:
    return SeparableConv(channels, 3, stride, search)


@operation("sep_conv_5x5")
def sep_conv_5x5(channels: int, stride: int, search: bool) -> nn.Module:
    return SeparableConv(channels, 5, stride, search)


@operation("sep_conv_7x7")
def sep_conv_7x7(channels: int, stride: int, search: bool) -> nn.Module:
    return SeparableConv(channels, 7, stride, search)


@operation("dil_conv_3x3")
def dil_conv_3x3(channels: int, stride: int, search: bool) -> nn.Module:
    return DilatedConv(channels, 3, stride, search)


@operation("dil_conv_5x5")
def dil_conv_5x5(channels: int, stride: int, search: bool) -> nn.Module:
    return DilatedConv(channels, 5, stride, search)


@operation("conv_7x1_1x7")
def conv_7x1_1x7(channels: int, stride: int, search: bool) -> nn.Module:
    return Conv7x1(channels, stride, search)
