"""The plain search network (DARTS 1.1 to 1.3): weights only, mixing coefficients from outside.

Parameters and buffers are named by logical keys: `stem.conv.weight`, `cell3.pre0.conv.weight`,
`cell3.edge0->2.sep_conv_3x3.dw1.weight`, `classifier.weight`. This readable per-edge network is the
oracle for every faster form, which shares its parameters and state.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from search_spaces.darts.geometry import check_geometry, reductions, resolve_stem
from search_spaces.darts.stems import imagenet_stems, strided_front
from search_spaces.mixing import Mixing
from search_spaces.operations import FactorizedReduce, ReluConvBN, get_operation
from search_spaces.space import CellSpace


def search_stem(kind: str, in_channels: int, channels: int) -> nn.Module:
    """[N,in,H,W] -> two cell inputs. `cifar`: conv 3x3 to 3C and BN, no ReLU, used twice."""
    if kind == "imagenet":
        return ImageNetStem(in_channels, channels)
    stem = OrderedDict(conv=nn.Conv2d(in_channels, 3 * channels, 3, padding=1, bias=False),
                       bn=nn.BatchNorm2d(3 * channels))
    if kind == "strided":  # DARTS+ on Tiny-ImageNet: a stride-2 convolution in front
        front = OrderedDict(zip(("conv0", "bn0", "relu0"), strided_front(in_channels, channels),
                                strict=True))
        stem["conv"] = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, bias=False)
        stem = OrderedDict(**front, **stem)
    return nn.Sequential(stem)


class ImageNetStem(nn.Module):
    """Three stride-2 convolutions (224 -> 28); cell inputs are the second and the third output."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.stem0, self.stem1 = imagenet_stems(in_channels, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem0(x)
        return x, self.stem1(x)


class SearchCell(nn.Module):
    """All edges of a cell, each with every candidate operation."""

    def __init__(self, space: CellSpace, before: int, previous: int, channels: int,
                 reduction: bool, reduction_before: bool):
        super().__init__()
        self.space, self.reduction = space, reduction
        self.pre0 = (FactorizedReduce if reduction_before else ReluConvBN)(before, channels, True)
        self.pre1 = ReluConvBN(previous, channels, True)
        for source, target in space.edges:
            stride = 2 if reduction and source < 2 else 1
            self.add_module(f"edge{source}->{target}", nn.ModuleDict(
                {name: get_operation(name).build(channels, stride, True)
                 for name in space.operations}))

    def edge(self, index: int) -> nn.ModuleDict:
        """The candidate operations of one edge, by name."""
        source, target = self.space.edges[index]
        edge = self.get_submodule(f"edge{source}->{target}")
        assert isinstance(edge, nn.ModuleDict)
        return edge

    def forward(self, before: Tensor, previous: Tensor, weights: list[list[Tensor]],
                live: list[list[bool]]) -> Tensor:
        """weights[e][o]: scalar or [N,1,1,1]; live[e][o]: computed or not. -> [N, nodes*C, ...]"""
        states = [self.pre0(before), self.pre1(previous)]
        for node in self.space.concat:
            total = None
            for e in self.space.incoming(node):
                operations, x = self.edge(e), states[self.space.edges[e][0]]
                for o in self.space.real:
                    if live[e][o]:
                        y = operations[self.space.operations[o]](x)
                        total = weights[e][o] * y if total is None else \
                            torch.addcmul(total, weights[e][o], y)
            if total is None:  # no live input: the node is zero
                x = states[0]
                total = torch.zeros_like(x[:, :, ::2, ::2] if self.reduction else x)
            states.append(total)
        return torch.cat(states[2:], dim=1)


class SearchNetwork(nn.Module):
    """`network(x, mixing) -> logits`.

    Arguments: the space, channels C of the first cells, number of cells, classes; image edge length
    and colour channels; `stem` (auto, cifar, strided, imagenet); `share_cells`: one row of mixing
    per cell type, or one per cell. Raises ValueError where a size cannot work.
    """

    def __init__(self, space: CellSpace, channels: int, cells: int, classes: int, *,
                 image_size: int = 32, in_channels: int = 3, stem: str = "auto",
                 share_cells: bool = True):
        super().__init__()
        self.space, self.cells = space, cells
        kind = resolve_stem(stem, image_size)
        check_geometry(image_size, kind, channels, cells)
        if classes < 2:
            raise ValueError(f"classes must be at least 2, got {classes}")
        at = reductions(cells)
        self.reduction = tuple(i in at for i in range(cells))
        if not share_cells and all(self.reduction):
            raise ValueError(f"cells: {cells} are all reduction cells; separate parameters per "
                             "cell need at least 3 cells")
        self.rows = tuple(int(r) for r in self.reduction) if share_cells else tuple(range(cells))
        self.row_types = (0, 1) if share_cells else tuple(int(r) for r in self.reduction)

        self.stem = search_stem(kind, in_channels, channels)
        before = previous = channels if kind == "imagenet" else 3 * channels
        reduction_before = kind == "imagenet"
        width = channels
        for i, reduction in enumerate(self.reduction):
            width *= 2 if reduction else 1
            self.add_module(f"cell{i}", SearchCell(space, before, previous, width, reduction,
                                                   reduction_before))
            before, previous, reduction_before = previous, space.nodes * width, reduction
        self.classifier = nn.Linear(previous, classes)

    @property
    def mixing_shape(self) -> tuple[int, int, int]:
        """(rows, edges, operations) of the mixing coefficients."""
        return len(self.row_types), len(self.space.edges), len(self.space.operations)

    def place(self, values: Tensor) -> Tensor:
        """A copy on the network's device in its parameter type."""
        return values.to(self.classifier.weight, copy=True)

    def cell(self, index: int) -> SearchCell:
        cell = self.get_submodule(f"cell{index}")
        assert isinstance(cell, SearchCell)
        return cell

    def forward(self, x: Tensor, mixing: Mixing | Tensor) -> Tensor:
        """x [N,channels,H,W] -> logits [N, classes]."""
        if isinstance(mixing, Tensor):
            mixing = Mixing(mixing)
        if tuple(mixing.weights.shape[-3:]) != self.mixing_shape:
            raise ValueError(f"mixing must be {self.mixing_shape}, "
                             f"got {tuple(mixing.weights.shape)}")
        live = mixing.live_mask().tolist()
        rows = _scalars(mixing.weights)
        stem = self.stem(x)
        before, previous = stem if isinstance(stem, tuple) else (stem, stem)
        for i, row in enumerate(self.rows):
            before, previous = previous, self.cell(i)(before, previous, rows[row], live[row])
        return self.classifier(previous.mean(dim=(2, 3)))


def _scalars(weights: Tensor) -> list[list[list[Tensor]]]:
    """[..., rows, edges, operations] -> nested lists of coefficients, split by one graph node."""
    *batch, rows, edges, operations = weights.shape
    flat = weights.reshape(*batch, -1).unbind(-1)
    if batch:
        flat = tuple(w.view(-1, 1, 1, 1) for w in flat)
    return [[list(flat[(r * edges + e) * operations:(r * edges + e + 1) * operations])
             for e in range(edges)] for r in range(rows)]
