"""A search cell as one differentiable function on the CPU kernels.

Against the plain cell (exactly the same sums, other order):

* ReLU and padding happen while a kernel reads its input, never as tensors of their own;
* pools and their batch statistics belong to a node, not to each of its outgoing edges;
* only the pointwise outputs z are kept: normalisation and weighting are one pass per node, and the
  backward pass recomputes what lies between;
* the batch-norm gradient's sum(dy * z) is also the gradient of the mixing weight.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.darts.fast.native import Shape, library
from search_spaces.darts.fast.terms import Stage, Term
from search_spaces.darts.search_network import SearchCell


def run_cell(cell: SearchCell, terms: Sequence[Sequence[Term]], before: Tensor, previous: Tensor,
             weights: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """terms per node; before, previous: cell inputs behind the preprocessing, [N,C,H,W];
    weights [edges, operations]; parameters of the live terms (`live_parameters`), possibly views.
    -> [N, nodes*C, h, w], channels last."""
    keep = torch.is_grad_enabled()
    return _Cell.apply(cell, terms, keep, weights, before, previous, *parameters)


def live_parameters(terms: Sequence[Sequence[Term]]) -> list[nn.Parameter]:
    """Depthwise and pointwise weights per stage, then the library terms' own, in term order."""
    out: list[nn.Parameter] = []
    for node in terms:
        for term in node:
            for stage in term.stages:
                out += [stage.depthwise.weight, stage.pointwise.weight]
            if term.kind == "library":
                out += list(term.module.parameters())
    return out


def _pointers(values: Sequence[int]) -> tuple[array, int]:
    """A C array of addresses; the array must outlive the call."""
    held = array("Q", values)
    return held, held.buffer_info()[0]


class _Run:
    """One forward pass over a cell, and what its backward pass needs."""

    def __init__(self, cell: SearchCell, terms: Sequence[Sequence[Term]], weights: Tensor,
                 states: list[Tensor]):
        self.cell, self.terms, self.keep = cell, terms, True
        self.h = states  # NHWC contiguous, per node
        first = states[0]
        self.kernels = library(first.dtype)
        self.threads = torch.get_num_threads()
        self.options = {"dtype": first.dtype, "device": first.device}
        self.values = weights.double().tolist()
        n, height, width, self.channels = first.shape
        stride = 2 if cell.reduction else 1
        self.sizes = (n, height, width, height // stride, width // stride)
        self.pixels = n * self.sizes[3] * self.sizes[4]
        slots = sum(max(1, len(t.stages)) for node in terms for t in node) + 2 * (len(terms) + 2)
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

    # ---------------------------------------------------------------- forward
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
                a, x = _pointers([v.data_ptr() for v in tensors])
                b, s = _pointers(stats)
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
            return tensor, self.normal(t.module.bn, stat)
        if t.kind == "conv":
            return self.conv(t)
        with torch.enable_grad() if self.keep else torch.no_grad():
            x = self.h[t.source].permute(0, 3, 1, 2).detach().requires_grad_(self.keep)
            y = t.module(x)
        self.graphs[t.edge, t.operation] = (x, y)
        return y.detach().permute(0, 2, 3, 1).contiguous(), 0

    def normal(self, norm: nn.BatchNorm2d, stat: int) -> int:
        """In training note the statistics for the running ones, else use the running ones."""
        if self.cell.training:
            self.norms.append((norm, stat))
            return stat
        index = self.next
        address = self.slot()
        self.stats[index, 0] = norm.running_mean
        self.stats[index, 1] = (norm.running_var.double() + norm.eps).rsqrt()
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
        self.kernels.pool_forward(
            self.shape(t.source, stride=stride), self.h[t.source].data_ptr(),
            most and most[0].data_ptr(), mean and mean[0].data_ptr(), t.module.bn.eps,
            most and most[1] or None, mean and mean[1] or None)
        for kind, value in out.items():
            self.pools[t.source, kind] = value

    def conv(self, t: Term) -> tuple[Tensor, int]:
        x, stat, source = self.h[t.source], None, t.source
        for i, stage in enumerate(t.stages):
            z, address = self.output(), self.slot() if self.cell.training else None
            self.kernels.conv_forward(
                self.stage_shape(source, stage), x.data_ptr(), stat, _address(stage.depthwise.weight),
                _address(stage.pointwise.weight), z.data_ptr(), stage.norm.eps, address)
            address = self.normal(stage.norm, address or 0)
            if self.keep or i + 1 == len(t.stages):
                self.z[t.edge, t.operation, i] = z
                self.stat[t.edge, t.operation, i] = address
            x, stat, source = z, address, 2
        return x, stat

    def stage_shape(self, source: int, stage: Stage) -> Shape:
        return self.shape(source, stage.kernel, stage.depthwise.stride[0],
                          stage.depthwise.dilation[0])

    def update_running(self) -> None:
        """What `nn.BatchNorm2d` does in training, for all live norms of the cell together."""
        if not self.norms:
            return
        torch._foreach_add_([norm.num_batches_tracked for norm, _ in self.norms], 1)
        if self.pixels < 2:
            raise ValueError("batch statistics need more than one value per channel")
        momenta = array("d", [1 / float(norm.num_batches_tracked) if norm.momentum is None
                              else norm.momentum for norm, _ in self.norms])
        a, stats = _pointers([stat for _, stat in self.norms])
        b, means = _pointers([_address(norm.running_mean) for norm, _ in self.norms])
        c, variances = _pointers([_address(norm.running_var) for norm, _ in self.norms])
        self.kernels.update_running(self.shape(), len(a), stats, means, variances,
                                    momenta.buffer_info()[0])

    # ---------------------------------------------------------------- backward
    def backward(self, gradient: Tensor, wanted: tuple[bool, bool, bool, bool]
                 ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
        """gradient [N, nodes*C, h, w]; wanted: mixing, before, previous, parameters.
        -> of the mixing [E,O], of both inputs, of the live parameters."""
        mixing, *inputs, parameters = wanted
        slices = gradient.permute(0, 2, 3, 1).split(self.channels, dim=-1)
        self.d: dict[int, Tensor] = {}  # complete gradients of nodes
        self.dweights = [[0.0] * len(row) for row in self.values]
        self.dr: dict[int, Tensor] = {}  # gradients behind the ReLU of a node
        self.direct: dict[int, list[tuple[Tensor, float]]] = {}
        self.pooled: dict[tuple[int, str], list[tuple[Tensor, int, float]]] = {}
        self.found: dict[int, Tensor] = {}
        self.held: list[Tensor] = []
        self.parameters, self.wanted = parameters, (*inputs, *[True] * len(self.terms))
        for node in reversed(range(len(self.h))):
            if self.wanted[node]:
                own = slices[node - 2].contiguous() if node >= 2 else None
                self.d[node] = self.complete(node, own)
            if node >= 2 and self.terms[node - 2]:
                self.node_backward(node, mixing)
        used = {t.source for node in self.terms for t in node}  # else no gradient, not a zero one
        states = [self.d[i].permute(0, 3, 1, 2) if inputs[i] and i in used else None
                  for i in (0, 1)]
        order = live_parameters(self.terms) if parameters else []
        found = [self.found.get(id(p)) for p in order]
        self.d, self.dr, self.direct, self.pooled, self.found = {}, {}, {}, {}, {}
        self.held = []
        return torch.tensor(self.dweights, **self.options) if mixing else None, states, found

    def complete(self, node: int, own: Tensor | None) -> Tensor:
        """Sum what reaches a node: its output, skips, pools, convolutions."""
        terms = ([(own, 1.0)] if own is not None else []) + self.direct.get(node, [])
        x = self.h[node]
        if len(terms) == 1 and own is not None:
            total = own.clone() if own.untyped_storage().size() != own.nbytes else own
        elif terms:
            total = torch.empty_like(x)
            a, pointers = _pointers([v.data_ptr() for v, _ in terms])
            b, none = _pointers([0] * len(terms))
            c = array("d", [w for _, w in terms])
            shape = self.shape()
            shape.h, shape.w = x.shape[1], x.shape[2]
            self.kernels.combine(shape, len(terms), pointers, none, c.buffer_info()[0],
                                 total.data_ptr())
        else:
            total = torch.zeros_like(x)
        most, mean = self.pool_gradient(node, "max"), self.pool_gradient(node, "avg")
        dr = self.dr.get(node)
        if most is not None or mean is not None or dr is not None:
            stride = 2 if self.cell.reduction and node < 2 else 1
            self.kernels.node_backward(self.shape(node, stride=stride), x.data_ptr(), _or_null(dr),
                                       _or_null(most), _or_null(mean), total.data_ptr())
        return total

    def pool_gradient(self, node: int, kind: str) -> Tensor | None:
        uses = self.pooled.get((node, kind))
        if not uses:
            return None
        tensor, stat = self.pools[node, kind]
        out = self.output()
        a, dy = _pointers([v.data_ptr() for v, _, _ in uses])
        b, sums = _pointers([s for _, s, _ in uses])
        c = array("d", [w for _, _, w in uses])
        self.kernels.shared_gradient(self.shape(), len(uses), dy, sums, c.buffer_info()[0],
                                     tensor.data_ptr(), stat, out.data_ptr())
        return out

    def node_backward(self, node: int, mixing: bool) -> None:
        """From a node's gradient to those of its inputs, operation by operation."""
        dy, terms = self.d[node], [t for t in self.terms[node - 2] if mixing or t.kind != "skip"]
        tensors, stats = [], []
        for t in terms:
            tensor, stat = self.output_of(t)
            tensors.append(tensor)
            stats.append(stat)
        sums = torch.empty(len(terms), 2, self.channels, dtype=torch.float64)
        self.held.append(sums)
        found = array("d", [0.0] * len(terms))
        a, x = _pointers([v.data_ptr() for v in tensors])
        b, s = _pointers(stats)
        if terms:
            self.kernels.node_sums(self.shape(), len(terms), x, s, dy.data_ptr(), sums.data_ptr(),
                                   found.buffer_info()[0])
        for t, value in zip(terms, found, strict=True):
            self.dweights[t.edge][t.operation] = value
        address = dict(zip(((t.edge, t.operation) for t in terms),
                           range(sums.data_ptr(), sums.data_ptr() + sums.nbytes,
                                 16 * self.channels), strict=True))
        for t in self.terms[node - 2]:
            weight = self.values[t.edge][t.operation]
            if t.kind == "conv":
                self.conv_backward(t, dy, address[t.edge, t.operation], weight)
            elif t.kind == "library":
                self.library_backward(t, dy, weight)
            elif self.wanted[t.source] and t.kind == "skip":
                self.direct.setdefault(t.source, []).append((dy, weight))
            elif self.wanted[t.source]:
                self.pooled.setdefault((t.source, t.kind), []).append(
                    (dy, address[t.edge, t.operation], weight))

    def output_of(self, t: Term) -> tuple[Tensor, int]:
        if t.kind == "skip":
            return self.h[t.source], 0
        if t.kind in ("max", "avg"):
            return self.pools[t.source, t.kind]
        if t.kind == "library":
            y = self.graphs[t.edge, t.operation][1].detach().permute(0, 2, 3, 1).contiguous()
            self.held.append(y)
            return y, 0
        key = (t.edge, t.operation, len(t.stages) - 1)
        return self.z[key], self.stat[key]

    def conv_backward(self, t: Term, dy: Tensor, sums: int, weight: float) -> None:
        if not (self.parameters or self.wanted[t.source]):
            return
        for i in reversed(range(len(t.stages))):
            stage, key = t.stages[i], (t.edge, t.operation, i)
            first = i == 0
            x = self.h[t.source] if first else self.z[t.edge, t.operation, i - 1]
            stat = None if first else self.stat[t.edge, t.operation, i - 1]
            if first:
                if t.source not in self.dr:
                    self.dr[t.source] = torch.zeros_like(x)
                dx, below = self.dr[t.source], None
            else:
                dx = torch.empty_like(x)
                below = torch.empty(2, self.channels, dtype=torch.float64)
            pair: tuple[Tensor | None, Tensor | None] = (None, None)
            if self.parameters:
                pair = (torch.empty_like(stage.depthwise.weight),
                        torch.empty_like(stage.pointwise.weight))
                self.found[id(stage.depthwise.weight)] = pair[0]
                self.found[id(stage.pointwise.weight)] = pair[1]
            self.kernels.conv_backward(
                self.stage_shape(t.source if first else 2, stage), x.data_ptr(), stat,
                _address(stage.depthwise.weight), _address(stage.pointwise.weight),
                self.z[key].data_ptr(), self.stat[key], dy.data_ptr(), sums, weight,
                dx.data_ptr(), _or_null(below), _or_null(pair[0]), _or_null(pair[1]))
            if not first:
                dy, sums, weight = dx, below.data_ptr(), 1.0
                self.held.append(below)

    def library_backward(self, t: Term, dy: Tensor, weight: float) -> None:
        x, y = self.graphs[t.edge, t.operation]
        own = list(t.module.parameters()) if self.parameters else []
        dx, *rest = torch.autograd.grad(y, [x, *own], (weight * dy).permute(0, 3, 1, 2),
                                        retain_graph=True)
        for p, g in zip(own, rest, strict=True):
            self.found[id(p)] = g
        if self.wanted[t.source]:
            self.direct.setdefault(t.source, []).append((dx.permute(0, 2, 3, 1).contiguous(), 1.0))


def _address(tensor: Tensor) -> int:
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def _or_null(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class _Cell(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cell: SearchCell, terms: Sequence[Sequence[Term]], keep: bool,
                weights: Tensor, before: Tensor, previous: Tensor, *parameters: Tensor) -> Tensor:
        states = [v.permute(0, 2, 3, 1).contiguous() for v in (before, previous)]
        ctx.set_materialize_grads(False)
        run = _Run(cell, terms, weights, states)
        run.keep = keep
        out = run.forward()
        if keep:
            ctx.run = run
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * (3 + len(ctx.needs_input_grad[3:]))
        wanted = [needed and _reached(ctx, i) for i, needed in enumerate(ctx.needs_input_grad[3:])]
        mixing, states, parameters = ctx.run.backward(
            gradient, (wanted[0], wanted[1], wanted[2], any(wanted[3:])))
        found = parameters or [None] * (len(wanted) - 3)
        return (None, None, None, mixing, *states, *found)


def _reached(ctx: Any, index: int) -> bool:
    """Whether this backward pass leads on from the input (`torch.autograd.grad` asks for a part)."""
    node = ctx.next_functions[index][0]
    try:
        return node is not None and torch._C._will_engine_execute_node(node)
    except (AttributeError, RuntimeError):  # a leaf under autograd.grad: the engine will not say
        return True
