"""Scoring leaves no trace, whatever the weights and the batch-norm policy."""

from __future__ import annotations

import pytest
import torch
from harness import make_problem, run_steps

from algorithms.random_search import RandomSearch
from algorithms.strategy import Problem
from nasbench.search.score import BATCH_NORMS
from search_spaces import Mixing, SearchNetwork
from search_spaces.sampling import sample_genotype


def trained(steps: int = 8) -> tuple[Problem, Mixing]:
    """A problem after some steps of single-path training, and one architecture."""
    problem = make_problem()
    strategy = RandomSearch(candidates=1, epochs=1)
    strategy.setup(problem)
    run_steps(strategy, problem, steps)
    code = problem.supernet.space.one_hot(sample_genotype(problem.supernet.space, problem.rng))
    return problem, Mixing.sparse(code)


def by_hand(network: SearchNetwork, problem: Problem, mixing: Mixing, policy: str) -> float:
    """The policies' definitions on a network of its own."""
    if policy == "recalibrated":
        for norm in network.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.reset_running_stats()
                norm.momentum = None
        network.train()
        for x, _ in problem.batches("search_train", 3, 0):
            network(x, mixing)
    network.train(policy == "batch")
    with torch.no_grad():
        right = [(network(x, mixing).argmax(1) == y).float().mean()
                 for x, y in problem.batches("search_valid", 3, 0)]
    return 100 - 100 * float(torch.stack(right).mean())


@pytest.mark.parametrize("policy", BATCH_NORMS)
def test_score_is_the_policy_and_leaves_no_trace(policy: str) -> None:
    problem, mixing = trained()
    snapshot = problem.weights.snapshot()
    copies = {key: value.clone() for key, value in snapshot.items()}
    run = RandomSearch(candidates=1, epochs=1)
    run.setup(problem)
    run_steps(run, problem, 12)
    now = problem.weights.snapshot()
    pointers = [p.data_ptr() for p in problem.supernet.state_dict().values()]
    for weights in (None, snapshot):
        other = make_problem().supernet
        other.load_state_dict(now if weights is None else copies)
        expected = by_hand(other, problem, mixing, policy)
        for _ in range(2):
            found = problem.score(mixing, weights=weights, batch_norm=policy)
            assert found == pytest.approx(expected, abs=1e-4)
        for key, value in problem.supernet.state_dict().items():
            assert torch.equal(value, now[key]), key
        assert all(torch.equal(snapshot[key], copies[key]) for key in copies)
    assert pointers == [p.data_ptr() for p in problem.supernet.state_dict().values()]
    assert all(m.momentum == 0.1 for m in problem.supernet.modules()
               if isinstance(m, torch.nn.BatchNorm2d))


def test_a_failure_inside_puts_everything_back() -> None:
    problem, mixing = trained()
    now, snapshot = problem.weights.snapshot(), problem.weights.snapshot()
    for value in snapshot.values():
        value.zero_()
    bad = Mixing(mixing.weights[:1])
    for policy in BATCH_NORMS:
        with pytest.raises(ValueError, match="mixing must be"):
            problem.score(bad, weights=snapshot, batch_norm=policy)
        assert all(torch.equal(v, now[k]) for k, v in problem.supernet.state_dict().items())
        assert problem.supernet.training
