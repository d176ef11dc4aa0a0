"""Closed forms of sparse Bayesian pruning: variances, posterior, re-weighting, entropy rule.

One set of formulas for switches of a search network and for weights of an ordinary one (Zhou,
Yang, Wang, Pan, ICML 2019, arXiv 1905.04919; iterative re-weighted group lasso after Pan et al.).
All functions are elementwise on tensors. Notation: gamma, a prior variance; h = H / lambda, the
diagonal curvature of the *mean* loss over the noise variance; omega, the weight of a group's
penalty lambda * omega * ||group||. One iteration is

    gamma = ||group|| / omega(old)        `variance`
    1 / gamma_eff = sum 1 / gamma         `harmonic` (hierarchical priors, several patterns)
    C = 1 / (1 / gamma_eff + h)           `posterior`
    alpha = 1 / gamma - C / gamma^2       `alpha`
    omega = sqrt(sum over group alpha)    `omega`
    prune where ln(2 pi e gamma_eff) <= 0 `survives`
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PRUNE_AT = 1 / (2 * math.pi * math.e)  # the variance of zero entropy, 0.058550
FLOOR = 1e-10  # variances and re-weightings stay within [FLOOR, 1 / FLOOR]
REDUCTIONS = ("sum", "mean")


def entropy(gamma: Tensor) -> Tensor:
    """Differential entropy of N(0, gamma), in nats."""
    return 0.5 * torch.log(2 * math.pi * math.e * gamma)


def survives(gamma: Tensor) -> Tensor:
    """bool: positive entropy."""
    return gamma > PRUNE_AT


def bounded(values: Tensor, ceiling: float = 1 / FLOOR) -> Tensor:
    return values.clamp(FLOOR, ceiling)


def variance(norm: Tensor, omega_old: Tensor, ceiling: float = 1 / FLOOR) -> Tensor:
    """gamma of groups with the given L2 norms. Without curvature omega tends to 0 and gamma to
    infinity; `ceiling` ends that."""
    return bounded(norm / omega_old, ceiling)


def harmonic(*gammas: Tensor) -> Tensor:
    """The variance of a product of zero-mean priors: at most the smallest of them."""
    return 1 / sum((1 / g for g in gammas), torch.zeros(()).to(gammas[0]))


def posterior(gamma_eff: Tensor, h: Tensor) -> Tensor:
    """C, the diagonal posterior variance."""
    return 1 / (1 / gamma_eff + h)


def alpha(gamma: Tensor, gamma_eff: Tensor, h: Tensor) -> Tensor:
    """1/gamma - C/gamma^2 of the factor `gamma` of a prior `gamma_eff` <= gamma; never negative.

    Written without the subtraction: with p = 1/gamma and q = 1/gamma_eff it is
    p (q - p + h) / (q + h); for a single factor h / (1 + gamma h).
    """
    p, q = 1 / gamma, 1 / gamma_eff
    return p * ((q - p).clamp_min(0) + h) / (q + h)


def omega(alphas: Tensor, dims: int | tuple[int, ...], reduce: str) -> Tensor:
    """sqrt of the `sum` (the paper's code) or `mean` (the authors' later code) over the group.

    With the sum a group of n equal members behaves like one of them, as ||group|| also grows with
    sqrt(n); with the mean large groups keep larger variances and are pruned later.
    """
    total = alphas.sum(dims)
    return omega_of_groups(total, torch.full_like(total, alphas.numel() / total.numel()), reduce)


def omega_of_groups(total: Tensor, size: Tensor, reduce: str) -> Tensor:
    """The same from sums over groups of the given sizes."""
    assert reduce in REDUCTIONS, reduce
    return bounded((total if reduce == "sum" else total / size).sqrt())


def shrinkage(norm: Tensor, threshold: Tensor) -> Tensor:
    """Factor of the group soft-threshold max(0, 1 - threshold / ||group||): the proximal step of
    threshold * ||group||; a group inside the threshold becomes exactly zero."""
    return (1 - threshold / norm.clamp_min(FLOOR)).clamp_min(0)
