"""The final network of the BayesNAS authors' code, for retraining their cells as they were trained.

Differs from `FinalNetwork` in the layer order (BN, ReLU, convolution), full instead of depthwise
dilated convolutions, a plain convolution as stem, 1x1 stride-2 skips and cell inputs, batch norm
before the global pooling, and dropout of whole channels on every operation's output (skip
connections included) instead of drop-path. No auxiliary head. Counts: 2,576k, 3,197k, 2,512k
parameters for the published cells of lambda 0.01, 0.007, 0.005 at 36 channels and 20 cells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from search_spaces.darts.geometry import check_geometry, reductions, resolve_stem
from search_spaces.genotype import Cell, Genotype


def drop_channels(x: Tensor, rate: Tensor) -> Tensor:
    """Dropout2d with its probability on the device: zero whole channels, rescale the rest."""
    keep = 1 - rate
    mask = (torch.rand(*x.shape[:2], 1, 1, device=x.device) < keep).to(x.dtype)
    return x * (mask / keep.to(x.dtype))


def convolution(width: int, out: int, kernel: int, stride: int = 1, dilation: int = 1,
                groups: int = 1) -> nn.Conv2d:
    """Same size at stride 1, no bias."""
    return nn.Conv2d(width, out, kernel, stride, dilation * (kernel // 2), dilation, groups,
                     bias=False)


def normal_relu(width: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(width), nn.ReLU()]


def separable(width: int, kernel: int, stride: int) -> nn.Module:
    """(BN, ReLU, depthwise, pointwise) twice."""
    halves = [[*normal_relu(width), convolution(width, width, kernel, s, groups=width),
               convolution(width, width, 1)] for s in (stride, 1)]
    return nn.Sequential(*halves[0], *halves[1])


def dilated(width: int, kernel: int, stride: int) -> nn.Module:
    """BN, ReLU, full dilated convolution, pointwise."""
    return nn.Sequential(*normal_relu(width), convolution(width, width, kernel, stride, 2),
                         convolution(width, width, 1))


def pool(kind: type[nn.Module], stride: int) -> nn.Module:
    """3x3 behind zero padding, which counts (also as a maximum)."""
    return nn.Sequential(nn.ZeroPad2d(1), kind(3, stride))


def skip(width: int, stride: int) -> nn.Module:
    if stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.BatchNorm2d(width), convolution(width, width, 1, stride))


OPERATIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "sep_conv_3x3": lambda c, s: separable(c, 3, s),
    "sep_conv_5x5": lambda c, s: separable(c, 5, s),
    "dil_conv_3x3": lambda c, s: dilated(c, 3, s),
    "dil_conv_5x5": lambda c, s: dilated(c, 5, s),
    "max_pool_3x3": lambda c, s: pool(nn.MaxPool2d, s),
    "avg_pool_3x3": lambda c, s: pool(nn.AvgPool2d, s),
    "skip_connect": skip,
}


class Halve(nn.Module):
    """Two 1x1 stride-2 convolutions, the second shifted by a pixel; the width stays."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width // 2, 1, 2, bias=False)
        self.conv2 = nn.Conv2d(width, width // 2, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv1(x), self.conv2(x[:, :, 1:, 1:])], dim=1)


class BayesNASCell(nn.Module):
    """The genotype's edges, each with dropout, summed per node and concatenated."""

    def __init__(self, graph: Cell, before: int, previous: int, channels: int, reduction: bool,
                 halve_before: bool, stride_before: int):
        super().__init__()
        self.graph, self.reduction = graph, reduction
        self.pre0 = nn.Sequential(*([Halve(before)] if halve_before else []), *normal_relu(before),
                                  convolution(before, channels, 1, stride_before))
        self.pre1 = nn.Sequential(*normal_relu(previous), convolution(previous, channels, 1))
        self.layers = nn.ModuleList()
        for op, source, _ in graph.edges:
            if op not in OPERATIONS:
                raise ValueError(f"evaluation.network: BayesNASNetwork has no layer for {op!r}, it "
                                 f"has {', '.join(OPERATIONS)}")
            self.layers.append(OPERATIONS[op](channels, 2 if reduction and source < 2 else 1))

    def forward(self, before: Tensor, previous: Tensor, drop: Tensor | None) -> Tensor:
        states: dict[int, Tensor] = {0: self.pre0(before), 1: self.pre1(previous)}
        for node in range(2, self.graph.last_node + 1):
            total = None
            for layer, (_, source, target) in zip(self.layers, self.graph.edges, strict=True):
                if target == node:
                    y = layer(states[source])
                    y = y if drop is None else drop_channels(y, drop)
                    total = y if total is None else total + y
            if total is None:  # a node without inputs is zero
                x = states[0]
                total = torch.zeros_like(x[:, :, ::2, ::2] if self.reduction else x)
            states[node] = total
        return torch.cat([states[n] for n in self.graph.concat], dim=1)


class BayesNASNetwork(nn.Module):
    """`network(x) -> (logits, None)`; arguments and `drop_rate` as in `FinalNetwork`, where
    `drop_path` switches the dropout on. ValueError where a size or operation cannot work."""

    def __init__(self, genotype: Genotype, channels: int, cells: int, classes: int, *,
                 image_size: int = 32, in_channels: int = 3, stem: str = "auto",
                 auxiliary: bool = False, drop_path: bool = False,
                 squeeze_excitation: bool = False):
        super().__init__()
        kind = resolve_stem(stem, image_size)
        check_geometry(image_size, kind, channels, cells)
        if classes < 2:
            raise ValueError(f"classes must be at least 2, got {classes}")
        if auxiliary:
            raise ValueError("evaluation.auxiliary_weight: must be 0, BayesNASNetwork has no "
                             "auxiliary head")
        if squeeze_excitation:
            raise ValueError("evaluation.squeeze_excitation: must be false, BayesNASNetwork has "
                             "none")
        self.cells, self.drop_path = cells, drop_path
        self.register_buffer("drop_rate", torch.zeros(()), persistent=False)
        imagenet = kind == "imagenet"
        if imagenet:
            self.stem0 = nn.Sequential(
                convolution(in_channels, channels // 2, 3, 2), nn.BatchNorm2d(channels // 2),
                nn.ReLU(), convolution(channels // 2, channels, 3, 2), nn.BatchNorm2d(channels))
            self.stem1 = nn.Sequential(nn.ReLU(), convolution(channels, channels, 3, 2))
        else:
            front = [convolution(in_channels, 3 * channels, 3, 2), *normal_relu(3 * channels)] \
                if kind == "strided" else []
            self.stem = nn.Sequential(*front, convolution(3 * channels if front else in_channels,
                                                          3 * channels, 3))
        before = previous = channels if imagenet else 3 * channels
        at, width, halve = reductions(cells), channels, False
        for i in range(cells):
            reduction = i in at
            width *= 2 if reduction else 1
            graph = genotype.reduce if reduction else genotype.normal
            # The released ImageNet network adds maps of unequal size in its first cell.
            stride = 2 if imagenet and i == 0 else 1
            self.add_module(f"cell{i}", BayesNASCell(graph, before, previous, width, reduction,
                                                     halve, stride))
            before, previous, halve = previous, len(graph.concat) * width, reduction
        self.bn = nn.BatchNorm2d(previous)
        self.classifier = nn.Linear(previous, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """x [N,channels,H,W] -> logits [N, classes] and None for the auxiliary logits."""
        if hasattr(self, "stem0"):
            before = self.stem0(x)
            previous = self.stem1(before)
        else:
            before = previous = self.stem(x)
        drop = self.drop_rate if self.training and self.drop_path else None
        for i in range(self.cells):
            before, previous = previous, self.get_submodule(f"cell{i}")(before, previous, drop)
        return self.classifier(self.bn(previous).mean(dim=(2, 3))), None
