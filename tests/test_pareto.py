"""Ranking and selection against pymoo, by hand, and on the cases where rankings go wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from algorithms import pareto


def cases() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {"one point": np.array([[1.0, 2.0]]), "all equal": np.ones((7, 2)),
            "constant column": np.stack([rng.random(40), np.full(40, 3.0)], axis=1),
            "chain": np.stack([np.arange(20.0), np.arange(20.0)], axis=1),
            "front": np.stack([np.arange(20.0), -np.arange(20.0)], axis=1)}
    for i in range(60):
        n, m, levels = int(rng.integers(1, 60)), 2 + i % 2, [3, 8, 10**6][i % 3]
        points = rng.integers(0, levels, (n, m)).astype(float)
        made[f"random {i}"] = np.concatenate([points, points[: n // 3]])  # duplicates
    return made


@pytest.mark.parametrize("name", cases())
def test_ranks_equal_pymoo(name: str) -> None:
    sorting = pytest.importorskip("pymoo.util.nds.non_dominated_sorting").NonDominatedSorting()
    points = cases()[name]
    _, expected = sorting.do(points, return_rank=True)
    assert pareto.ranks(points).tolist() == expected.tolist()


def test_ranks_by_hand() -> None:
    points = np.array([[1, 4], [2, 2], [4, 1], [2, 3], [3, 3], [2, 2], [1, 5]])
    assert pareto.ranks(points).tolist() == [0, 0, 0, 1, 2, 0, 1]


def test_ranks_do_not_change_under_monotone_transforms() -> None:
    """So error, -accuracy and 1/accuracy sort alike."""
    rng = np.random.default_rng(1)
    accuracy, size = rng.integers(1, 99, 200) / 1.0, rng.integers(0, 40, 200)
    expected = pareto.ranks(np.stack([100 - accuracy, size], axis=1)).tolist()
    for error in (-accuracy, 1 / accuracy, -np.log(accuracy)):
        assert pareto.ranks(np.stack([error, size], axis=1)).tolist() == expected


def test_second_sorting_prefers_large_models() -> None:
    """Both a slow large and a fast small model are on its front; a slow small one is not."""
    speed, size = np.array([1.0, 5.0, 1.0]), np.array([[9.0], [2.0], [2.0]])
    first, second = pareto.protected_sortings(np.array([50.0, 40.0, 41.0]), speed, size)
    assert first.tolist() == [2, 0, 1]
    assert second.tolist() == [0, 0, 1]


def test_several_costs_are_sorted_one_by_one() -> None:
    rng = np.random.default_rng(2)
    error, speed, costs = rng.random(30), rng.random(30), rng.random((30, 2))
    both = pareto.protected_sortings(error, speed, costs)
    apart = [s for j in (0, 1) for s in pareto.protected_sortings(error, speed, costs[:, j:j + 1])]
    assert [s.tolist() for s in both] == [s.tolist() for s in apart]


def drawn(n: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return pareto.protected_sortings(rng.integers(0, 50, n) / 1.0, rng.integers(0, 9, n) / 1.0,
                                     rng.integers(0, 50, (n, 1)) / 1.0)


@pytest.mark.parametrize("seed", range(20))
def test_union_keeps_exactly_n_and_whole_stages(seed: int) -> None:
    sortings = drawn(64, seed)
    kept = pareto.select_union(sortings, 32, torch.Generator().manual_seed(seed))
    assert len(kept) == len(set(kept.tolist())) == 32
    stage = np.minimum(*sortings)
    last = stage[kept].max()
    assert set(np.flatnonzero(stage < last)) <= set(kept.tolist())
    first = set(np.flatnonzero(sortings[0] == 0)) | set(np.flatnonzero(sortings[1] == 0))
    if len(first) <= 32:
        assert first <= set(kept.tolist())
    else:
        assert set(kept.tolist()) <= first


def test_last_stage_is_a_uniform_draw_from_the_generator() -> None:
    flat = [np.zeros(10, dtype=int)]  # one stage: everything is the last stage
    again = [pareto.select_union(flat, 4, torch.Generator().manual_seed(s)).tolist()
             for s in (0, 0, 1)]
    assert again[0] == again[1] != again[2]
    rng, counts = torch.Generator().manual_seed(0), np.zeros(10)
    for _ in range(2000):
        counts[pareto.select_union(flat, 4, rng)] += 1
    assert abs(counts / 2000 - 0.4).max() < 0.04  # 3.6 standard deviations


@pytest.mark.parametrize("m", [2, 3])
def test_nsga2_equals_pymoo(m: int) -> None:
    survival = pytest.importorskip("pymoo.operators.survival.rank_and_crowding").RankAndCrowding()
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem

    rng = np.random.default_rng(m)
    compared = 0
    for _ in range(40):
        points = rng.random((40, m))
        rank = pareto.ranks(points)
        last = np.sort(rank)[19]
        room = 20 - (rank < last).sum()
        if np.isinf(pareto.crowding(points[rank == last])).sum() > room:
            continue  # ties of infinite distance, whose order is not defined
        compared += 1
        chosen = survival.do(Problem(n_var=1, n_obj=m), Population.new(F=points), n_survive=20,
                             random_state=rng)
        expected = {tuple(p) for p in chosen.get("F")}
        found = pareto.select_nsga2(points, 20)
        assert len(found) == 20
        assert {tuple(p) for p in points[found]} == expected
    assert compared >= 20


def test_nsga3_keeps_n_and_repeats() -> None:
    pytest.importorskip("pymoo")
    rng = np.random.default_rng(4)
    points = np.stack([100 * rng.random(64), 1e6 * (1 + rng.random(64))], axis=1)
    once, again = (pareto.select_nsga3(points, 32, torch.Generator().manual_seed(5)).tolist()
                   for _ in range(2))
    assert once == again and len(set(once)) == 32
    rank = pareto.ranks(points)
    assert set(np.flatnonzero(rank < rank[once].max())) <= set(once)


def test_nsga3_without_pymoo_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pareto, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^algorithm\.selection: nsga3 needs pymoo [^\n]*$"):
        pareto.require_pymoo()


def test_hypervolume() -> None:
    points = np.array([[1.0, 3.0], [2.0, 1.0], [2.0, 2.0], [3.5, 0.5], [9.0, 0.1]])
    # in the box (4, 4): 3 * 1 + 2 * 2 + 0.5 * 0.5
    assert pareto.hypervolume(points, [4.0, 4.0]) == pytest.approx(7.25 / 16)
    assert pareto.hypervolume(np.array([[5.0, 1.0]]), [4.0, 4.0]) == 0.0
    indicator = pytest.importorskip("pymoo.indicators.hv").HV(ref_point=np.array([1.0, 1.0]))
    for seed in range(10):
        points = np.random.default_rng(seed).integers(0, 12, (30, 2)) / 10
        assert pareto.hypervolume(points, [1.0, 1.0]) == pytest.approx(indicator(points))


def test_kendall_tau() -> None:
    assert pareto.kendall_tau([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert pareto.kendall_tau([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert pareto.kendall_tau([1, 2, 3], [5, 5, 5]) is None
    # 5 pairs agree, 0 disagree, one tie in the second: 5 / sqrt(6 * 5)
    assert pareto.kendall_tau([1, 2, 3, 4], [1, 1, 2, 3]) == pytest.approx(5 / 30**0.5)


def test_spread_takes_the_best_of_each_bin_and_fills_empty_ones() -> None:
    cost = np.array([0.0, 1.0, 2.0, 6.0, 8.0, 9.0])
    error = np.array([9.0, 5.0, 6.0, 3.0, 2.0, 4.0])
    assert pareto.spread(error, cost, 3) == [1, 3, 4]
    assert pareto.spread(error, cost, 1) == [4]
    assert pareto.spread(error, cost, 6) == [0, 1, 2, 3, 4, 5]
    # the middle bin is empty: of the rest, the point farthest in size from 0 and 9
    assert pareto.spread(np.array([1.0, 2, 3, 1]), np.array([0.0, 1, 6, 9]), 4) == [0, 1, 2, 3]
    assert pareto.spread(np.array([1.0, 3, 2, 1]), np.array([0.0, 2, 1, 9]), 3) == [0, 1, 3]
    assert pareto.spread(np.array([1.0, 1.0]), np.array([4.0, 4.0]), 2) == [0, 1]
