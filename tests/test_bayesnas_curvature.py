"""Curvature of switches: exact against differences of gradients, the recursion layer by layer."""

from __future__ import annotations

import pytest
import torch
from harness import DARTS_OPERATIONS, make_problem
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from algorithms.curvature import Curvature, coefficients, exact_curvature
from algorithms.curvature_recursion import SquaredJacobians, recursive_curvature
from algorithms.strategy import Batch
from search_spaces import Mixing, SearchNetwork
from search_spaces.darts.fast.network import FastSearchNetwork


@pytest.fixture(scope="module")
def case() -> tuple[SearchNetwork, Tensor, Tensor, Tensor, list[Batch]]:
    """A network with used statistics, random switches (one of them zero), all real operations."""
    problem = make_problem(operations=DARTS_OPERATIONS, cells=3, share_cells=False,
                           dtype=torch.float64)
    network, g = problem.supernet, torch.Generator().manual_seed(3)
    live = torch.ones(network.mixing_shape, dtype=torch.bool)
    live[..., 0] = False
    for x, _ in problem.batches("search_train", 3, 0):
        network(x, Mixing(torch.ones(network.mixing_shape).double(), live))
    op = torch.rand(network.mixing_shape, generator=g).double() + 0.5
    op[0, 0, 3] = 0.0
    edge = torch.rand(network.mixing_shape[:2], generator=g).double() + 0.5
    return network, op, edge, live, problem.batches("search_train", 2, 5)


def gradients(network: SearchNetwork, op: Tensor, edge: Tensor, live: Tensor, batches: list[Batch]
              ) -> tuple[Tensor, Tensor]:
    op, edge = op.clone().requires_grad_(), edge.clone().requires_grad_()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    network.eval()
    loss = cross_entropy(network(x, Mixing(coefficients(op, edge), live)), y)
    return torch.autograd.grad(loss, (op, edge))


@pytest.mark.parametrize("at", [(0, 0, 1), (0, 0, 3), (0, 2, 4), (1, 1, 2), (1, 4, 6), (2, 3, 7)])
def test_exact_equals_differences_of_gradients(case: tuple, at: tuple[int, int, int]) -> None:
    network, op, edge, live, batches = case
    h, eps = exact_curvature(network, op, edge, live, batches), 1e-6
    step = torch.zeros_like(op)
    step[at] = eps
    plus, minus = (gradients(network, op + d, edge, live, batches)[0] for d in (step, -step))
    assert float(h.operation[at]) == pytest.approx(float((plus - minus)[at]) / (2 * eps), rel=1e-5)
    step = torch.zeros_like(edge)
    step[at[:2]] = eps
    plus, minus = (gradients(network, op, edge + d, live, batches)[1] for d in (step, -step))
    assert float(h.edge[at[:2]]) == pytest.approx(float((plus - minus)[at[:2]]) / (2 * eps),
                                                  rel=1e-5)


def test_exact_is_finite_at_zero_and_leaves_the_network_alone(case: tuple) -> None:
    network, op, edge, live, batches = case
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    h = exact_curvature(network, op, edge, live, batches)
    assert float(h.operation[0, 0, 3]) > 0 and bool(h.operation.isfinite().all())
    assert (h.operation[..., 0] == 0).all() and h.passes == 2 * 4
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("form", [exact_curvature, recursive_curvature])
def test_independent_of_the_order_of_the_batch(case: tuple, form: object) -> None:
    network, op, edge, live, batches = case
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    once: Curvature = form(network, op, edge, live, batches)
    again: Curvature = form(network, op, edge, live, [(x[order], y[order])])
    torch.testing.assert_close(once.operation, again.operation, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(once.edge, again.edge, rtol=1e-9, atol=1e-14)


def test_recursion_ranks_like_the_exact_form(case: tuple) -> None:
    network, op, edge, live, batches = case
    exact = exact_curvature(network, op, edge, live, batches)
    fast = recursive_curvature(network, op, edge, live, batches)
    assert (fast.operation >= 0).all() and fast.passes == 2
    assert spearmanr(exact.operation[live], fast.operation[live]).statistic > 0.8


@pytest.mark.parametrize("form", [exact_curvature, recursive_curvature])
def test_the_fast_network_gives_the_same(case: tuple, form: object) -> None:
    network, op, edge, live, batches = case
    fast = FastSearchNetwork(network.space, 4, 3, 4, image_size=8, share_cells=False).double()
    fast.load_state_dict(network.state_dict())
    one, two = (form(n, op, edge, live, batches) for n in (network, fast))
    torch.testing.assert_close(one.operation, two.operation, rtol=1e-9, atol=1e-14)


def passed_back(layer: nn.Module, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    with SquaredJacobians():
        y = layer(x)
    return y.detach(), torch.autograd.grad(y, x, h)[0]


def jacobian(layer: nn.Module, x: Tensor) -> Tensor:
    j = torch.autograd.functional.jacobian(layer, x)
    return j.reshape(-1, x.numel())


LAYERS = {
    "convolution": nn.Conv2d(2, 3, 3, padding=1, bias=False),
    "dilated": nn.Conv2d(2, 4, 3, padding=2, dilation=2),
    "depthwise stride 2": nn.Conv2d(2, 2, 3, 2, 1, groups=2),
    "batch norm": nn.BatchNorm2d(2).eval(),
    "relu": nn.ReLU(),
    "max pool": nn.MaxPool2d(3, 2, 1),
    "average pool": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "average pool with padding": nn.AvgPool2d(3, 2, 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_recursion_squares_the_jacobian_of_a_layer(name: str) -> None:
    """H_in = (B^2)^T H_out against the full Jacobian of one layer."""
    g = torch.Generator().manual_seed(2)
    layer = LAYERS[name].double()
    if name == "batch norm":
        layer.running_var.fill_(3.0)
        nn.init.constant_(layer.weight, -2.0)
    x = torch.randn(1, 2, 6, 6, generator=g).double()
    h = torch.rand(layer(x).shape, generator=g).double()
    value, found = passed_back(layer, x, h)
    assert torch.equal(value, layer(x).detach())
    expected = (jacobian(layer, x).square().T @ h.flatten()).view_as(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_average_pool_passes_one_over_k_to_the_fourth() -> None:
    x = torch.randn(1, 1, 4, 4).double()
    _, h = passed_back(nn.AvgPool2d(2), x, torch.ones(1, 1, 2, 2).double())
    torch.testing.assert_close(h, torch.full_like(x, 1 / 2**4))


def test_convolution_equals_the_linear_layer_on_patches() -> None:
    x, conv = torch.randn(1, 2, 3, 3).double(), nn.Conv2d(2, 5, 3, bias=False).double()
    h = torch.rand(1, 5).double()
    linear = nn.Linear(18, 5, bias=False).double()
    linear.weight = nn.Parameter(conv.weight.detach().reshape(5, 18))
    _, by_conv = passed_back(conv, x, h.view(1, 5, 1, 1))
    _, by_linear = passed_back(linear, x.reshape(1, 18), h)
    torch.testing.assert_close(by_conv.reshape(1, 18), by_linear)


def test_recursion_refuses_a_layer_it_has_no_rule_for() -> None:
    with pytest.raises(ValueError, match=r"algorithm.curvature: .*'sigmoid'"):
        passed_back(nn.Sigmoid(), torch.zeros(1), torch.ones(1))
