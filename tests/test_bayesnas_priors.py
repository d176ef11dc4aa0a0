"""Closed forms, the entropy rule and the hierarchical priors of a cell, hand-computed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from algorithms.bayes_priors import (
    PRUNE_AT,
    alpha,
    entropy,
    harmonic,
    omega,
    posterior,
    shrinkage,
    survives,
    variance,
)
from algorithms.cell_priors import connected, effective, prune
from search_spaces import CellSpace

SPACE = CellSpace(("skip_connect", "sep_conv_3x3", "max_pool_3x3"))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_alpha_equals_the_marginal_likelihood_identity() -> None:
    """1/gamma - C_ii/gamma^2 = a_i^T (lambda I + A Gamma A^T)^-1 a_i, orthogonal columns a_i."""
    g, lam = generator(0), 0.3
    a = torch.linalg.qr(torch.randn(9, 5, generator=g, dtype=torch.float64))[0]
    a = a * torch.tensor([0.1, 0.5, 1.0, 2.0, 7.0])
    gamma = torch.rand(5, generator=g, dtype=torch.float64) + 0.01
    h = a.square().sum(0) / lam
    inner = torch.linalg.inv(lam * torch.eye(9, dtype=torch.float64) + a @ torch.diag(gamma) @ a.T)
    expected = torch.einsum("ni,nm,mi->i", a, inner, a)
    torch.testing.assert_close(alpha(gamma, gamma, h), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(alpha(gamma, gamma, h), h / (1 + gamma * h), rtol=1e-12, atol=0)


def test_several_factors_match_the_definition() -> None:
    own, parent, h = (torch.tensor([v], dtype=torch.float64) for v in (0.5, 2.0, 3.0))
    together = harmonic(own, parent)
    assert float(together) == pytest.approx(0.4)
    c = posterior(together, h)
    assert float(c) == pytest.approx(1 / 5.5)
    assert float(alpha(own, together, h)) == pytest.approx(2 - 4 / 5.5)


def test_monotone_and_bounded() -> None:
    h = torch.logspace(-6, 6, 50, dtype=torch.float64)
    one = torch.ones_like(h)
    a = alpha(one, one, h)
    assert (a >= 0).all() and (posterior(one, h) < 1).all()
    assert (omega(a.unsqueeze(0), 0, "sum").diff() > 0).all()  # increasing in the curvature
    gamma = torch.logspace(-3, 3, 50, dtype=torch.float64)
    assert (omega(alpha(gamma, gamma, one).unsqueeze(0), 0, "sum").diff() < 0).all()


def test_group_reductions() -> None:
    alphas = torch.full((4, 1), 0.25)
    assert float(omega(alphas, 0, "sum")) == 1.0 and float(omega(alphas, 0, "mean")) == 0.5
    # With the sum, four equal members have the variance of one: 2|s| / (2 omega).
    s = torch.full((4, 1), 0.3)
    assert float(variance(s.norm(dim=0), omega(alphas, 0, "sum"))) == pytest.approx(
        float(variance(s[:1].norm(dim=0), omega(alphas[:1], 0, "sum"))))


def test_entropy_sign() -> None:
    assert PRUNE_AT == pytest.approx(0.058550, abs=5e-7)
    assert survives(torch.tensor([0.0586, 0.0585])).tolist() == [True, False]
    assert float(entropy(torch.tensor(PRUNE_AT).double())) == pytest.approx(0, abs=1e-6)
    assert float(entropy(torch.tensor(1.0))) == pytest.approx(1.418939, abs=1e-5)


@pytest.mark.parametrize("s, kept", [(0.241, False), (0.243, True)])
def test_high_curvature_limit_prunes_small_switches(s: float, kept: bool) -> None:
    gamma, w = torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for _ in range(200):
        gamma = variance(torch.tensor([abs(s)], dtype=torch.float64), w)
        w = omega(alpha(gamma, gamma, torch.tensor([1e9], dtype=torch.float64)).unsqueeze(0), 0,
                  "sum")
    assert float(gamma) == pytest.approx(s * s, rel=1e-3)
    assert bool(survives(gamma)) is kept


def test_zero_curvature_meets_the_ceiling() -> None:
    gamma, w = torch.ones(1), torch.ones(1)
    for _ in range(50):
        gamma = variance(torch.tensor([0.5]), w, 1e4)
        w = omega(alpha(gamma, gamma, torch.zeros(1)).unsqueeze(0), 0, "sum")
    assert float(gamma) == 1e4 and bool(w.isfinite().all())


def _lasso(a: Tensor, y: Tensor, lam: float, w: Tensor, s: Tensor) -> Tensor:
    rate = 1 / torch.linalg.matrix_norm(a, 2).square()
    for _ in range(800):
        s = s - rate * (a.T @ (a @ s - y))
        s = s * shrinkage(s.abs(), rate * lam * w)
    return s


def test_planted_sparse_regression() -> None:
    """60 equations, 40 unknowns, 6 of them non-zero: the exact support has positive entropy."""
    for seed in range(3):
        g = generator(seed)
        a = torch.randn(60, 40, generator=g, dtype=torch.float64)
        truth = torch.zeros(40, dtype=torch.float64)
        support = torch.randperm(40, generator=g)[:6]
        truth[support] = 1 + torch.rand(6, generator=g, dtype=torch.float64)
        y = a @ truth + 0.1 * torch.randn(60, generator=g, dtype=torch.float64)
        lam, h = 0.5, a.square().sum(0) / 0.5
        s, w = torch.ones(40, dtype=torch.float64), torch.ones(40, dtype=torch.float64)
        for _ in range(8):
            s = _lasso(a, y, lam, w, s)
            gamma = variance(s.abs(), w)
            w = omega(alpha(gamma, gamma, h).unsqueeze(0), 0, "sum")
        assert survives(gamma).nonzero().flatten().tolist() == sorted(support.tolist())


def test_soft_threshold_fixed_point() -> None:
    """min (s - 1)^2 / 2 + 0.4 |s| is at 0.6, reached by proximal steps; 1.5 |s|: exactly 0."""
    for penalty, expected in ((0.4, 0.6), (1.5, 0.0)):
        s = torch.tensor([-1.0], dtype=torch.float64)
        for _ in range(300):
            s = s - 0.1 * (s - 1)
            s = s * shrinkage(s.abs(), torch.tensor(0.1 * penalty, dtype=torch.float64))
        assert float(s) == pytest.approx(expected, abs=1e-9)
        assert expected or float(s) == 0.0


def full(value: float) -> tuple[Tensor, Tensor, Tensor]:
    shape = len(SPACE.edges), len(SPACE.operations)
    return (torch.full(shape, value, dtype=torch.float64),
            torch.full(shape[:1], value, dtype=torch.float64), torch.ones(shape, dtype=torch.bool))


def test_hierarchy_by_hand() -> None:
    op, edge, live = full(1.0)
    g = effective(op, edge, live, SPACE, False)
    assert g.operation[0].tolist() == [0.5] * 3  # cell input: 1 / (1 + 1 + 0)
    into_2 = 6 * 0.5  # two edges of three operations
    assert float(g.operation[4, 0]) == pytest.approx(1 / (2 + 1 / into_2))  # edge 2 -> 3
    assert float(g.edge[4]) == pytest.approx(1 / (1 + 1 / into_2))
    own = effective(op, edge, live, SPACE, True)
    assert torch.equal(own.operation, torch.full_like(op, 0.5))


def test_dead_parent_kills_its_children_and_one_child_spares_its_siblings() -> None:
    op, edge, live = full(1.0)
    edge[0] = 1e-12
    left, g = prune(op, edge, live, SPACE, False)
    assert not left[0].any() and left[1:].all() and (g.operation[0] == 0).all()
    op, edge, live = full(1.0)
    op[0, 1] = 1e-12
    assert prune(op, edge, live, SPACE, False)[0][0].tolist() == [True, False, True]


def test_useless_edge_goes_as_a_whole_before_its_operations() -> None:
    op, edge, live = full(1.0)
    edge[3] = 0.058  # below the threshold, although every operation on it is far above
    assert survives(op[3]).all()
    assert not prune(op, edge, live, SPACE, False)[0][3].any()


def test_dead_node_takes_its_outputs_along() -> None:
    op, edge, live = full(1.0)
    op[:2] = 1e-3  # nothing into node 2
    for own_edge_only in (False, True):
        left, _ = prune(op, edge, live, SPACE, own_edge_only)
        out_of_2 = [e for e, (source, _) in enumerate(SPACE.edges) if source == 2]
        assert not left[out_of_2].any() and left[2].all()


def test_pruning_is_a_fixpoint_and_connected_on_random_graphs() -> None:
    g = generator(1)
    shape = len(SPACE.edges), len(SPACE.operations)
    for _ in range(1000):
        spread = 6 * torch.rand(1, generator=g)
        op = (spread * torch.randn(shape, generator=g) - 1).double().exp()
        edge = (torch.randn(shape[:1], generator=g) - 0.5).double().exp()
        live = torch.rand(shape, generator=g) < 0.8
        own_edge_only = bool(torch.rand(1, generator=g) < 0.3)
        left, now = prune(op, edge, live, SPACE, own_edge_only)
        assert not (left & ~live).any()
        assert torch.equal(prune(op, edge, left, SPACE, own_edge_only)[0], left)
        assert torch.equal(connected(left, SPACE), left)
        least = torch.minimum(op, edge.unsqueeze(-1))
        assert (now.operation <= least + 1e-15).all()
        edges = left.any(dim=-1)
        reached = {0, 1}
        for e, (source, target) in enumerate(SPACE.edges):  # by destination: sources come first
            if edges[e]:
                assert source in reached
                reached.add(target)


def test_prune_threshold_constant() -> None:
    assert 0.5 * math.log(2 * math.pi * math.e * PRUNE_AT) == pytest.approx(0, abs=1e-12)
