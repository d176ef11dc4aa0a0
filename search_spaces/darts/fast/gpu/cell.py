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

from search_spaces.darts.fast.gpu.depthwise import depthwise_relu, pack
from search_spaces.darts.fast.gpu.plan import CellPlan, Group, Pooled, SourcePlan
from search_spaces.darts.fast.gpu.pointwise import blocks_of, pointwise
from search_spaces.darts.fast.gpu.statistics import Statistics, normalise
from search_spaces.darts.fast.terms import Stage
from search_spaces.darts.search_network import SearchCell

Maps = tuple[Sequence[Tensor], Sequence[int]]  # feature maps and the nodes that they go to


def run_cell(cell: SearchCell, plan: CellPlan, before: Tensor, previous: Tensor, row: Tensor,
             slots: Tensor, statistics: Statistics) -> Tensor:
    """before, previous: cell inputs behind the preprocessing, [N,C,H,W]; row: the cell's mixing
    weights, flat, and a zero; slots: where in it the parts of the plan find theirs, one after the
    other. -> [N, nodes*C, h, w], channels last."""
    inputs = [_to_nhwc(before), _to_nhwc(previous)]
    with torch.autocast(before.device.type, enabled=False):  # types are chosen by hand from here on
        return _run_nodes(cell, plan, inputs, _Own(plan, row, slots, inputs[0]), statistics)


def _run_nodes(cell: SearchCell, plan: CellPlan, inputs: list[Tensor], own: _Own,
               statistics: Statistics) -> Tensor:
    stride = 2 if cell.reduction else 1
    n, height, width, channels = inputs[0].shape
    terms: dict[int, list[Tensor]] = {}

    def node(index: int) -> Tensor:
        if index < 2:
            return inputs[index]
        found = terms.get(index)
        if found is None:  # no live input: the node is zero
            shape = n, -(-height // stride), -(-width // stride), channels
            return inputs[0].new_zeros(shape)
        if len(found) == 2:
            return (found[0] + found[1]).contiguous()
        return (found[0] if len(found) == 1 else torch.stack(found).sum(dim=0)).contiguous()

    states: list[Tensor] = []
    for source, part in enumerate(plan.sources):
        states.append(node(source))
        for maps, targets in _run_source(part, states[source], stride if source < 2 else 1, own,
                                         statistics):
            for value, target in zip(maps, targets, strict=True):
                terms.setdefault(target, []).append(value)
    states += [node(i) for i in range(len(plan.sources), 2 + cell.space.nodes)]
    return torch.cat(states[2:], dim=-1).permute(0, 3, 1, 2)


class _Own:
    """A cell's mixing weights (per part, [m, C], the same in all channels), pointwise matrices (per
    stage, [E, C, C], and rounded to the type of the maps) and packed depthwise weights (per stage),
    made in one go and handed out in the order of the plan."""

    def __init__(self, plan: CellPlan, row: Tensor, slots: Tensor, like: Tensor):
        self.weights = iter(row.index_select(0, slots)[:, None].expand(-1, like.shape[-1])
                            .contiguous().split([len(part) for part in plan.slots]))
        self.matrices: Iterator[tuple[Tensor, Tensor]] = iter(())
        if plan.pointwise:
            stacked = torch.stack([w.flatten(1) for stage in plan.pointwise for w in stage])
            sizes = [len(stage) for stage in plan.pointwise]
            rounded = stacked.detach().to(like.dtype)
            self.matrices = zip(stacked.split(sizes), rounded.split(sizes), strict=True)
        self.taps = iter(pack(plan.depthwise, like))


def _to_nhwc(x: Tensor) -> Tensor:
    """In the type that autocast computes in, or its own."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    return x.permute(0, 2, 3, 1).contiguous()


def _run_source(part: SourcePlan, x: Tensor, stride: int, own: _Own, statistics: Statistics
                ) -> Iterator[Maps]:
    """x [N,H,W,C] to all its destinations."""
    if part.convolutions:
        u = _depthwise(x, part.depthwise[0], own, stride, shared=True)
        sizes = [len(g.terms) for g in part.convolutions]
        for group, v in zip(part.convolutions, u.split(sizes, dim=-2), strict=True):
            yield _convolutions(group, v, own, statistics)
    if part.points:
        yield _reductions(part.points, x, next(own.weights), statistics)
    if part.pooled:
        yield _pooled(part.pooled, x, stride, next(own.weights), statistics)
    for term, target in part.library:
        with torch.autocast(x.device.type, x.dtype, enabled=x.dtype == torch.bfloat16):
            y = _to_nhwc(term.module(x.permute(0, 3, 1, 2)))
        yield [(next(own.weights) * y).to(x.dtype)], [target]


def _depthwise(x: Tensor, stages: Sequence[Stage], own: _Own, stride: int = 1, *, shared: bool
               ) -> Tensor:
    return depthwise_relu(x, [s.depthwise.weight for s in stages],
                          [s.depthwise.dilation[0] for s in stages], stride, shared=shared,
                          packed=next(own.taps))


def _convolutions(group: Group, u: Tensor, own: _Own, statistics: Statistics) -> Maps:
    """From the first depthwise output u [N,h,w,E,C] to one map per edge."""
    last = len(group.stages) - 1
    weights = next(own.weights)
    for i, stages in enumerate(group.stages):
        if i:
            u = _depthwise(u, stages, own, shared=False)
        z = pointwise(u, *next(own.matrices))
        u = normalise(z, [s.norm for s in stages], statistics, weights if i == last else None)
    return _Fold.apply(u, group.levels), group.targets


def _reductions(group: Group, x: Tensor, weights: Tensor, statistics: Statistics) -> Maps:
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


def _pooled(part: Pooled, x: Tensor, stride: int, weights: Tensor, statistics: Statistics) -> Maps:
    """Pools and skips to every edge; weights [targets * kinds, C], zero where there is none."""
    image = x.permute(0, 3, 1, 2)
    maps = {k: x if k == "skip" else _pool(k, image, stride) for k in part.kinds}
    norms = {k: [t.pool_norm for t in part.terms[k] if t.pool_norm] for k in part.kinds}
    if statistics.training:
        for k in part.kinds:
            if k != "skip":
                maps[k] = normalise(maps[k].unsqueeze(-2), norms[k], statistics).squeeze(-2)
        stacked = torch.stack([maps[k].to(weights.dtype) for k in part.kinds])
        mixed = _Mix.apply(weights, stacked.flatten(1)).to(x.dtype)
        return mixed.view(-1, *stacked.shape[1:]).unbind(), part.targets
    by_target = weights.view(len(part.targets), len(part.kinds), -1)
    out: list[Tensor] = []
    targets: list[int] = []  # evaluation: every edge has its own running statistics
    for i, k in enumerate(part.kinds):
        there = [slot is not None for slot in part.slots[i::len(part.kinds)]]
        rows = [j for j, is_there in enumerate(there) if is_there]
        own = torch.stack([by_target[j, i] for j in rows])
        copies = maps[k].unsqueeze(-2).expand(*maps[k].shape[:-1], len(rows), -1)
        y = own * copies if k == "skip" else normalise(copies, norms[k], statistics, own)
        out += y.to(x.dtype).unbind(-2)
        targets += [part.targets[j] for j in rows]
    return out, targets


def _pool(kind: str, image: Tensor, stride: int) -> Tensor:
    """image [N,C,H,W] -> [N,h,w,C]."""
    pooled = functional.max_pool2d(image, 3, stride, 1) if kind == "max" else \
        functional.avg_pool2d(image, 3, stride, 1, count_include_pad=False)
    return pooled.permute(0, 2, 3, 1).contiguous()


class _Fold(torch.autograd.Function):
    """[N,h,w,E,C] in levels -> levels[0] maps [N,h,w,C], the sums over every edge's operations."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, levels: tuple[int, ...]) -> tuple[Tensor, ...]:
        ctx.levels = levels
        out, *rest = y.split(levels, dim=-2)
        if rest:
            out = out + rest.pop(0) if levels[0] == levels[1] else out.clone()
        for part in rest:
            out[..., :part.shape[-2], :] += part
        return out.unbind(-2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return torch.stack([g for n in ctx.levels for g in gradients[:n]], dim=-2), None


class _Mix(torch.autograd.Function):
    """weights [k*p, C] (equal in all C columns), maps [p, values] -> their k mixtures [k, values].
    The gradient of the weights sums blocks of values side by side: one product with k*p results
    would keep a GPU's many cores waiting for one."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, maps: Tensor) -> Tensor:
        ctx.columns = weights.shape[1]
        matrix = weights[:, 0].view(-1, len(maps))
        ctx.save_for_backward(matrix, maps)
        return matrix @ maps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        matrix, maps = ctx.saved_tensors
        own = None
        if ctx.needs_input_grad[0]:
            blocks = blocks_of(maps.shape[1])
            a, b = (x.reshape(len(x), blocks, -1).transpose(0, 1) for x in (gradient, maps))
            own = torch.bmm(a, b.transpose(1, 2)).sum(dim=0).view(-1, 1) / ctx.columns
            own = own.expand(-1, ctx.columns)
        return own, matrix.T @ gradient if ctx.needs_input_grad[1] else None
