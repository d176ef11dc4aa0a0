"""What the fast cell knows of each candidate operation: a list of live terms per cell.

An operation the kernels do not know is a `Library` term: it runs as the module it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from search_spaces.darts.search_network import SearchCell
from search_spaces.operations import (
    DilatedConv,
    FactorizedReduce,
    Pool,
    ReluConvBN,
    SeparableConv,
    StridedSkip,
)


@dataclass(frozen=True)
class Stage:
    """ReLU (after the previous stage's normalisation), depthwise, pointwise, normalisation."""

    depthwise: nn.Conv2d
    pointwise: nn.Conv2d
    norm: nn.BatchNorm2d

    @property
    def kernel(self) -> int:
        return self.depthwise.kernel_size[0]


@dataclass(frozen=True)
class Point:
    """ReLU, one or two pointwise convolutions, normalisation: the preprocessing of a cell input
    and the factorized reduction."""

    convolutions: tuple[nn.Conv2d, ...]
    norm: nn.BatchNorm2d

    @property
    def stride(self) -> int:
        return self.convolutions[0].stride[0]


@dataclass(frozen=True)
class Term:
    """One live operation of one edge. kind: skip, max, avg, conv (with stages), point (a
    factorized reduction) or library."""

    kind: str
    source: int
    edge: int
    operation: int
    module: nn.Module
    stages: tuple[Stage, ...] = ()
    point: Point | None = None
    pool_norm: nn.BatchNorm2d | None = None

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        return [s.norm for s in self.stages] + ([self.point.norm] if self.point else [])


def running(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
    """Running mean, running variance and the count of batches."""
    mean, variance, count = norm.running_mean, norm.running_var, norm.num_batches_tracked
    assert mean is not None and variance is not None and count is not None
    return mean, variance, count


def plain_norm(norm: nn.Module) -> bool:
    return isinstance(norm, nn.BatchNorm2d) and not norm.affine and norm.track_running_stats


def plain_conv(conv: nn.Conv2d, kernel: int, groups: int) -> bool:
    """Square, without bias, zero-padded so that only the stride changes the size."""
    around = (conv.dilation[0] * (kernel - 1) // 2,) * 2
    return (conv.kernel_size == (kernel, kernel) and conv.groups == groups and conv.bias is None
            and conv.padding == around and conv.padding_mode == "zeros"
            and conv.stride in ((1, 1), (2, 2)) and conv.dilation[0] == conv.dilation[1])


def pool_kind(pool: nn.Module) -> str | None:
    """`max` or `avg` for the two 3x3 pools of the search space, None for any other."""
    if type(pool) is nn.MaxPool2d:
        known = (pool.kernel_size, pool.padding, pool.dilation) == (3, 1, 1) and not (
            pool.ceil_mode or pool.return_indices)
        return "max" if known and pool.stride in (1, 2) else None
    if type(pool) is nn.AvgPool2d:
        known = (pool.kernel_size, pool.padding) == (3, 1) and not (
            pool.ceil_mode or pool.count_include_pad or pool.divisor_override)
        return "avg" if known and pool.stride in (1, 2) else None
    return None


def make_point(module: nn.Module) -> Point | None:
    """None where the module is something else."""
    if type(module) is ReluConvBN:
        point = Point((module.conv,), module.bn)
    elif type(module) is FactorizedReduce:
        point = Point((module.conv1, module.conv2), module.bn)
    else:
        return None
    known = plain_norm(point.norm) and all(plain_conv(c, 1, 1) for c in point.convolutions)
    return point if known else None


def make_term(module: nn.Module, source: int, edge: int, operation: int) -> Term:
    """Recognise the operation by its module."""
    if type(module) is nn.Identity:
        return Term("skip", source, edge, operation, module)
    if type(module) is Pool and isinstance(module.bn, nn.BatchNorm2d) and plain_norm(module.bn):
        kind = pool_kind(module.pool)
        if kind is not None:
            return Term(kind, source, edge, operation, module, pool_norm=module.bn)
    if type(module) is StridedSkip and (point := make_point(module.fr)):
        return Term("point", source, edge, operation, module, point=point)
    stages: tuple[Stage, ...] = ()
    if type(module) is SeparableConv:
        stages = (Stage(module.dw1, module.pw1, module.bn1),
                  Stage(module.dw2, module.pw2, module.bn2))
    elif type(module) is DilatedConv:
        stages = (Stage(module.dw, module.pw, module.bn),)
    if stages and all(_plain_stage(s) for s in stages):
        return Term("conv", source, edge, operation, module, stages)
    return Term("library", source, edge, operation, module)


def _plain_stage(stage: Stage) -> bool:
    return (stage.kernel in (3, 5, 7) and plain_norm(stage.norm)
            and plain_conv(stage.depthwise, stage.kernel, stage.depthwise.out_channels)
            and plain_conv(stage.pointwise, 1, 1))


def all_terms(cell: SearchCell) -> dict[tuple[int, int], Term]:
    """Every real operation of a cell by (edge, operation)."""
    space = cell.space
    return {(e, o): make_term(cell.edge(e)[space.operations[o]], source, e, o)
            for e, (source, _) in enumerate(space.edges) for o in space.real}
