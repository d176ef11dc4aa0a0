"""CARS as a strategy: weight sharing, generations, the family, resuming, bad configuration."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from harness import images, make_problem, run_steps
from torch import Tensor
from torch.nn.functional import cross_entropy

from algorithms import pareto
from algorithms.cars import CARS
from algorithms.strategy import Problem
from search_spaces import FinalNetwork, Genotype, Mixing, load_genotype

OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
SETTINGS: dict[str, Any] = {
    "epochs": 8, "warmup_epochs": 2, "epochs_per_generation": 2, "population": 4,
    "individuals_per_step": 1, "mutation": 0.25, "crossover": 0.25, "new": 0.5,
    "node_probability": 0.5, "shared_coin": True, "include_none": False,
    "objectives": ["error", "params"], "latency_device": None, "selection": "pnsga3",
    "speed": "checkpoint_difference", "batch_norm": "batch", "family_size": 2,
    "reference_point": None, "size_bins": 5}


def cost(genotype: Genotype, names: Any) -> dict[str, float]:
    """Stand-in for the trainer's counts: convolutions are large, pools have a little latency."""
    operations = [op for cell in (genotype.normal, genotype.reduce) for op, _, _ in cell.edges]
    table = {"params": 10 + 100 * operations.count("sep_conv_3x3"),
             "mult_adds": 7 + 30 * operations.count("sep_conv_3x3"),
             "latency_ms": 0.5 + operations.count("max_pool_3x3")}
    return {name: table[name] for name in names}


def build(seed: int = 0, problem: dict[str, Any] | None = None, **settings: Any
          ) -> tuple[CARS, Problem, list[tuple[Mixing, Any, str | None]]]:
    """(strategy, problem, every call of the scorer)."""
    made = make_problem(operations=OPERATIONS, seed=seed, **(problem or {}))
    calls: list[tuple[Mixing, Any, str | None]] = []
    scorer = made.score

    def score(mixing: Mixing, *, weights: Any = None, batch_norm: str | None = None) -> float:
        calls.append((mixing, weights, batch_norm))
        return scorer(mixing, weights=weights, batch_norm=batch_norm)

    made = replace(made, score=score, measure=cost)
    strategy = CARS(**{**SETTINGS, **settings})
    strategy.setup(made)
    return strategy, made, calls


def search(strategy: CARS, problem: Problem, first: int = 0, last: int = 8, steps: int = 2
           ) -> list[dict[str, Any]]:
    """Epochs `first` to `last`; the recorded metrics of each."""
    history = []
    for epoch in range(first, last):
        problem.weights.lr = 0.025 / (1 + epoch)
        run_steps(strategy, problem, steps, start=epoch * steps)
        history.append(strategy.on_epoch_end(epoch))
    return history


def weights_of(problem: Problem) -> dict[str, Tensor]:
    return problem.weights.snapshot()


def equal(a: Any, b: Any) -> bool:
    """Bit equality of nested plain Python and tensors."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


# Weight sharing: the sparse path and eqs. 1 to 3


def individuals(strategy: CARS, count: int) -> list[Mixing]:
    return [strategy._mixing(strategy.encoding.random(strategy.problem.rng)) for _ in range(count)]


def gradients(strategy: CARS, mixings: list[Mixing]) -> dict[str, Tensor | None]:
    """What the trainer's step leaves in `.grad`, without moving the weights or clipping."""
    weights = strategy.problem.weights
    weights.grad_clip, weights.lr = 0.0, 0.0
    weights.step(strategy.problem.batches("search_train", 1, 0)[0], mixings)
    return {k: None if p.grad is None else p.grad.clone()
            for k, p in strategy.supernet.named_parameters()}


def test_gradient_is_the_mean_over_the_individuals() -> None:
    strategy, problem, _ = build(problem={"dtype": torch.float64}, individuals_per_step=3)
    mixings = individuals(strategy, 3)
    found = gradients(strategy, mixings)
    (x, y), network = problem.batches("search_train", 1, 0)[0], strategy.supernet
    parameters = dict(network.named_parameters())
    total = {key: torch.zeros_like(p) for key, p in parameters.items()}
    for mixing in mixings:
        loss = cross_entropy(network(x, mixing), y)
        for key, g in zip(parameters, torch.autograd.grad(loss, list(parameters.values()),
                                                          allow_unused=True), strict=True):
            total[key] += 0 if g is None else g / 3
    for key, g in found.items():
        expected = total[key]
        assert g is not None or not expected.any(), key
        if g is not None:
            torch.testing.assert_close(g, expected, rtol=1e-9, atol=1e-12)
    assert any(g is None for g in found.values())  # operations of no individual
    doubled = gradients(strategy, mixings + mixings)  # would double if gradients were summed
    for key, g in found.items():
        assert (g is None) == (doubled[key] is None)
        if g is not None:
            torch.testing.assert_close(doubled[key], g, rtol=1e-9, atol=1e-12)


def test_a_step_averages_distinct_individuals_of_the_population() -> None:
    strategy, problem, _ = build(individuals_per_step=3)
    given = []
    problem.weights.step = lambda batch, mixings: given.append(mixings) or {}
    search(strategy, problem, 0, 1)  # warm-up: one fresh uniform individual per batch
    assert [len(mixings) for mixings in given] == [1, 1]
    known = [strategy.encoding.mask(one) for one in strategy.population]
    given.clear()
    search(strategy, problem, 1, 2, steps=30)
    fresh = {tuple(m[0].live.flatten().tolist()) for m in given}
    assert len(fresh) > 25 and not fresh <= {tuple(k.flatten().tolist()) for k in known}
    given.clear()
    search(strategy, problem, 2, 3, steps=30)
    used = set()
    for mixings in given:
        rows = [i for m in mixings for i, k in enumerate(known) if torch.equal(m.live, k)]
        assert len(set(rows)) == 3
        used |= set(rows)
    assert used == set(range(4))


def test_sparse_forward_is_the_dense_one_under_the_mask() -> None:
    strategy, problem, _ = build()
    run_steps(strategy, problem, 4)
    strategy.supernet.eval()
    x, _ = images(6, seed=3)
    for mixing in individuals(strategy, 6):
        assert mixing.live is not None and mixing.live.sum() == 8
        with torch.no_grad():
            sparse, dense = strategy.supernet(x, mixing), strategy.supernet(
                x, mixing.live.float())
        torch.testing.assert_close(sparse, dense, rtol=1e-6, atol=1e-6)


def test_unused_weights_and_statistics_stay_bit_identical() -> None:
    strategy, problem, _ = build(warmup_epochs=0, individuals_per_step=2)
    run_steps(strategy, problem, 6)  # momentum everywhere it will ever be
    before, sampled = weights_of(problem), []
    step = problem.weights.step
    problem.weights.step = lambda batch, mixings: sampled.extend(mixings) or step(batch, mixings)
    run_steps(strategy, problem, 1)
    live = sampled[0].live | sampled[1].live
    space, moved = strategy.supernet.space, 0
    for key, value in weights_of(problem).items():
        if ".edge" not in key:
            continue
        cell, edge, op = key.split(".")[:3]
        source, target = edge.removeprefix("edge").split("->")
        row = strategy.supernet.rows[int(cell.removeprefix("cell"))]
        used = live[row, space.edges.index((int(source), int(target))), space.operations.index(op)]
        if not used:
            assert torch.equal(value, before[key]), key
        else:
            moved += not torch.equal(value, before[key])
    assert moved > 0


# Generations


def test_generations_come_after_the_warm_up_and_carry_everything_on() -> None:
    strategy, problem, _ = build(epochs=7)
    buffers = {}
    for epoch in range(7):
        search(strategy, problem, epoch, epoch + 1)
        if epoch == 2:
            buffers = {k: id(b["momentum_buffer"])
                       for k, b in problem.weights.optimizer.state.items()}
        before, momentum = weights_of(problem), problem.weights.momentum_buffers()
        population = list(strategy.population)
        metrics = strategy._evolve() if epoch == 4 else {}  # an extra one, to look inside
        if metrics:
            assert equal(before, weights_of(problem))
            assert equal(momentum, problem.weights.momentum_buffers())
            assert metrics["survivors"] == len(set(population) & set(strategy.population)) > 0
            assert len(set(strategy.population)) == 4
            assert sum(metrics["children"].values()) == 4
    for key, known in buffers.items():
        assert id(problem.weights.optimizer.state[key]["momentum_buffer"]) == known
    strategy, problem, _ = build(epochs=7)
    history = search(strategy, problem, 0, 7)
    assert [i for i, row in enumerate(history) if row] == [3, 5]
    assert [row["generation"] for row in history if row] == [1, 2]


def test_everyone_is_scored_again_and_children_twice() -> None:
    strategy, problem, calls = build()
    history = search(strategy, problem, 0, 4)
    assert history[3]["candidates_scored"] == len(calls) == 16  # the first: all 8 under both
    assert all(batch_norm == "batch" for _, _, batch_norm in calls)
    first, population = dict(zip(strategy.population, strategy.errors, strict=True)), \
        list(strategy.population)
    calls.clear()
    frozen = strategy.previous
    for key, value in frozen.items():
        assert torch.equal(value, weights_of(problem)[key])
    for one in population:  # what is remembered is what scoring under those weights would give
        again = problem.score(strategy._mixing(one), weights=frozen, batch_norm="batch")
        assert again == first[one]
    calls.clear()
    history = search(strategy, problem, 4, 6, steps=3)
    assert history[1]["candidates_scored"] == len(calls) == 12
    assert sum(weights is frozen for _, weights, _ in calls) == 4
    assert sum(weights is None for _, weights, _ in calls) == 8
    masks = [m.live for m, weights, _ in calls if weights is None]
    for one in population:  # parents are scored again: weights moved
        assert any(torch.equal(strategy.encoding.mask(one), mask) for mask in masks)
    assert -1 <= history[1]["candidate_rank_stability"] <= 1


@pytest.mark.parametrize("warm_up", [0, 1])
def test_speed_is_the_difference_between_checkpoints(warm_up: int) -> None:
    strategy, problem, _ = build(warmup_epochs=warm_up, epochs_per_generation=1)
    search(strategy, problem, 0, warm_up, steps=5)
    initial = weights_of(problem)  # where the warm-up ends
    assert equal(initial, strategy.previous)
    search(strategy, problem, warm_up, warm_up + 1, steps=5)

    def score(one: Any, weights: Any = None) -> float:
        return problem.score(strategy._mixing(one), weights=weights, batch_norm="batch")

    def scored() -> Any:
        return zip(strategy.population, strategy.errors, strategy.speeds, strict=True)

    for one, error, speed in scored():
        assert error == score(one)
        assert speed == pytest.approx(score(one, initial) - error)
    assert len(set(strategy.speeds)) > 1
    middle = weights_of(problem)
    search(strategy, problem, warm_up + 1, warm_up + 2, steps=5)
    for one, error, speed in scored():
        assert speed == pytest.approx(score(one, middle) - error)


@pytest.mark.parametrize("settings", [{"speed": "accuracy_proxy"}, {"selection": "nsga2"},
                                      {"selection": "nsga3"}])
def test_other_rules_score_once(settings: dict[str, Any]) -> None:
    if settings.get("selection") == "nsga3":
        pytest.importorskip("pymoo")
    strategy, problem, calls = build(**settings)
    history = search(strategy, problem)
    assert strategy.previous is None
    assert [row["candidates_scored"] for row in history if row] == [8, 8, 8]
    assert len(calls) == 24 and all(weights is None for _, weights, _ in calls)
    assert strategy.speeds == [100 - error for error in strategy.errors]


def test_selection_uses_the_configured_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The survivors are those of the union rule on what was scored, and not NSGA-II's."""
    strategy, problem, _ = build(population=12)
    seen: dict[str, Any] = {}
    original = pareto.select_union

    def spy(sortings: Any, count: int, rng: torch.Generator) -> Any:
        seen.update(sortings=sortings, count=count, chosen=original(sortings, count, rng))
        return seen["chosen"]

    monkeypatch.setattr(pareto, "select_union", spy)
    everyone: list[Any] = []
    measure = strategy._measure
    strategy._measure = lambda many: everyone.append(list(many)) or measure(many)
    search(strategy, problem, 0, 4)
    parents_and_children = everyone[0]
    assert strategy.population == [parents_and_children[i] for i in seen["chosen"]]
    assert seen["count"] == 12 and len(seen["sortings"]) == 2
    size = measure(parents_and_children)[:, 0]
    # the second sorting has the largest candidate on its first front, the first one the smallest
    assert seen["sortings"][1][size == size.max()].min() == 0
    assert seen["sortings"][0][size == size.min()].min() == 0


def test_several_costs_and_latency() -> None:
    strategy, problem, _ = build(objectives=["error", "params", "latency_ms"], latency_device="cpu",
                                 reference_point=[100.0, 1000.0, 20.0])
    history = search(strategy, problem)
    assert len(strategy._sortings(np.zeros(3), np.zeros(3), np.zeros((3, 2)))) == 4
    assert set(history[-1]) >= {"hypervolume", "hypervolume_latency_ms"}
    assert set(strategy.derive()[0].extra["objectives"]) == {"error", "params", "latency_ms"}


def test_metrics() -> None:
    strategy, problem, _ = build(population=6)
    history = search(strategy, problem)
    for row in (history[i] for i in (3, 5, 7)):
        assert sum(row["size_histogram"]) == 6 and len(row["size_histogram"]) == 5
        assert 0 < row["hypervolume"] < 1
        assert sum(row["exposure"].values()) == pytest.approx(1)
        assert row["learnable_exposure"] == pytest.approx(row["exposure"]["sep_conv_3x3"])
        assert {tuple(p) for p in row["accuracy_front"]} <= {tuple(p) for p in row["front"]}
        assert row["front"] == sorted(row["front"], key=lambda p: p[1])
    assert strategy.reference == [100.0, 810.0]  # sep_conv_3x3 everywhere: 8 of them
    assert history[3]["candidate_rank_stability"] is None
    weights = strategy.architecture_weights()
    assert weights.shape == (2, 5, 4) and float(weights.sum()) == pytest.approx(8)
    figures = strategy.plots(history)
    assert [f["name"] for f in figures] == ["fronts", "final_front", "population"]
    assert len(figures[0]["series"]) == 3
    assert figures[0]["series"]["generation 3"] == [(s, e) for e, s in history[7]["accuracy_front"]]
    assert strategy.plots(history[:2]) == []


def test_exposure_counts_what_training_ran() -> None:
    strategy, problem, _ = build(warmup_epochs=0)
    for i, one in enumerate(strategy.population):
        strategy.population[i] = tuple(tuple((e, 3 if k < 2 else 2) for e, _ in node)
                                       for k, node in enumerate(one))
    row = search(strategy, problem, 0, 2)[1]
    assert row["exposure"] == {"max_pool_3x3": 0, "skip_connect": 0.5, "sep_conv_3x3": 0.5}
    assert strategy.sampled.total() == 0


# The family


def test_family_before_any_generation() -> None:
    strategy, problem, calls = build()
    family = strategy.derive()
    assert [d.name for d in family] == ["CARS-A", "CARS-B"] and calls == []
    assert family[0].supernet_valid_accuracy is None
    assert family[0].extra["objectives"]["params"] <= family[1].extra["objectives"]["params"]
    run_steps(strategy, problem, 1)
    assert strategy.derive() == family
    assert torch.equal(strategy.mixing().live, strategy.encoding.mask(strategy.population[0]))


def test_family_spans_the_merged_front_in_order_of_size() -> None:
    strategy, problem, calls = build(population=8, family_size=3)
    history = search(strategy, problem)
    calls.clear()
    family = strategy.derive()
    assert calls == []
    assert [d.name for d in family] == ["CARS-A", "CARS-B", "CARS-C"]
    costs = [d.extra["objectives"]["params"] for d in family]
    assert costs == sorted(costs) and all(isinstance(c, int) for c in costs)
    front = family[0].extra["front"]
    assert sorted([m["objectives"]["error"], m["objectives"]["params"]] for m in front) == \
        sorted(history[-1]["front"])
    for derived in family:
        assert cost(derived.genotype, ["params"])["params"] == derived.extra["objectives"]["params"]
        code = Mixing.sparse(strategy.supernet.space.one_hot(derived.genotype))
        assert 100 - problem.score(code, batch_norm="batch") == derived.supernet_valid_accuracy
    assert all("front" not in d.extra for d in family[1:])
    best = strategy.mixing()
    assert problem.score(best, batch_norm="batch") == min(strategy.errors) \
        == history[-1]["candidate_best_error"]


def test_family_larger_than_the_front_takes_the_next_stages() -> None:
    strategy, problem, _ = build(population=4, family_size=4)
    search(strategy, problem, 0, 4)
    strategy.errors, strategy.speeds = [10.0, 20.0, 30.0, 40.0], [9.0, 8.0, 7.0, 6.0]
    for one in strategy.population:
        strategy.costs[one] = [5.0]
    assert len(strategy.derive()) == 4


@pytest.mark.parametrize("share_cells", [True, False])
def test_none_searched_the_decoded_network_is_the_evaluated_one(share_cells: bool) -> None:
    strategy, problem, calls = build(include_none=True, population=8,
                                     problem={"share_cells": share_cells, "cells": 3})
    search(strategy, problem, 0, 6)
    space, rows = strategy.supernet.space, list(strategy.supernet.row_types)
    current = [mixing.live for mixing, weights, _ in calls if weights is None]
    assert any(len(node) < 2 for one in strategy.population for node in one)
    for one in strategy.population:
        genotype = strategy.encoding.decode(one)
        assert any(torch.equal(space.one_hot(genotype)[rows] > 0, mask) for mask in current)
        network = FinalNetwork(genotype, 4, 3, 4, image_size=8)
        assert network(images(2)[0])[0].shape == (2, 4)


# Resuming


RESUMED = {"population": 5, "include_none": True, "latency_device": "cpu",
           "objectives": ["error", "params", "latency_ms"]}


@pytest.mark.parametrize(("speed", "stops"), [("checkpoint_difference", [1, 2, 4, 5, 6]),
                                              ("accuracy_proxy", [4])])
def test_resume_is_bit_equal(speed: str, stops: list[int]) -> None:
    whole, problem, _ = build(speed=speed, **RESUMED)
    expected, files, measured = [], {}, {}
    for epoch in range(8):
        expected += search(whole, problem, epoch, epoch + 1)
        files[epoch + 1], measured[epoch + 1] = io.BytesIO(), set(whole.costs)
        torch.save({"strategy": whole.state_dict(), "weights": weights_of(problem),
                    "optimizer": problem.weights.optimizer.state_dict(),
                    "rng": problem.rng.get_state()}, files[epoch + 1])
    for stop in stops:
        files[stop].seek(0)
        saved = torch.load(files[stop], weights_only=True)
        second, resumed, _ = build(seed=7, speed=speed, **RESUMED)
        resumed.supernet.load_state_dict(saved["weights"])
        resumed.weights.optimizer.load_state_dict(saved["optimizer"])
        resumed.rng.set_state(saved["rng"])
        second.load_state_dict(saved["strategy"])

        def once(genotype: Genotype, names: Any, strategy: CARS = second, stop: int = stop) -> Any:
            """A measured latency comes from the checkpoint, never from a second measurement."""
            assert strategy.encoding.encode(genotype) not in measured[stop]
            return cost(genotype, names)

        resumed.measure = once
        assert search(second, resumed, stop) == expected[stop:]
        assert equal(weights_of(problem), weights_of(resumed))
        assert equal(whole.state_dict(), second.state_dict())
        assert whole.derive() == second.derive()


def test_state_is_a_copy_of_its_moment() -> None:
    strategy, problem, _ = build()
    search(strategy, problem, 0, 3)
    state = strategy.state_dict()
    kept = copy.deepcopy(state)
    search(strategy, problem, 3, 8)
    assert equal(state, kept)


@pytest.mark.parametrize("settings", [{"epochs": 1, "warmup_epochs": 8}, {"epochs": 3},
                                      {"epochs": 2, "warmup_epochs": 2}])
def test_a_search_too_short_for_a_generation_still_scores_its_population(
        settings: dict[str, Any]) -> None:
    strategy, problem, _ = build(**settings)
    found = [strategy.on_epoch_end(epoch) for epoch in range(settings["epochs"])]
    assert strategy.generation == 1 and "candidates_scored" in found[-1]
    assert all(d.supernet_valid_accuracy is not None for d in strategy.derive())


# Bad configuration and published models


@pytest.mark.parametrize(("settings", "message"), [
    ({"population": 3}, "population: must be at least 4"),
    ({"new": 0.4}, "mutation: must be such that mutation, crossover and new sum to 1"),
    ({"mutation": -0.25, "new": 1.0}, "mutation: must be a share between 0 and 1"),
    ({"objectives": ["error", "weight"]}, "objectives: must be error followed by"),
    ({"objectives": ["params", "error"]}, "objectives: must be error followed by"),
    ({"objectives": ["error"]}, "objectives: must be error followed by"),
    ({"objectives": ["error", "params", "params"]}, "objectives: must be error followed by"),
    ({"objectives": ["error", "latency_ms"]}, "latency_device: must be a device"),
    ({"warmup_epochs": -1}, "warmup_epochs: must be at least 0"),
    ({"epochs_per_generation": 0}, "epochs_per_generation: must be at least 1"),
    ({"individuals_per_step": 5}, "individuals_per_step: must be 1 to the population's 4"),
    ({"node_probability": 0.0}, "node_probability: must be between 0 and 1"),
    ({"selection": "nsga"}, "selection: must be one of pnsga3, nsga2, nsga3"),
    ({"speed": "history"}, "speed: must be one of checkpoint_difference, accuracy_proxy"),
    ({"batch_norm": "eval"}, "batch_norm: must be one of running, batch, recalibrated"),
    ({"family_size": 5}, "family_size: must be 1 to 4"),
    ({"reference_point": [100.0]}, "reference_point: must be null or 2 positive numbers"),
    ({"size_bins": 0}, "size_bins: must be at least 1"),
])
def test_bad_configuration_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        CARS(**{**SETTINGS, **settings})
    assert str(caught.value).startswith(f"algorithm.{message}")
    assert "\n" not in str(caught.value)


def test_space_that_does_not_fit_is_one_line() -> None:
    problem = make_problem(operations=("skip_connect", "sep_conv_3x3"), nodes=1)
    for settings, key in (({"population": 16}, "population"), ({"include_none": True},
                                                               "include_none")):
        with pytest.raises(ValueError, match=f"^algorithm.{key}: [^\n]*$"):
            CARS(**{**SETTINGS, **settings}).setup(problem)
    CARS(**{**SETTINGS, "population": 8}).setup(problem)  # exactly half of the 16 networks


# CARS, CVPR 2020, Tables 1 and 2: parameters in millions as printed
PRINTED = {"A": ("2.4", "3.7"), "B": ("2.7", "4.0"), "C": ("2.8", "4.2"), "D": ("2.9", "4.3"),
           "E": ("3.0", "4.4"), "F": ("3.1", "4.5"), "G": ("3.2", "4.7"), "H": ("3.3", "4.8"),
           "I": ("3.6", "5.1")}


@pytest.mark.parametrize("letter", PRINTED)
def test_published_models_have_the_printed_sizes(letter: str) -> None:
    genotype = load_genotype(f"CARS_{letter}")[1]
    scales = ((36, 20, 10, 32), (48, 14, 1000, 224))
    for printed, (channels, cells, classes, size) in zip(PRINTED[letter], scales, strict=True):
        with torch.device("meta"):
            network = FinalNetwork(genotype, channels, cells, classes, image_size=size)
        assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}" == printed
