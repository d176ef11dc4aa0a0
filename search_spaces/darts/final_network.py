"""Final networks: a derived genotype stacked and trained from scratch (DARTS 1.4 to 1.6).

Stems and heads follow from the image size; the CIFAR and ImageNet networks of the original code are
the 32- and 224-pixel cases. Parameters are named by logical keys (`cell0.edge1->2[1].sep_conv_3x3.
bn1.bias`: list position in brackets), the rest as in the original code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_spaces.darts.geometry import check_geometry, reductions, resolve_stem
from search_spaces.darts.stems import imagenet_stems, strided_front
from search_spaces.genotype import Cell, Genotype
from search_spaces.operations import FactorizedReduce, ReluConvBN, get_operation


def drop_path(x: Tensor, rate: Tensor) -> Tensor:
    """Zero whole samples with probability `rate` and rescale the rest (DARTS 1.6)."""
    keep = 1 - rate
    mask = (torch.rand(x.shape[0], 1, 1, 1, device=x.device) < keep).to(x.dtype)
    return x * (mask / keep.to(x.dtype))


class FinalCell(nn.Module):
    """One cell of the final network: the genotype's edges, summed per node, concatenated."""

    def __init__(self, graph: Cell, before: int, previous: int, channels: int,
                 reduction: bool, reduction_before: bool):
        super().__init__()
        self.graph, self.reduction = graph, reduction
        self.pre0 = (FactorizedReduce if reduction_before else ReluConvBN)(before, channels, False)
        self.pre1 = ReluConvBN(previous, channels, False)
        self.excite: nn.Module = nn.Identity()
        self.names = []
        for i, (op, source, target) in enumerate(graph.edges):
            stride = 2 if reduction and source < 2 else 1
            self.names.append(f"edge{source}->{target}[{i}]")
            self.add_module(self.names[-1], nn.ModuleDict(
                {op: get_operation(op).build(channels, stride, False)}))

    def forward(self, before: Tensor, previous: Tensor, drop_rate: Tensor | None) -> Tensor:
        states: dict[int, Tensor] = {0: self.pre0(before), 1: self.pre1(previous)}
        for node in range(2, self.graph.last_node + 1):
            total = None
            for name, (op, source, target) in zip(self.names, self.graph.edges, strict=True):
                if target != node:
                    continue
                module = self.get_submodule(f"{name}.{op}")
                y = module(states[source])
                if drop_rate is not None and not isinstance(module, nn.Identity):
                    y = drop_path(y, drop_rate)
                total = y if total is None else total + y
            if total is None:  # a node without inputs is zero
                x = states[0]
                total = torch.zeros_like(x[:, :, ::2, ::2] if self.reduction else x)
            states[node] = total
        return self.excite(torch.cat([states[n] for n in self.graph.concat], dim=1))


class SqueezeExcitation(nn.Module):
    """Channel attention on a cell's output (Hu et al. 2018). DARTS+ does not say where its SE
    modules sit; behind every cell with ratio 8 its ImageNet network has the published 6.1 M
    parameters."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(1, channels // 8)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean(dim=(2, 3))))))
        return x * scale[:, :, None, None]


class AuxiliaryHead(nn.Module):
    """The extra classifier on the second reduction cell, used in training only.

    8x8 maps are pooled 5x5 with stride 3, 7x7 maps with stride 2 (the two cases of the original),
    other sizes adaptively, always to 2x2. `imagenet` keeps the original's missing last BN.
    """

    def __init__(self, channels: int, size: int, classes: int, imagenet: bool):
        super().__init__()
        if size < 2:
            raise ValueError(f"the auxiliary head needs maps of at least 2x2, got {size}x{size}; "
                             "set evaluation.auxiliary_weight=0")
        pool = nn.AvgPool2d(5, 3 if size == 8 else 2, count_include_pad=False) \
            if size in (7, 8) else nn.AdaptiveAvgPool2d(2)
        self.features = nn.Sequential(
            nn.ReLU(), pool,
            nn.Conv2d(channels, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            *([] if imagenet else [nn.BatchNorm2d(768)]), nn.ReLU())
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class FinalNetwork(nn.Module):
    """`network(x) -> (logits, auxiliary logits or None)`; the auxiliary only in training mode.

    `drop_rate` is a buffer the trainer fills each epoch; with `drop_path=False` none is drawn.
    Raises ValueError where a size cannot work.
    """

    def __init__(self, genotype: Genotype, channels: int, cells: int, classes: int, *,
                 image_size: int = 32, in_channels: int = 3, stem: str = "auto",
                 auxiliary: bool = False, drop_path: bool = False,
                 squeeze_excitation: bool = False):
        super().__init__()
        kind = resolve_stem(stem, image_size)
        last = check_geometry(image_size, kind, channels, cells)
        if classes < 2:
            raise ValueError(f"classes must be at least 2, got {classes}")
        self.cells, self.drop_path = cells, drop_path
        self.register_buffer("drop_rate", torch.zeros(()), persistent=False)
        imagenet = kind == "imagenet"
        if imagenet:
            self.stem0, self.stem1 = imagenet_stems(in_channels, channels)
        else:
            front = strided_front(in_channels, channels) if kind == "strided" else []
            width = 3 * channels if front else in_channels
            self.stem = nn.Sequential(*front, nn.Conv2d(width, 3 * channels, 3, 1, 1, bias=False),
                                      nn.BatchNorm2d(3 * channels))
        before = previous = channels if imagenet else 3 * channels
        reduction_before, width = imagenet, channels
        at = reductions(cells)
        for i in range(cells):
            reduction = i in at
            width *= 2 if reduction else 1
            graph = genotype.reduce if reduction else genotype.normal
            cell = FinalCell(graph, before, previous, width, reduction, reduction_before)
            if squeeze_excitation:
                cell.excite = SqueezeExcitation(len(graph.concat) * width)
            self.add_module(f"cell{i}", cell)
            before, previous, reduction_before = previous, len(graph.concat) * width, reduction
            if i == at[-1]:
                auxiliary_width = previous
        self.auxiliary_cell = at[-1]
        self.auxiliary_head = AuxiliaryHead(auxiliary_width, last, classes, imagenet) \
            if auxiliary else None
        self.classifier = nn.Linear(previous, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x [N,channels,H,W] -> logits [N, classes] and, in training, auxiliary logits."""
        if hasattr(self, "stem0"):
            before = self.stem0(x)
            previous = self.stem1(before)
        else:
            before = previous = self.stem(x)
        rate = self.drop_rate if self.training and self.drop_path else None
        auxiliary = None
        for i in range(self.cells):
            before, previous = previous, self.get_submodule(f"cell{i}")(before, previous, rate)
            if i == self.auxiliary_cell and self.training and self.auxiliary_head is not None:
                auxiliary = self.auxiliary_head(previous)
        return self.classifier(previous.mean(dim=(2, 3))), auxiliary
