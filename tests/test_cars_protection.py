"""pNSGA-III protects large models where NSGA-II loses them, in a synthetic world."""

from __future__ import annotations

import cars_landscape as landscape
import numpy as np
import pytest

from algorithms import pareto

SEEDS = range(5)


def nsga2(error, speed, size, count, rng):
    return pareto.select_nsga2(np.stack([error, size], axis=1), count)


def checkpoint_difference(error, speed, size, count, rng):
    sortings = pareto.protected_sortings(error, speed, size[:, None])
    return pareto.select_union(sortings, count, rng)


def accuracy_proxy(error, speed, size, count, rng):
    sortings = pareto.protected_sortings(error, 100 - error, size[:, None])
    return pareto.select_union(sortings, count, rng)


def wrong_sign(error, speed, size, count, rng):
    """The negative control: the second sorting also prefers small models."""
    sortings = [pareto.ranks(np.stack([error, size], axis=1)),
                pareto.ranks(np.stack([-speed, size], axis=1))]
    return pareto.select_union(sortings, count, rng)


def large_end(rule) -> float:
    """Mean over the seeds of the 90 % size of the last population."""
    return float(np.mean([np.quantile(landscape.evolve(rule, seed, population=32, generations=20)
                                      [2][-1], 0.9) for seed in SEEDS]))


@pytest.fixture(scope="module")
def unprotected() -> float:
    return large_end(nsga2)


@pytest.mark.parametrize("rule", [checkpoint_difference, accuracy_proxy])
def test_large_models_survive(rule, unprotected) -> None:
    assert large_end(rule) >= 1.5 * unprotected


def test_the_wrong_sign_protects_nothing(unprotected) -> None:
    assert large_end(wrong_sign) < 1.5 * unprotected
