"""A search cell whose edges run together: few large operations in place of many small ones.

The same sums as the plain cell, in another order (feature maps are [N, H, W, ...]):

* all first depthwise convolutions out of a node read it once, with its ReLU on the fly; the
  pointwise ones behind them are one batched product and their normalisations one reduction;
* the mixing weight of a convolution is the scale of its last batch normalisation;
* pools and their batch statistics belong to the node; their weighted sums over the outgoing edges
  are one product [edges x 3] by [3 x values].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.darts.fast.depthwise import depthwise_relu
from search_spaces.darts.fast.plan import CellPlan, Group, Pooled, SourcePlan
from search_spaces.darts.fast.pointwise import blocks_of, pointwise
from search_spaces.darts.fast.statistics import Statistics, normalise
from search_spaces.darts.search_network import SearchCell


def run_cell(cell: SearchCell, plan: CellPlan, before: Tensor, previous: Tensor,
             weights: Iterator[Tensor], statistics: Statistics) -> Tensor:
    """before, previous: cell inputs behind the preprocessing, [N,C,H,W]; weights: the mixing
    weights of every part of the plan in turn. -> [N, nodes*C, h, w], channels last."""
    inputs = [_to_nhwc(before), _to_nhwc(previous)]
    stride = 2 if cell.reduction else 1
    n, height, width, channels = inputs[0].shape
    sums: dict[int, Tensor] = {}

    def send(maps: Sequence[Tensor], targets: Sequence[int]) -> None:
        for value, target in zip(maps, targets, strict=True):
            sums[target] = sums[target] + value if target in sums else value

    def node(index: int) -> Tensor:
        if index < 2:
            return inputs[index]
        if index not in sums:  # no live input: the node is zero
            shape = n, -(-height // stride), -(-width // stride), channels
            return inputs[0].new_zeros(shape)
        return sums[index].to(inputs[0].dtype).contiguous()

    states: list[Tensor] = []
    for source, part in enumerate(plan.sources):
        states.append(node(source))
        _run_source(part, states[source], stride if source < 2 else 1, weights, statistics, send)
    states += [node(i) for i in range(len(plan.sources), 2 + cell.space.nodes)]
    return torch.cat(states[2:], dim=-1).permute(0, 3, 1, 2)


def _to_nhwc(x: Tensor) -> Tensor:
    """In the type that autocast computes in, or its own."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    return x.permute(0, 2, 3, 1).contiguous()


def _run_source(part: SourcePlan, x: Tensor, stride: int, weights: Iterator[Tensor],
                statistics: Statistics, send: Any) -> None:
    """x [N,H,W,C] to all its destinations."""
    found = [g for g in (part.separable, part.dilated) if g]
    if found:
        stages = [t.stages[0] for g in found for t in g.terms]
        u = depthwise_relu(x, [s.depthwise.weight for s in stages],
                           [s.depthwise.dilation[0] for s in stages], stride, shared=True)
        for group, v in zip(found, u.split([len(g.terms) for g in found], dim=-2), strict=True):
            send(*_convolutions(group, v, next(weights), statistics))
    if part.points:
        send(*_reductions(part.points, x, next(weights), statistics))
    if part.pooled:
        send(*_pooled(part.pooled, x, stride, next(weights), statistics))
    for term, target in part.library:
        send([next(weights) * _to_nhwc(term.module(x.permute(0, 3, 1, 2)))], [target])


def _convolutions(group: Group, u: Tensor, weights: Tensor, statistics: Statistics
                  ) -> tuple[Sequence[Tensor], Sequence[int]]:
    """From the first depthwise output u [N,h,w,E,C] to one map per edge."""
    for i in range(len(group.terms[0].stages)):
        stages = [t.stages[i] for t in group.terms]
        if i:
            u = depthwise_relu(u, [s.depthwise.weight for s in stages],
                               [s.depthwise.dilation[0] for s in stages], shared=False)
        z = pointwise(u, [s.pointwise.weight for s in stages])
        last = i + 1 == len(group.terms[0].stages)
        u = normalise(z, [s.norm for s in stages], statistics, weights if last else None)
    if len(group.levels) > 1:
        u = _Fold.apply(u, group.levels)
    return u.unbind(-2), group.targets


def _reductions(group: Group, x: Tensor, weights: Tensor, statistics: Statistics
                ) -> tuple[Sequence[Tensor], Sequence[int]]:
    """The factorized reductions (strided skips) of all edges: two products."""
    r = torch.relu(x)
    points = [t.point for t in group.terms if t.point]
    halves = []
    for i, view in enumerate((r[:, ::2, ::2], r[:, 1::2, 1::2])):
        matrix = torch.cat([p.convolutions[i].weight.flatten(1) for p in points])
        z = functional.linear(view, matrix.to(x.dtype))
        halves.append(z.unflatten(-1, (len(points), -1)))
    z = torch.cat(halves, dim=-1)
    return normalise(z, [p.norm for p in points], statistics, weights).unbind(-2), group.targets


def _pooled(part: Pooled, x: Tensor, stride: int, weights: Tensor, statistics: Statistics
            ) -> tuple[Sequence[Tensor], Sequence[int]]:
    """Pools and skips to every edge; weights [targets * kinds], zero where an edge has it not."""
    image = x.permute(0, 3, 1, 2)
    maps = {k: x if k == "skip" else _pool(k, image, stride) for k in part.kinds}
    norms = {k: [t.pool_norm for t in part.terms[k] if t.pool_norm] for k in part.kinds}
    by_target = weights.view(len(part.targets), len(part.kinds))
    if statistics.training:
        for k in part.kinds:
            if k != "skip":
                maps[k] = normalise(maps[k].unsqueeze(-2), norms[k], statistics).squeeze(-2)
        stacked = torch.stack([maps[k].to(weights.dtype) for k in part.kinds])
        mixed = _Mix.apply(by_target, stacked.flatten(1))
        return mixed.view(-1, *stacked.shape[1:]).unbind(), part.targets
    out: list[Tensor] = []
    targets: list[int] = []  # evaluation: every edge has its own running statistics
    for i, k in enumerate(part.kinds):
        there = [slot is not None for slot in part.slots[i::len(part.kinds)]]
        rows = [j for j, is_there in enumerate(there) if is_there]
        own = torch.stack([by_target[j, i] for j in rows])
        copies = maps[k].unsqueeze(-2).expand(*maps[k].shape[:-1], len(rows), -1)
        y = own[:, None] * copies if k == "skip" else normalise(copies, norms[k], statistics, own)
        out += y.unbind(-2)
        targets += [part.targets[j] for j in rows]
    return out, targets


def _pool(kind: str, image: Tensor, stride: int) -> Tensor:
    """image [N,C,H,W] -> [N,h,w,C]."""
    pooled = functional.max_pool2d(image, 3, stride, 1) if kind == "max" else \
        functional.avg_pool2d(image, 3, stride, 1, count_include_pad=False)
    return pooled.permute(0, 2, 3, 1).contiguous()


class _Fold(torch.autograd.Function):
    """[N,h,w,E,C] in levels -> [N,h,w,levels[0],C]: the sum over the operations of every edge."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, levels: tuple[int, ...]) -> Tensor:
        ctx.levels = levels
        first, *rest = y.split(levels, dim=-2)
        out = first.clone(memory_format=torch.contiguous_format)
        for part in rest:
            out[..., :part.shape[-2], :] += part
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.cat([gradient[..., :n, :] for n in ctx.levels], dim=-2), None


class _Mix(torch.autograd.Function):
    """weights [k,p] @ maps [p,values]. The gradient of the weights sums blocks of values side by
    side: one product with k*p results would keep a GPU's many cores waiting for one."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, maps: Tensor) -> Tensor:
        ctx.save_for_backward(weights, maps)
        with torch.autocast(maps.device.type, enabled=False):
            return weights @ maps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weights, maps = ctx.saved_tensors
        own = None
        if ctx.needs_input_grad[0]:
            blocks = blocks_of(maps.shape[1])
            a, b = (x.view(len(x), blocks, -1).transpose(0, 1) for x in (gradient, maps))
            own = torch.bmm(a, b.transpose(1, 2)).sum(dim=0)
        return own, weights.T @ gradient if ctx.needs_input_grad[1] else None
