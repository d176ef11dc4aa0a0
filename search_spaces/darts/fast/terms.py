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


def make_point(module: nn.Module) -> Point | None:
    """None where the module is something else."""
    if type(module) is ReluConvBN and plain_norm(module.bn):
        return Point((module.conv,), module.bn)
    if type(module) is FactorizedReduce and plain_norm(module.bn):
        return Point((module.conv1, module.conv2), module.bn)
    return None


def make_term(module: nn.Module, source: int, edge: int, operation: int) -> Term:
    """Recognise the operation by its module."""
    if type(module) is nn.Identity:
        return Term("skip", source, edge, operation, module)
    if type(module) is Pool and isinstance(module.bn, nn.BatchNorm2d) and plain_norm(module.bn):
        kind = {nn.MaxPool2d: "max", nn.AvgPool2d: "avg"}.get(type(module.pool), "library")
        return Term(kind, source, edge, operation, module, pool_norm=module.bn)
    if type(module) is StridedSkip and (point := make_point(module.fr)):
        return Term("point", source, edge, operation, module, point=point)
    stages: tuple[Stage, ...] = ()
    if type(module) is SeparableConv:
        stages = (Stage(module.dw1, module.pw1, module.bn1),
                  Stage(module.dw2, module.pw2, module.bn2))
    elif type(module) is DilatedConv:
        stages = (Stage(module.dw, module.pw, module.bn),)
    if stages and all(s.kernel in (3, 5, 7) and plain_norm(s.norm) for s in stages):
        return Term("conv", source, edge, operation, module, stages)
    return Term("library", source, edge, operation, module)


def all_terms(cell: SearchCell) -> dict[tuple[int, int], Term]:
    """Every real operation of a cell by (edge, operation)."""
    space = cell.space
    return {(e, o): make_term(cell.edge(e)[space.operations[o]], source, e, o)
            for e, (source, _) in enumerate(space.edges) for o in space.real}
