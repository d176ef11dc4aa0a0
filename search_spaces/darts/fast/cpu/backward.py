"""One backward pass over a cell on the CPU kernels, from its last node to its inputs."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from search_spaces.darts.fast.cpu.calls import addresses, doubles, or_null, pointers
from search_spaces.darts.fast.cpu.forward import CellForward
from search_spaces.darts.fast.terms import Point, Term


class CellBackward:
    """gradient [N, nodes*C, h, w]; what is wanted: of the mixing, of the two inputs, of the
    parameters, which are given as in the forward pass. Results: `mixing` [E,O] as lists, `inputs`
    (NHWC or None), `found` per parameter."""

    def __init__(self, run: CellForward, own: Sequence[Tensor], gradient: Tensor, mixing: bool,
                 inputs: tuple[bool, bool], parameters: bool):
        self.run, self.parameters = run, parameters
        self.own = run.by_term(own)
        self.wanted = (*inputs, *[True] * len(run.terms))
        self.mixing = [[0.0] * len(row) for row in run.values]
        self.found: list[Tensor | None] = [None] * run.total
        self.sums: dict[int, Tensor] = {}  # per node, growing until it is complete
        self.direct: dict[int, list[tuple[Tensor, float]]] = {}  # what skips bring
        self.pooled: dict[tuple[int, str], list[tuple[Tensor, int, float]]] = {}
        self.held: list[Tensor] = []  # memory whose address is noted
        self.slices = gradient.permute(0, 2, 3, 1).split(run.channels, dim=-1)
        for node in reversed(range(2, len(run.h))):
            dy = self.complete(node)
            if run.terms[node - 2]:
                self.spread(node, dy, mixing)
        used = {*self.sums, *self.direct, *(source for source, _ in self.pooled)}
        self.inputs = [self.complete(i) if self.wanted[i] and i in used else None  # not zeros
                       for i in (0, 1)]

    def sum_of(self, node: int) -> Tensor:
        """Where the gradient of a node grows; it begins as that of the cell's own output."""
        if node not in self.sums:
            self.sums[node] = (torch.zeros_like(self.run.h[node]) if node < 2 else self.slices[
                node - 2].clone(memory_format=torch.contiguous_format))
        return self.sums[node]

    def complete(self, node: int) -> Tensor:
        """Add skips and pools to what came from the output and from convolutions."""
        run, total = self.run, self.sum_of(node)
        x = run.h[node]
        if node in self.direct:
            terms = [(total, 1.0), *self.direct[node]]
            shape = run.shape()
            shape.h, shape.w = x.shape[1], x.shape[2]
            run.kernels.combine(shape, len(terms), pointers([v for v, _ in terms]),
                                addresses([0] * len(terms)), doubles([w for _, w in terms]),
                                total.data_ptr())
        most, mean = self.pool_gradient(node, "max"), self.pool_gradient(node, "avg")
        if most is not None or mean is not None:
            stride = 2 if run.cell.reduction and node < 2 else 1
            run.kernels.pool_backward(run.shape(node, stride=stride), x.data_ptr(), or_null(most),
                                      or_null(mean), total.data_ptr())
        return total

    def pool_gradient(self, node: int, kind: str) -> Tensor | None:
        run = self.run
        uses = self.pooled.get((node, kind))
        if not uses:
            return None
        tensor, stat = run.pools[node, kind]
        out = run.output()
        dy, sums, weights = zip(*uses, strict=True)
        run.kernels.shared_gradient(run.shape(), len(uses), pointers(dy), addresses(sums),
                                    doubles(weights), tensor.data_ptr(), stat, out.data_ptr())
        return out

    def spread(self, node: int, dy: Tensor, mixing: bool) -> None:
        """From a node's gradient to those of its inputs, operation by operation."""
        run = self.run
        terms = [t for t in run.terms[node - 2] if mixing or t.kind != "skip"]
        tensors, stats = [], []
        for t in terms:
            tensor, stat = run.output_of(t)
            tensors.append(tensor)
            stats.append(stat)
        sums = torch.empty(len(terms), 2, run.channels, dtype=torch.float64)
        self.held.append(sums)
        found = array("d", [0.0] * len(terms))
        if terms:
            run.kernels.node_sums(run.shape(), len(terms), pointers(tensors), addresses(stats),
                                  dy.data_ptr(), sums.data_ptr(), found.buffer_info()[0])
        for t, value in zip(terms, found, strict=True):
            self.mixing[t.edge][t.operation] = value
        address = dict(zip(((t.edge, t.operation) for t in terms),
                           range(sums.data_ptr(), sums.data_ptr() + sums.nbytes,
                                 16 * run.channels), strict=True))
        for t in run.terms[node - 2]:
            weight = run.values[t.edge][t.operation]
            if t.kind == "conv":
                self.conv(t, dy, address[t.edge, t.operation], weight)
            elif t.point:
                self.reduce(t, t.point, dy, address[t.edge, t.operation], weight)
            elif t.kind == "library":
                self.library(t, dy, weight)
            elif self.wanted[t.source] and t.kind == "skip":
                self.direct.setdefault(t.source, []).append((dy, weight))
            elif self.wanted[t.source]:
                self.pooled.setdefault((t.source, t.kind), []).append(
                    (dy, address[t.edge, t.operation], weight))

    def conv(self, t: Term, dy: Tensor, sums: int, weight: float) -> None:
        run = self.run
        if not (self.parameters or self.wanted[t.source]):
            return
        weights = self.own[t.edge, t.operation]
        for i in reversed(range(len(t.stages))):
            stage, key = t.stages[i], (t.edge, t.operation, i)
            first = i == 0
            x = run.h[t.source] if first else run.z[t.edge, t.operation, i - 1]
            stat = None if first else run.stat[t.edge, t.operation, i - 1]
            dx = self.sum_of(t.source) if first else torch.empty_like(x)
            below = torch.empty(2, run.channels, dtype=torch.float64)  # sums, not for the first
            depthwise, pointwise = self.targets(t, 2 * i, 2 * i + 2) or (None, None)
            run.kernels.conv_backward(
                run.stage_shape(t.source if first else 2, stage), x.data_ptr(), stat,
                weights[2 * i].data_ptr(), weights[2 * i + 1].data_ptr(),
                run.z[key].data_ptr(), run.stat[key], dy.data_ptr(), sums, weight,
                dx.data_ptr(), None if first else below.data_ptr(), or_null(depthwise),
                or_null(pointwise))
            if not first:
                dy, sums, weight = dx, below.data_ptr(), 1.0
                self.held.append(below)

    def reduce(self, t: Term, point: Point, dy: Tensor, sums: int, weight: float) -> None:
        run = self.run
        weights, key = self.own[t.edge, t.operation], (t.edge, t.operation, 0)
        found = self.targets(t, 0, len(weights))
        dx = self.sum_of(t.source) if self.wanted[t.source] else None
        run.kernels.point_backward(
            run.point_shape(t, point), run.h[t.source].data_ptr(), pointers(weights), run.channels,
            run.z[key].data_ptr(), run.stat[key], dy.data_ptr(), sums, weight, or_null(dx), 1,
            pointers(found) if found else None)

    def targets(self, t: Term, start: int, stop: int) -> list[Tensor]:
        """Where the gradients of these parameters of a term go; empty: not wanted."""
        if not self.parameters:
            return []
        found = [torch.empty_like(w) for w in self.own[t.edge, t.operation][start:stop]]
        first = self.run.spans[t.edge, t.operation].start
        self.found[first + start:first + stop] = found
        return found

    def library(self, t: Term, dy: Tensor, weight: float) -> None:
        run = self.run
        x, y, own = run.graphs[t.edge, t.operation]
        if not y.requires_grad:  # a constant
            return
        trained = {i: p for i, p in enumerate(own, run.spans[t.edge, t.operation].start)
                   if p.requires_grad and self.parameters}
        dx, *rest = torch.autograd.grad(y, [x, *trained.values()],
                                        (weight * dy).permute(0, 3, 1, 2), retain_graph=True,
                                        allow_unused=True)
        for i, g in zip(trained, rest, strict=True):
            self.found[i] = g
        if dx is not None and self.wanted[t.source]:
            self.direct.setdefault(t.source, []).append((dx.permute(0, 2, 3, 1).contiguous(), 1.0))
