"""Curvature of switches: exact against differences of gradients, the recursion layer by layer."""

from __future__ import annotations

from collections.abc import Callable

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
from search_spaces.darts.fast.cpu.network import FastSearchNetwork

Form = Callable[..., Curvature]
FORMS = pytest.mark.parametrize("form", [exact_curvature, recursive_curvature])


def assert_curvature(found: Curvature, expected: Curvature) -> None:
    torch.testing.assert_close(found.operation, expected.operation, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(found.edge, expected.edge, rtol=1e-9, atol=1e-14)


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


@FORMS
def test_finite_and_continuous_at_zero(case: tuple, form: Form) -> None:
    """One operation and one whole edge off in every cell: H is that of vanishing switches."""
    network, op, edge, live, batches = case
    found = []
    for s in (0.0, 1e-7):
        op_s, edge_s = op.clone(), edge.clone()
        op_s[:, 0, 3], edge_s[:, 4] = s, s
        found.append(form(network, op_s, edge_s, live, batches))
    at, near = found
    assert bool(at.operation.isfinite().all() and at.edge.isfinite().all())
    assert (at.operation[:, 0, 3] > 0).all() and (at.edge[:, 4] > 0).all()
    assert (at.operation[:, 4] == 0).all()  # behind an edge that is off nothing is felt
    torch.testing.assert_close(at.operation, near.operation, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(at.edge, near.edge, rtol=1e-5, atol=1e-12)


@FORMS
def test_independent_of_the_order_of_the_samples(case: tuple, form: Form) -> None:
    network, op, edge, live, batches = case
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert (order[:8] >= 8).any() and order.tolist() != sorted(order.tolist())
    assert_curvature(form(network, op, edge, live, [(x[order], y[order])]),
                     form(network, op, edge, live, batches))


@FORMS
def test_curvature_of_a_mean_loss(case: tuple, form: Form) -> None:
    """As the curvature of a sum, H times samples is additive over unequal batches and doubles with
    two copies of the data; so H itself stays."""
    network, op, edge, live, batches = case
    x, y = batches[0]
    whole, *parts = (form(network, op, edge, live, [(x[i], y[i])])
                     for i in (slice(8), slice(3), slice(3, 8)))
    assert_curvature(whole, Curvature((3 * parts[0].operation + 5 * parts[1].operation) / 8,
                                      (3 * parts[0].edge + 5 * parts[1].edge) / 8, 0))
    assert_curvature(whole, form(network, op, edge, live, [(x[:3], y[:3]), (x[3:], y[3:])] * 2))


class Direct(nn.Module):
    """Logit c is switch c times input c: one path to every logit, where the recursion is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, mixing: Mixing) -> Tensor:
        return x * mixing.weights[..., 0, 0, :]


@FORMS
@pytest.mark.parametrize("copies", [1, 4])
def test_scales_linearly_with_the_loss(form: Form, copies: int) -> None:
    """Samples times H is the second derivative of the summed loss, which grows with the copies."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=g).double().repeat(copies, 1)
    y, s = torch.arange(3).repeat(2 * copies), torch.tensor([1.0, -0.5, 0.0]).double()
    h = form(Direct(), s.view(1, 1, 3), torch.ones(1, 1).double(),
             torch.ones(1, 1, 3, dtype=torch.bool), [(x, y)]).operation.view(3)
    second = torch.autograd.functional.hessian(
        lambda v: copies * cross_entropy(x[:6] * v, y[:6], reduction="sum"), s).diagonal()
    torch.testing.assert_close(len(x) * h, second, rtol=1e-10, atol=0)


def test_recursion_ranks_like_the_exact_form(case: tuple) -> None:
    network, op, edge, live, batches = case
    exact = exact_curvature(network, op, edge, live, batches)
    fast = recursive_curvature(network, op, edge, live, batches)
    assert (fast.operation >= 0).all() and fast.passes == 2
    assert spearmanr(exact.operation[live], fast.operation[live]).statistic > 0.8


@FORMS
def test_the_fast_network_gives_the_same(case: tuple, form: Form) -> None:
    network, op, edge, live, batches = case
    fast = FastSearchNetwork(network.space, 4, 3, 4, image_size=8, share_cells=False).double()
    fast.load_state_dict(network.state_dict())
    assert_curvature(form(fast, op, edge, live, batches), form(network, op, edge, live, batches))


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
