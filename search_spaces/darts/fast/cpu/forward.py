"""One forward pass over a cell on the CPU kernels, and what its backward pass will need."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.darts.fast.cpu.calls import (
    address_of,
    check_count,
    factor,
    pointers_to,
    threads_for,
)
from search_spaces.darts.fast.cpu.native import Shape, library
from search_spaces.darts.fast.terms import Point, Stage, Term, running
from search_spaces.darts.search_network import SearchCell


class CellForward:
    """One forward pass over a cell, and what its backward pass needs."""

    def __init__(self, cell: SearchCell, terms: Sequence[Sequence[Term]], weights: Tensor,
                 states: list[Tensor], keep: bool):
        self.cell, self.terms, self.keep = cell, terms, keep
        self.h = states  # NHWC contiguous, per node
        first = states[0]
        self.kernels = library(first.dtype)
        self.options: dict[str, Any] = {"dtype": first.dtype, "device": first.device}
        self.values = weights.double().tolist()
        n, height, width, self.channels = first.shape
        stride = 2 if cell.reduction else 1
        self.sizes = (n, height, width, height // stride, width // stride)
        self.pixels = n * self.sizes[3] * self.sizes[4]
        self.threads = threads_for(self.pixels * self.channels)
        slots = sum(max(1, len(t.norms)) for node in terms for t in node) + 2 * (len(terms) + 2)
        self.stats = torch.empty(slots, 3, self.channels, dtype=torch.float64)
        self.base, self.row, self.next = self.stats.data_ptr(), 24 * self.channels, 0
        self.norms: list[tuple[nn.BatchNorm2d, int]] = []
        self.z: dict[tuple[int, int, int], Tensor] = {}  # (edge, operation, stage)
        self.stat: dict[tuple[int, int, int], int] = {}
        self.pools: dict[tuple[int, str], tuple[Tensor, int]] = {}  # (source, kind)
        self.graphs: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # library: input, output

    def shape(self, source: int = 2, kernel: int = 0, stride: int = 1, dilation: int = 1) -> Shape:
        n, big_h, big_w, h, w = self.sizes
        big = source < 2
        return Shape(n, big_h if big else h, big_w if big else w, self.channels, h, w, kernel,
                     stride, dilation, self.threads)

    def slot(self) -> int:
        self.next += 1
        return self.base + (self.next - 1) * self.row

    def output(self) -> Tensor:
        n, _, _, h, w = self.sizes
        return torch.empty((n, h, w, self.channels), **self.options)

    def forward(self) -> Tensor:
        nodes = []
        for terms in self.terms:
            out = self.output()
            tensors, stats, weights = [], [], []
            for t in terms:
                tensor, stat = self.term(t)
                tensors.append(tensor)
                stats.append(stat)
                weights.append(self.values[t.edge][t.operation])
            if terms:
                a, x = pointers_to([v.data_ptr() for v in tensors])
                b, s = pointers_to(stats)
                c = array("d", weights)
                self.kernels.combine(self.shape(), len(a), x, s, c.buffer_info()[0], out.data_ptr())
            else:
                out.zero_()
            self.h.append(out)
            nodes.append(out)
        self.update_running()
        return torch.cat(nodes, dim=-1).permute(0, 3, 1, 2)

    def term(self, t: Term) -> tuple[Tensor, int]:
        """The tensor to be weighted and the address of its statistics (0: as it is)."""
        if t.kind == "skip":
            return self.h[t.source], 0
        if t.kind in ("max", "avg"):
            self.pool(t)
            tensor, stat = self.pools[t.source, t.kind]
            assert t.pool_norm is not None
            return tensor, self.normal(t.pool_norm, stat)
        if t.kind == "conv":
            return self.conv(t)
        if t.point:
            return self.reduce(t, t.point)
        with torch.enable_grad() if self.keep else torch.no_grad():
            x = self.h[t.source].permute(0, 3, 1, 2).detach().requires_grad_(self.keep)
            y = t.module(x)
        self.graphs[t.edge, t.operation] = (x, y)
        return y.detach().permute(0, 2, 3, 1).contiguous(), 0

    def output_of(self, t: Term) -> tuple[Tensor, int]:
        """The tensor that was weighted and the address of its statistics, after `forward`."""
        if t.kind == "skip":
            return self.h[t.source], 0
        if t.kind in ("max", "avg"):
            return self.pools[t.source, t.kind]
        if t.kind == "library":
            return self.graphs[t.edge, t.operation][1].detach().permute(0, 2, 3, 1).contiguous(), 0
        key = (t.edge, t.operation, len(t.norms) - 1)
        return self.z[key], self.stat[key]

    def normal(self, norm: nn.BatchNorm2d, stat: int) -> int:
        """In training note the statistics for the running ones, else use the running ones."""
        if self.cell.training:
            self.norms.append((norm, stat))
            return stat
        index = self.next
        address = self.slot()
        mean, variance, _ = running(norm)
        self.stats[index, 0] = mean
        self.stats[index, 1] = (variance.double() + norm.eps).rsqrt()
        return address

    def pool(self, t: Term) -> None:
        """Both pools of a node at once, where any edge will need them."""
        if (t.source, t.kind) in self.pools:
            return
        kinds = {u.kind for node in self.terms for u in node if u.source == t.source}
        out = {k: (self.output(), self.slot() if self.cell.training else 0)
               for k in ("max", "avg") if k in kinds}
        most, mean = out.get("max"), out.get("avg")
        stride = 2 if self.cell.reduction and t.source < 2 else 1
        assert t.pool_norm is not None
        self.kernels.pool_forward(
            self.shape(t.source, stride=stride), self.h[t.source].data_ptr(),
            most and most[0].data_ptr(), mean and mean[0].data_ptr(), t.pool_norm.eps,
            most and most[1] or None, mean and mean[1] or None)
        for kind, value in out.items():
            self.pools[t.source, kind] = value

    def conv(self, t: Term) -> tuple[Tensor, int]:
        x, stat, source = self.h[t.source], 0, t.source
        for i, stage in enumerate(t.stages):
            z, address = self.output(), self.slot() if self.cell.training else 0
            self.kernels.conv_forward(
                self.stage_shape(source, stage), x.data_ptr(), stat or None,
                address_of(stage.depthwise.weight), address_of(stage.pointwise.weight),
                z.data_ptr(), stage.norm.eps, address or None)
            address = self.normal(stage.norm, address)
            if self.keep or i + 1 == len(t.stages):
                self.z[t.edge, t.operation, i] = z
                self.stat[t.edge, t.operation, i] = address
            x, stat, source = z, address, 2
        return x, stat

    def reduce(self, t: Term, point: Point) -> tuple[Tensor, int]:
        z, address = self.output(), self.slot() if self.cell.training else None
        weights, pointers = pointers_to([address_of(c.weight) for c in point.convolutions])
        shape = self.point_shape(t, point)
        self.kernels.point_forward(shape, self.h[t.source].data_ptr(), pointers,
                                   self.channels, z.data_ptr(), point.norm.eps, address)
        key = (t.edge, t.operation, 0)
        self.z[key], self.stat[key] = z, self.normal(point.norm, address or 0)
        return z, self.stat[key]

    def point_shape(self, t: Term, point: Point) -> Shape:
        return self.shape(t.source, len(point.convolutions), point.stride)

    def stage_shape(self, source: int, stage: Stage) -> Shape:
        return self.shape(source, stage.kernel, stage.depthwise.stride[0],
                          stage.depthwise.dilation[0])

    def update_running(self) -> None:
        """What `nn.BatchNorm2d` does in training, for all live norms of the cell together."""
        if not self.norms:
            return
        check_count(self.pixels)
        means, variances, counts = zip(*(running(norm) for norm, _ in self.norms), strict=True)
        torch._foreach_add_(list(counts), 1)
        momenta = array("d", [factor(norm) for norm, _ in self.norms])
        a, stats = pointers_to([stat for _, stat in self.norms])
        b, at_means = pointers_to([address_of(v) for v in means])
        c, at_variances = pointers_to([address_of(v) for v in variances])
        self.kernels.update_running(self.shape(), len(a), stats, at_means, at_variances,
                                    momenta.buffer_info()[0])
