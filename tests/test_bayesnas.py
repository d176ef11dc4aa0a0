"""The strategy: proximal switches, group ties, schedule, pruning in training, resuming, errors."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from harness import make_problem, run_steps
from torch import Tensor, nn

from algorithms.bayesnas import BayesNAS
from algorithms.curvature import Curvature
from algorithms.strategy import Problem
from nasbench.measure import count_params
from search_spaces import FinalNetwork, Genotype, Mixing

OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
SETTINGS: dict[str, Any] = {
    "lam": 0.05, "switch_rate": 2.0, "normalise": True, "group_reduce": "sum",
    "own_edge_only": False, "curvature": "exact", "curvature_batches": 1, "curvature_floor": 1e-6,
    "variance_ceiling": 1e4, "tolerance": 0.05, "projection": False}


def searcher(seed: int = 0, cells: int = 3, **settings: Any) -> tuple[BayesNAS, Problem]:
    problem = make_problem(operations=OPERATIONS, nodes=2, cells=cells, share_cells=False,
                           learning_rate=0.05, seed=seed)
    strategy = BayesNAS(**{**SETTINGS, **settings})
    strategy.setup(problem)
    return strategy, problem


def search(strategy: BayesNAS, problem: Problem, epochs: int, start: int = 0, steps: int = 10
           ) -> list[dict]:
    history = []
    for epoch in range(start, start + epochs):
        run_steps(strategy, problem, steps, start=epoch * steps)
        history.append(strategy.on_epoch_end(epoch))
    return history


def test_switches_start_at_one_without_the_zero_operation() -> None:
    strategy, _ = searcher()
    mixing = strategy.mixing()
    assert mixing.weights.shape == (3, 5, 4) and not mixing.live_mask()[..., 0].any()
    assert (mixing.weights[..., 1:] == 1).all() and (mixing.weights[..., 0] == 0).all()


@pytest.mark.parametrize("lam, expected", [(0.4, 0.6), (1.5, 0.0)])
def test_proximal_step_has_the_soft_threshold_as_fixed_point(lam: float, expected: float) -> None:
    """Loss (s - 1)^2 / 2, penalty lam |s|: any momentum would change neither point nor zero."""
    strategy, _ = searcher(lam=lam)
    for _ in range(400):
        strategy._proximal_step(strategy.s_edge, strategy.s_edge - 1,
                                [torch.ones(5) * n**0.5 for n in (1, 2)], 0.1)
    torch.testing.assert_close(strategy.s_edge, torch.full((3, 5), expected), atol=1e-5, rtol=0)


def test_switch_gradients_are_those_of_the_loss() -> None:
    """One step without penalty moves each switch along its own derivative, at the given rate."""
    strategy, problem = searcher(lam=1e-30, normalise=False, switch_rate=0.5)
    g = torch.Generator().manual_seed(1)
    strategy.s_op += 0.3 * torch.randn(strategy.s_op.shape, generator=g)
    strategy.s_edge += 0.3 * torch.randn(strategy.s_edge.shape, generator=g)
    strategy._place()
    batch = problem.batches("search_train", 1, 0)[0]
    op, edge = strategy.s_op.clone().requires_grad_(), strategy.s_edge.clone().requires_grad_()
    problem.supernet.train()
    logits = problem.supernet(batch[0], Mixing(op * edge.unsqueeze(-1), strategy.row_live))
    by_op, by_edge = torch.autograd.grad(nn.functional.cross_entropy(logits, batch[1]), (op, edge))
    strategy.search_step(batch, None)
    torch.testing.assert_close(strategy.s_op, (op - 0.025 * by_op).detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(strategy.s_edge, (edge - 0.025 * by_edge).detach(), rtol=1e-4,
                               atol=1e-6)


def test_normalising_changes_only_the_common_scale() -> None:
    strategy, _ = searcher()
    strategy.s_op *= torch.rand(strategy.s_op.shape, generator=torch.Generator().manual_seed(0))
    strategy.s_op[1, 2, 3] = strategy.s_edge[2, 4] = 0.0
    before = strategy.mixing().weights
    strategy._normalise()
    after = strategy.mixing().weights
    for row in range(3):
        kept = before[row] != 0
        assert torch.equal(after[row] != 0, kept)
        ratio = after[row][kept] / before[row][kept]
        assert float(ratio.std()) < 1e-5
    used = strategy.s_edge[2] != 0
    assert float(strategy.s_edge[2][used].square().mean()) == pytest.approx(1, rel=1e-5)
    assert float(strategy.s_op[1, 2].square().sum()) == pytest.approx(2, rel=1e-5)


def random_state(strategy: BayesNAS, seed: int) -> Curvature:
    g = torch.Generator().manual_seed(seed)
    strategy.s_op.copy_(torch.rand(strategy.s_op.shape, generator=g) * strategy.row_live)
    strategy.s_edge.copy_(torch.rand(strategy.s_edge.shape, generator=g))
    return Curvature(torch.rand(strategy.s_op.shape, generator=g).double(),
                     torch.rand(strategy.s_edge.shape, generator=g).double(), 0)


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_cells_of_a_type_are_tied_and_interchangeable(reduce: str) -> None:
    one, _ = searcher(cells=5, group_reduce=reduce)
    two, _ = searcher(cells=5, group_reduce=reduce)
    types = one.supernet.row_types
    order = sorted(range(5), key=lambda i: (types[i], -i))  # reversed within each type
    order = [order[sorted(range(5), key=lambda i: (types[i], i)).index(i)] for i in range(5)]
    assert order != list(range(5)) and [types[i] for i in order] == list(types)
    h = random_state(one, 0)
    two.s_op.copy_(one.s_op[order])
    two.s_edge.copy_(one.s_edge[order])
    one._update(h)
    two._update(Curvature(h.operation[order], h.edge[order], 0))
    assert torch.equal(one.live, two.live)
    torch.testing.assert_close(one.g_op, two.g_op)
    torch.testing.assert_close(one.omega_op, two.omega_op)
    for row, kind in enumerate(types):
        assert torch.equal(one.mixing().live_mask()[row], one.live[kind])
    assert 0 < int(one.live.sum()) < one.live.numel()


def test_update_by_hand() -> None:
    """gamma = |s| / omega, C, alpha and omega of one switch in its group of two reduction cells."""
    strategy, _ = searcher(lam=0.5)
    strategy.s_op[1:, 0, 1] = torch.tensor([0.6, 0.8])  # norm 1
    h = Curvature(torch.ones(3, 5, 4).double(), torch.ones(3, 5).double(), 0)
    h.operation[1:, 0, 1] = torch.tensor([1.0, 3.0]).double()
    strategy._update(h)
    gamma, gamma_edge = 1.0, 2**0.5
    together = 1 / (1 / gamma + 1 / gamma_edge)
    assert float(strategy.g_op[1, 0, 1]) == pytest.approx(together)
    alphas = [1 / gamma - 1 / gamma**2 / (1 / together + c / 0.5) for c in (1.0, 3.0)]
    assert float(strategy.omega_op[1, 0, 1]) == pytest.approx(sum(alphas) ** 0.5)


def test_a_group_the_output_does_not_feel_is_pruned() -> None:
    strategy, _ = searcher()
    h = Curvature(torch.ones(3, 5, 4).double(), torch.ones(3, 5).double(), 0)
    h.operation[:, 3, 2] = 0.0
    strategy._update(h)
    assert strategy.live[:, 3, 1:].tolist() == [[True, False, True]] * 2


class Noise(nn.Module):
    """Ignores its input: standard normal values of the wanted shape."""

    def __init__(self, like: nn.Module):
        super().__init__()
        self.like, self.g = like, torch.Generator().manual_seed(9)

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn(self.like(x).shape, generator=self.g)


def test_a_noise_edge_dies_as_a_whole_and_before_the_useful_ones() -> None:
    strategy, problem = searcher(lam=1.0)
    for cell in range(3):  # edge 3 is 1 -> 3
        edge = problem.supernet.cell(cell).edge(3)
        for name in OPERATIONS[1:]:
            edge[name] = Noise(edge[name])
    for epoch in range(5):
        search(strategy, problem, 1, start=epoch, steps=6)
        assert strategy.live[:, 3].sum(dim=-1).tolist() in ([3, 3], [0, 3], [3, 0], [0, 0])
    assert not strategy.live[:, 3].any()
    assert strategy.live[:, :3].any(dim=-1).all() and strategy.stopped is None


def test_training_steps_between_updates_are_those_of_the_epoch() -> None:
    strategy, problem = searcher()
    calls = []
    step = problem.weights.step
    problem.weights.step = lambda *a, **k: (calls.append("step"), step(*a, **k))[1]
    update = strategy._update
    strategy._update = lambda h: (calls.append("update"), update(h))[1]
    search(strategy, problem, 2, steps=7)
    assert calls == (["step"] * 7 + ["update"]) * 2


@pytest.mark.parametrize("curvature", ["exact", "recursive"])
def test_the_scale_of_the_loss_cancels(curvature: str) -> None:
    """c E with c H, c lam and a rate of 1 / c is the same search: lam is once in the penalty and
    once under H, and E and H are the same mean."""
    found = []
    for c in (1.0, 16.0):
        strategy, problem = searcher(lam=0.2 * c, switch_rate=20.0 / c, curvature=curvature)
        step, measured = problem.weights.step, strategy.curvature
        problem.weights.step = lambda *a, c=c, step=step, **k: {
            name: v * c if name == "mixing_gradient" else v for name, v in step(*a, **k).items()}

        def scaled(*a: Any, c: float = c, measured: Any = measured) -> Curvature:
            h = measured(*a)
            return Curvature(h.operation * c, h.edge * c, h.passes)

        strategy.curvature = scaled
        search(strategy, problem, 3, steps=6)
        found.append(strategy)
    one, other = found
    assert torch.equal(one.live, other.live) and 0 < int(one.live.sum()) < 30
    torch.testing.assert_close(one.g_op, other.g_op, rtol=1e-4, atol=0)
    torch.testing.assert_close(one.omega_op, other.omega_op, rtol=1e-4, atol=0)


def test_larger_lambda_leaves_fewer_operations_and_parameters() -> None:
    """The paper's 0.005, 0.007, 0.01 and 0.05, mean of three seeds, times 40: an epoch is 6 steps
    here instead of 2,500."""
    live, params = [], []
    for lam in (0.005, 0.007, 0.01, 0.05):
        found = []
        for seed in range(3):
            strategy, problem = searcher(seed, lam=40 * lam, switch_rate=20.0, tolerance=0.0)
            search(strategy, problem, 3, steps=6)
            network = FinalNetwork(strategy.derive()[0].genotype, 4, 3, 4, image_size=8)
            found.append((int(strategy.live.sum()), count_params(network)))
        live.append(sum(n for n, _ in found) / 3)
        params.append(sum(n for _, n in found) / 3)
    for means in (live, params):
        assert all(a > b for a, b in zip(means, means[1:], strict=False)), (live, params)
    assert live[0] < 30  # not all of them


def test_same_seed_same_cell_and_resuming_is_bit_equal() -> None:
    whole, problem = searcher(lam=0.1)
    history = search(whole, problem, 4)
    first, problem = searcher(lam=0.1)
    assert search(first, problem, 2) == history[:2]
    state, weights = first.state_dict(), problem.weights.snapshot()
    optimizer = deepcopy(problem.weights.optimizer.state_dict())
    rng = problem.rng.get_state()
    first.search_step(problem.batches("search_train", 1, 5)[0], None)  # must not leak into it
    second, problem = searcher(lam=0.1, seed=1)
    problem.supernet.load_state_dict(weights)
    problem.weights.optimizer.load_state_dict(optimizer)
    problem.rng.set_state(rng)
    second.load_state_dict(state)
    assert search(second, problem, 2, start=2) == history[2:]
    ended, expected = second.state_dict(), whole.state_dict()
    assert all(torch.equal(ended[k], v) for k, v in expected.items() if isinstance(v, Tensor))
    assert second.derive() == whole.derive() and 0 < int(whole.live.sum()) < whole.live.numel()


def test_derived_cell_is_a_graph_with_several_operations_per_edge() -> None:
    strategy, _ = searcher(projection=True)
    strategy.live[0] = False
    strategy.live[0, 0, 1:3] = True  # two operations on edge 0 -> 2; nothing enters node 3
    main, projected = strategy.derive()
    assert main.name == "BayesNAS" and "projection" in projected.derivation
    assert main.genotype.normal.edges == (("max_pool_3x3", 0, 2), ("skip_connect", 0, 2))
    assert main.genotype.normal.concat == (2,) and len(main.genotype.reduce.edges) == 15
    assert len(projected.genotype.normal.edges) == 1 and len(projected.genotype.reduce.edges) == 4
    assert Genotype.from_dict(main.genotype.to_dict()) == main.genotype


def test_an_emptied_cell_keeps_one_operation_and_says_so() -> None:
    strategy, _ = searcher()
    strategy.s_op[0] = 1e-4
    h = Curvature(torch.ones(3, 5, 4).double(), torch.ones(3, 5).double(), 0)
    strategy._update(h)
    assert int(strategy.live[0].sum()) == 1 and int(strategy.live[1].sum()) == 15
    assert "normal cell" in strategy.should_stop() and "algorithm.lam" in strategy.should_stop()
    derived = strategy.derive()[0]
    assert derived.genotype.normal.edges[0][1] < 2 and "one was kept" in derived.derivation


def test_stops_when_an_update_changes_nothing() -> None:
    strategy, problem = searcher(lam=1e-6, switch_rate=1e-9, tolerance=10.0)
    assert strategy.should_stop() is None
    search(strategy, problem, 1, steps=1)
    assert "pruned nothing" in strategy.should_stop()


@pytest.mark.parametrize("own_edge_only", [False, True])
def test_recursive_curvature_and_metrics(own_edge_only: bool) -> None:
    strategy, problem = searcher(curvature="recursive", own_edge_only=own_edge_only)
    (metrics,) = search(strategy, problem, 1, steps=2)
    assert metrics["curvature_backward_passes"] == 1
    assert metrics["live_operations_normal"] == int(strategy.live[0].sum())
    assert all(isinstance(v, int | float) for v in metrics.values())
    figures = strategy.plots([metrics, metrics])
    assert [len(points) for f in figures for points in f["series"].values()] == [2] * 7
    assert strategy.architecture_weights().shape == (3, 5, 4)


@pytest.mark.parametrize("key, value", [
    ("lam", 0.0), ("lam", -0.01), ("switch_rate", 0.0), ("group_reduce", "max"),
    ("curvature", "diagonal"), ("curvature_batches", 0), ("curvature_floor", 1.0),
    ("variance_ceiling", 0.5), ("tolerance", -1.0)])
def test_bad_settings_are_one_line(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^algorithm\.{key}: must be [^\n]+$"):
        BayesNAS(**{**SETTINGS, key: value})


def test_shared_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^search_space\.share_cells: must be false"):
        BayesNAS(**SETTINGS).setup(make_problem(cells=3))
