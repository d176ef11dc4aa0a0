"""Sparse Bayesian priors on the weights of an ordinary network: the compression form of BayesNAS.

The formulas are `bayes_priors`; here is what a group is. A *family* of groups cuts weight tensors
by a pattern; several families on one tensor combine harmonically, so a weight lives only while all
of its groups do:

    element   one weight
    row       all weights into one output (FC), = filter of a convolution
    column    all weights out of one input (FC), = channel of a convolution
    shape     one kernel position of one input channel, over all outputs
    layer     a whole tensor, for instance a residual branch
    neuron    a row together with the columns it feeds in the next layer, whose removal removes it

Departures from the authors' derivation notes and later code
1. The diagonal of the Gauss-Newton matrix by `curvature_recursion`; the code takes row sums of H.
2. One lambda for all families, so H / lambda enters the posterior once.
3. The penalty acts by group soft-thresholds, one family after the other (exact for nested groups,
   an approximation for crossing ones), its step divided by (1 - momentum) so that its fixed point
   is that of the loss plus penalty. The code adds the penalty's subgradient, which never reaches
   zero.
4. Weights have no natural scale, so the pruning rule is a small `variance_threshold` (as in the
   later code), not the zero of the entropy, which belongs to switches of size one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.bayes_priors import alpha, bounded, omega_of_groups, shrinkage, variance

PATTERNS = ("element", "row", "filter", "column", "channel", "shape", "layer", "neuron")


@dataclass(frozen=True)
class Junction:
    """Outputs of `producer` feed inputs of `consumer`; `spread` consecutive inputs per output."""

    producer: str
    consumer: str
    spread: int = 1


@dataclass(frozen=True)
class Family:
    """Groups of one pattern. index[name]: group number of every weight of that tensor, of its shape
    or of size 1 along the dimensions that do not matter."""

    pattern: str
    count: int
    index: Mapping[str, Tensor]

    def total(self, values: Mapping[str, Tensor]) -> Tensor:
        """Sum over each group of per-weight values: [count]."""
        first = values[next(iter(self.index))]
        out = torch.zeros(self.count, dtype=first.dtype, device=first.device)
        for name, index in self.index.items():
            out.index_add_(0, index.flatten(), values[name].sum_to_size(index.shape).flatten())
        return out

    def size(self, values: Mapping[str, Tensor]) -> Tensor:
        """Weights per group: [count]."""
        return self.total({name: torch.ones_like(values[name]) for name in self.index})


def families(patterns: Sequence[str], shapes: Mapping[str, torch.Size],
             junctions: Sequence[Junction], device: torch.device) -> list[Family]:
    """All groups of the given patterns. ValueError if a pattern finds no group, or if a kind of
    layer (convolution, linear) is in none."""
    found = []
    for pattern in patterns:
        assert pattern in PATTERNS, pattern
        made = [_neuron(j, shapes) for j in junctions] if pattern == "neuron" else \
            [Family(pattern, *_cut(pattern, name, shape)) for name, shape in shapes.items()
             if _applies(pattern, shape)]
        if not made:
            raise ValueError(f"compress.patterns: {pattern} finds no group in this network")
        found += [Family(f.pattern, f.count, {n: i.to(device) for n, i in f.index.items()})
                  for f in made]
    for dimensions, kind in ((4, "convolution"), (2, "linear layer")):
        layers = [name for name, shape in shapes.items() if len(shape) == dimensions]
        if layers and not any(name in family.index for name in layers for family in found):
            raise ValueError(f"compress.patterns: no group for any {kind} in {list(patterns)}; add "
                             "a pattern that covers it, such as neuron or element")
    return found


def _applies(pattern: str, shape: torch.Size) -> bool:
    """filter, channel and shape are for convolutions, row and column for linear layers."""
    convolution = len(shape) == 4
    return pattern in ("element", "layer") or \
        convolution == (pattern in ("filter", "channel", "shape"))


def _cut(pattern: str, name: str, shape: torch.Size) -> tuple[int, dict[str, Tensor]]:
    """Group numbers of one tensor [out, in, ...]."""
    ones = [1] * (len(shape) - 2)
    if pattern == "element":
        index = torch.arange(shape.numel()).view(shape)
    elif pattern in ("row", "filter"):
        index = torch.arange(shape[0]).view(-1, 1, *ones)
    elif pattern in ("column", "channel"):
        index = torch.arange(shape[1]).view(1, -1, *ones)
    elif pattern == "shape":
        index = torch.arange(shape[1:].numel()).view(1, *shape[1:])
    else:
        index = torch.zeros(1, dtype=torch.long).view(1, 1, *ones)
    return int(index.max()) + 1, {name: index}


def _neuron(junction: Junction, shapes: Mapping[str, torch.Size]) -> Family:
    rows, columns = shapes[junction.producer], shapes[junction.consumer]
    count, index = _cut("row", junction.producer, rows)
    into = torch.arange(columns[1]) // junction.spread
    assert int(into.max()) + 1 == count, junction
    index[junction.consumer] = into.view(1, -1, *[1] * (len(columns) - 2))
    return Family("neuron", count, index)


class WeightPriors:
    """gamma, omega and masks of all families over the weights `values` (updated in place).

    lam: noise variance and penalty; reduce: sum or mean in omega; a weight is pruned for good when
    its combined variance is at most `variance_threshold` or its size at most `weight_threshold`.
    """

    def __init__(self, values: Mapping[str, Tensor], groups: Sequence[Family], lam: float,
                 reduce: str, variance_threshold: float, weight_threshold: float):
        self.values, self.groups, self.lam, self.reduce = values, groups, lam, reduce
        self.variance_threshold, self.weight_threshold = variance_threshold, weight_threshold
        device = next(iter(values.values())).device
        self.omega = [torch.ones(f.count, device=device) for f in groups]
        self.mask = {name: torch.ones_like(w) for name, w in values.items()}

    def proximal_step(self, rate: float) -> None:
        """The penalty's share of a step: rate * lam * omega_g * ||W_g|| for every group."""
        for family, weight in zip(self.groups, self.omega, strict=True):
            norm = family.total({n: self.values[n].square() for n in family.index}).sqrt()
            factor = shrinkage(norm, rate * self.lam * weight)
            for name, index in family.index.items():
                self.values[name].mul_(factor[index])

    def apply_mask(self) -> None:
        for name, mask in self.mask.items():
            self.values[name].mul_(mask)

    def mask_zeros(self) -> None:
        """What is zero now stays zero."""
        for name, mask in self.mask.items():
            mask.mul_(self.values[name] != 0)

    def update(self, curvature: Mapping[str, Tensor]) -> None:
        """Closed-form updates from diagonal curvatures of the mean loss, then pruning."""
        gammas = []
        for family, weight in zip(self.groups, self.omega, strict=True):
            norm = family.total({n: self.values[n].square() for n in family.index}).sqrt()
            gammas.append(variance(norm, weight))
        precision = {n: torch.zeros_like(w) for n, w in self.values.items()}
        for family, gamma in zip(self.groups, gammas, strict=True):
            for name, index in family.index.items():
                precision[name] += (1 / gamma)[index]
        for i, (family, gamma) in enumerate(zip(self.groups, gammas, strict=True)):
            alphas = {n: alpha(gamma[index], bounded(1 / precision[n]), curvature[n] / self.lam)
                      for n, index in family.index.items()}
            self.omega[i] = omega_of_groups(family.total(alphas), family.size(self.values),
                                            self.reduce)
        for name, mask in self.mask.items():
            covered = precision[name] > 0
            keep = ~covered | ((1 / precision[name] > self.variance_threshold)
                               & (self.values[name].abs() > self.weight_threshold))
            mask.mul_(keep)
        self.apply_mask()
