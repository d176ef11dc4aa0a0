"""One forward pass over a cell on the CPU kernels, and what its backward pass will need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.darts.fast.cpu.calls import (
    addresses,
    check_count,
    doubles,
    factor,
    pointers,
    threads_for,
)
from search_spaces.darts.fast.cpu.native import Shape, library
from search_spaces.darts.fast.terms import Point, Stage, Term, running
from search_spaces.darts.search_network import SearchCell


def own_parameters(term: Term) -> list[Tensor]:
    """Depthwise and pointwise weights per stage, or a library term's own."""
    if term.kind == "library":
        return list(term.module.parameters())
    convolutions = term.point.convolutions if term.point else [
        c for s in term.stages for c in (s.depthwise, s.pointwise)]
    return [c.weight for c in convolutions]


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
        # of library terms: input, output, parameters
        self.graphs: dict[tuple[int, int], tuple[Tensor, Tensor, list[Tensor]]] = {}
        self.spans: dict[tuple[int, int], slice] = {}  # of each term, in the flat parameters
        self.total = 0
        for t in (t for node in terms for t in node):
            start, self.total = self.total, self.total + len(own_parameters(t))
            self.spans[t.edge, t.operation] = slice(start, self.total)
        self.own: dict[tuple[int, int], list[Tensor]] = {}  # during `forward`

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

    def by_term(self, parameters: Sequence[Tensor]) -> dict[tuple[int, int], list[Tensor]]:
        """The flat parameters, as the kernels can read them."""
        return {key: [p.contiguous() for p in parameters[span]]
                for key, span in self.spans.items()}

    def forward(self, parameters: Sequence[Tensor]) -> Tensor:
        self.own = self.by_term(parameters)
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
                self.kernels.combine(self.shape(), len(terms), pointers(tensors), addresses(stats),
                                     doubles(weights), out.data_ptr())
            else:
                out.zero_()
            self.h.append(out)
            nodes.append(out)
        self.update_running()
        self.own = {}  # the backward pass gets them from autograd, which knows if they changed
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
        self.graphs[t.edge, t.operation] = (x, y, own_parameters(t))
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
        weights = self.own[t.edge, t.operation]
        for i, stage in enumerate(t.stages):
            z, address = self.output(), self.slot() if self.cell.training else 0
            self.kernels.conv_forward(
                self.stage_shape(source, stage), x.data_ptr(), stat or None,
                weights[2 * i].data_ptr(), weights[2 * i + 1].data_ptr(),
                z.data_ptr(), stage.norm.eps, address or None)
            address = self.normal(stage.norm, address)
            if self.keep or i + 1 == len(t.stages):
                self.z[t.edge, t.operation, i] = z
                self.stat[t.edge, t.operation, i] = address
            x, stat, source = z, address, 2
        return x, stat

    def reduce(self, t: Term, point: Point) -> tuple[Tensor, int]:
        z, address = self.output(), self.slot() if self.cell.training else None
        self.kernels.point_forward(
            self.point_shape(t, point), self.h[t.source].data_ptr(),
            pointers(self.own[t.edge, t.operation]), self.channels, z.data_ptr(), point.norm.eps,
            address)
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
        self.kernels.update_running(
            self.shape(), len(means), addresses([stat for _, stat in self.norms]), pointers(means),
            pointers(variances), doubles([factor(norm) for norm, _ in self.norms]))
