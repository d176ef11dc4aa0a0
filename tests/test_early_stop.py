"""DARTS+: when each criterion fires, what it remembers, and the signs of collapse."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import DARTS_OPERATIONS, make_problem, run_steps
from torch import Tensor

from algorithms.darts import DARTS
from algorithms.early_stop import EarlyStop, Never, RankStable, SkipCount
from algorithms.random_search import RandomSearch
from search_spaces import Cell, CellSpace, Genotype, load_genotype
from search_spaces.diagnosis import (
    collapse_warning,
    diagnosis_plots,
    learnable_order,
    order_stable_since,
    stable_since,
)

SPACE = CellSpace(DARTS_OPERATIONS)
ROWS = (0, 1)
CONF = Path(__file__).parents[1] / "conf"


def cell(skips: int) -> Cell:
    """A cell whose first `skips` of eight inputs are skip connections."""
    names = ["skip_connect"] * skips + ["sep_conv_3x3"] * (8 - skips)
    return Cell(tuple((name, i % 2, 2 + i // 2) for i, name in enumerate(names)), (2, 3, 4, 5))


def genotype(normal: int, reduce: int) -> Genotype:
    return Genotype(cell(normal), cell(reduce))


def ask(rule: EarlyStop, epoch: int, normal: int = 0, reduce: int = 0,
        weights: Tensor | None = None) -> str | None:
    moving = None if weights is None else weights * (1 + 1e-4 * epoch)  # trained, order unchanged
    return rule.check(epoch, genotype(normal, reduce), moving, SPACE, ROWS)


def weights(seed: int = 0) -> Tensor:
    return torch.randn(2, 14, 8, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def test_never() -> None:
    assert ask(Never(), 1000, 8, 8) is None


@pytest.mark.parametrize("limit, cells, normal, reduce, fires", [
    (2, "normal", 1, 8, None), (2, "normal", 2, 0, "2 skip connections in the derived normal cell"),
    (2, "normal", 5, 0, "5 skip"), (3, "normal", 2, 0, None), (1, "normal", 1, 0, "1 skip"),
    (2, "reduce", 8, 1, None), (2, "reduce", 0, 2, "derived reduce cell"),
    (2, "both", 1, 1, None), (2, "both", 1, 3, "3 skip connections in the derived reduce cell"),
    (2, "both", 4, 3, "4 skip connections in the derived normal cell")])
def test_skip_count(limit: int, cells: str, normal: int, reduce: int, fires: str | None) -> None:
    reason = ask(SkipCount(limit, cells, 0), 7, normal, reduce)
    if fires is None:
        assert reason is None
    else:
        assert reason.startswith("skip_count: ") and fires in reason
        assert "after epoch 7" in reason and f"limit {limit}" in reason


def test_skip_count_waits_for_the_first_allowed_epoch() -> None:
    rule = SkipCount(2, "normal", 5)
    assert [ask(rule, e, 8) is not None for e in range(7)] == [False] * 5 + [True] * 2


def test_the_published_darts_plus_cells_are_stopped_at() -> None:
    rule = SkipCount(2, "normal", 0)
    for name in ("DARTS_PLUS_cifar10", "DARTS_PLUS_cifar100"):
        assert rule.check(0, load_genotype(name)[1], None, SPACE, ROWS)
    assert SkipCount(3, "normal", 0).check(
        0, load_genotype("DARTS_PLUS_cifar10")[1], None, SPACE, ROWS) is None


def swapped(table: Tensor, row: int, edge: int, first: int, second: int) -> Tensor:
    """Exchange the operations ranked `first` and `second` among the learnable ones of an edge."""
    table = table.clone()
    ranked = sorted(SPACE.learnable, key=lambda o: -float(table[row, edge, o]))
    a, b = ranked[first], ranked[second]
    table[row, edge, [a, b]] = table[row, edge, [b, a]]
    return table


@pytest.mark.parametrize("compare, cells, row, ranks, resets", [
    ("full", "normal", 0, (0, 1), True), ("full", "normal", 0, (2, 3), True),
    ("full", "normal", 1, (0, 1), False), ("full", "reduce", 1, (2, 3), True),
    ("full", "reduce", 0, (0, 1), False), ("full", "both", 0, (2, 3), True),
    ("full", "both", 1, (2, 3), True), ("argmax", "both", 1, (0, 1), True),
    ("argmax", "both", 1, (1, 2), False), ("argmax", "normal", 0, (2, 3), False)])
def test_rank_stable_compares_what_it_says(compare: str, cells: str, row: int,
                                           ranks: tuple[int, int], resets: bool) -> None:
    rule = RankStable(10, compare, cells, 0)
    table = weights()
    for epoch in range(4):
        assert ask(rule, epoch, weights=table) is None
        assert rule.metrics() == {"stable_epochs": epoch}
    ask(rule, 4, weights=swapped(table, row, 3, *ranks))
    assert rule.metrics() == {"stable_epochs": 0 if resets else 4}


def test_rank_stable_fires_after_n_epochs_without_a_change() -> None:
    rule, table = RankStable(3, "full", "normal", 0), weights()
    assert ask(rule, 0, weights=weights(1)) is None
    fired = [ask(rule, e, weights=table * (1 + e)) for e in range(1, 5)]  # scale is not order
    assert fired[:3] == [None] * 3
    assert fired[3].startswith("rank_stable: the full order") and "3 epochs" in fired[3]
    assert "the normal cell" in fired[3] and "after epoch 4" in fired[3]


def test_rank_stable_ignores_operations_without_weights() -> None:
    rule, table = RankStable(2, "full", "both", 0), weights()
    ask(rule, 0, weights=table)
    for epoch in (1, 2):
        table = table.clone()
        table[..., :4] = torch.rand(2, 14, 4)  # none, pooling, skip
        reason = ask(rule, epoch, weights=table)
    assert reason is not None


def test_rank_stable_counts_before_the_first_allowed_epoch() -> None:
    rule, table = RankStable(2, "argmax", "both", 6), weights()
    reasons = [ask(rule, e, weights=table) for e in range(7)]
    assert reasons[:6] == [None] * 6 and "the best of" in reasons[6] and "both cells" in reasons[6]


def test_rank_stable_state_round_trip() -> None:
    first, table = RankStable(4, "full", "normal", 0), weights()
    for epoch in range(3):
        ask(first, epoch, weights=table)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = RankStable(4, "full", "normal", 0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.metrics() == first.metrics() == {"stable_epochs": 2}
    for epoch in (3, 4):
        assert ask(first, epoch, weights=table) == ask(second, epoch, weights=table)
    assert ask(second, 5, weights=table) is not None
    fresh = RankStable(4, "full", "normal", 0)
    fresh.load_state_dict(fresh.state_dict())  # before the first epoch
    assert ask(fresh, 0, weights=table) is None


def test_rank_stable_needs_something_to_rank() -> None:
    with pytest.raises(ValueError, match="^early_stop: .*architecture weights"):
        RankStable(1, "full", "both", 0).prepare(None, SPACE)
    small = CellSpace(("none", "skip_connect", "sep_conv_3x3"))
    with pytest.raises(ValueError, match="^early_stop: .*search_space.operations"):
        RankStable(1, "full", "both", 0).prepare(torch.rand(2, 14, 3), small)
    with pytest.raises(ValueError, match=r"^early_stop\.cells: .*no normal cell"):
        RankStable(1, "full", "normal", 0).check(0, genotype(0, 0), weights(), SPACE, (1, 1))


@pytest.mark.parametrize("rule, arguments, key", [
    (SkipCount, (0, "normal", 0), "limit"), (SkipCount, (2, "all", 0), "cells"),
    (SkipCount, (2, "normal", -1), "min_epoch"), (RankStable, (0, "full", "both", 0), "epochs"),
    (RankStable, (10, "rank", "both", 0), "compare"), (RankStable, (10, "full", "x", 0), "cells"),
    (RankStable, (10, "full", "both", -1), "min_epoch")])
def test_configuration_errors(rule: type, arguments: tuple, key: str) -> None:
    with pytest.raises(ValueError, match=rf"^early_stop\.{key}: must be [^\n]+, got [^\n]+$"):
        rule(*arguments)


# the diagnosis


def test_learnable_order_by_hand() -> None:
    table = torch.zeros(2, 14, 8)
    table[0, 0] = torch.tensor([9.0, 9, 9, 9, 0.1, 0.4, 0.3, 0.2])
    order = learnable_order(table, SPACE, ROWS, compare="full", cells="normal")
    assert order.shape == (1, 14, 4)
    assert order[0, 0].tolist() == [5, 6, 7, 4] and order[0, 1].tolist() == [4, 5, 6, 7]
    best = learnable_order(table, SPACE, ROWS, compare="argmax", cells="both")
    assert best.shape == (2, 14, 1) and best[0, 0].tolist() == [5]


def test_order_of_unshared_cells_takes_the_rows_of_the_type() -> None:
    table = torch.rand(5, 14, 8)
    order = learnable_order(table, SPACE, (0, 1, 0, 1, 0), compare="full", cells="reduce")
    both = learnable_order(table, SPACE, (0, 1, 0, 1, 0), compare="full", cells="both")
    assert order.shape == (2, 14, 4) and torch.equal(order, both[[1, 3]])


def test_epochs_that_train_nothing_are_not_counted_as_stable() -> None:
    """ASAP's grace and a warm-up leave the weights bit-identical."""
    rule, frozen, g = RankStable(2, "full", "both", 0), torch.rand(2, 14, 8), genotype(0, 0)
    assert [rule.check(e, g, frozen, SPACE, ROWS) for e in range(5)] == [None] * 5
    assert rule.check(5, g, frozen * 1.01, SPACE, ROWS) is None  # first epoch that moved them
    assert rule.check(6, g, frozen * 1.02, SPACE, ROWS) is not None


def test_order_stable_since_is_per_cell_type() -> None:
    a = torch.arange(2 * 14 * 8.0).view(2, 14, 8)
    flipped = torch.stack([a[0], a[1].flip(-1)])
    assert order_stable_since([a, flipped, a], SPACE, ROWS) == {"normal": 0, "reduce": None}
    assert order_stable_since([], SPACE, ROWS) == {"normal": None, "reduce": None}


def test_stable_since() -> None:
    a, b = weights(0), weights(1)
    assert stable_since([], SPACE, ROWS) is None
    assert stable_since([a, b, a, a, a], SPACE, ROWS) == 2
    assert stable_since([a, a], SPACE, ROWS) == 0
    assert stable_since([a, a, b], SPACE, ROWS) == 2
    late = swapped(a, 1, 0, 2, 3)
    assert stable_since([b, a, late], SPACE, ROWS) == 2
    assert stable_since([b, a, late], SPACE, ROWS, cells="normal") == 1
    assert stable_since([b, a, late], SPACE, ROWS, compare="argmax") == 1


@pytest.mark.parametrize("skips", range(9))
def test_collapse_warning(skips: int) -> None:
    warning = collapse_warning(genotype(skips, 8))
    assert (warning is not None) == (skips > 4)
    if warning:
        assert f"{skips} of the 8" in warning


def test_diagnosis_plots() -> None:
    a, b = weights(0), weights(1)
    skips, normal, reduce = diagnosis_plots([genotype(1, 0), genotype(4, 2)], [a, b], SPACE, ROWS)
    assert skips["series"] == {"normal": [(0, 1), (1, 4)], "reduce": [(0, 0), (1, 2)]}
    for row, figure in enumerate((normal, reduce)):
        assert "mean over edges" in figure["title"]
        assert list(figure["series"]) == list(SPACE.operations)
        expected = [(e, pytest.approx(float(w[row, :, 3].mean()))) for e, w in enumerate((a, b))]
        assert figure["series"]["skip_connect"] == expected
    assert len(diagnosis_plots([genotype(0, 0)], [], SPACE, ROWS)) == 1
    unshared = diagnosis_plots([genotype(0, 0)], [torch.rand(3, 14, 8)], SPACE, (1, 1, 1))
    assert [figure["name"] for figure in unshared] == ["skip_connects", "operation_weights_reduce"]


# DARTS under the criterion


def test_unshared_darts_shows_every_cell() -> None:
    problem = make_problem(cells=3, share_cells=False, channels=2)
    strategy = DARTS(label="DARTS", second_order=False, learning_rate=0.1, betas=[0.5, 0.999],
                     weight_decay=0.0, initial_scale=1.0, finite_difference=0.01)
    strategy.setup(problem)
    run_steps(strategy, problem, 1)
    cells = strategy.derive()[0].extra["cells"]
    assert len(cells) == 3 and len({str(c) for c in cells}) > 1
    problem = make_problem()
    strategy.setup(problem)
    assert strategy.derive()[0].extra == {}


def test_one_random_sample_ends_by_itself() -> None:
    assert RandomSearch(candidates=1, epochs=50).should_stop() is not None
    assert RandomSearch(candidates=2, epochs=50).should_stop() is None


def composed(*overrides: str) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base=None):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


def test_darts_plus_is_darts_with_the_criterion_switched_on() -> None:
    plus, plain = composed("algorithm=darts_plus"), composed("algorithm=darts")
    assert plus["early_stop"]["name"] == "skip_count" and plus["early_stop"]["limit"] == 2
    assert plain["early_stop"]["name"] == "none"
    different = {k for k in plain["algorithm"] if plain["algorithm"][k] != plus["algorithm"][k]}
    assert different == {"name", "label", "paper", "smoke"}
    assert composed("algorithm=darts_plus", "search=paper")["search"]["epochs"] == 60
    chosen = composed("algorithm=darts_plus", "early_stop=rank_stable", "early_stop.epochs=7")
    assert chosen["early_stop"]["name"] == "rank_stable" and chosen["early_stop"]["epochs"] == 7


@pytest.mark.parametrize("protocol, expected", [
    ("asap1500", {"epochs": 1500, "nesterov": True, "schedule": "power_cosine",
                  "schedule_cycles": 5, "schedule_decay": 0.5, "policy": "autoaugment_cifar10",
                  "cutout": 16, "drop_path": 0.2, "label_smoothing": 0.1, "channels": 36}),
    ("darts_plus2000", {"epochs": 2000, "channels": 36, "batch_size": 96, "drop_path": 0.2}),
    ("darts_plus_large", {"epochs": 2000, "channels": 50, "policy": "autoaugment_cifar10"}),
    ("darts_plus_imagenet800", {"epochs": 800, "batch_size": 2048, "learning_rate": 0.8,
                                "warmup_epochs": 5, "weight_decay": 3e-5, "channels": 48,
                                "cells": 14, "schedule": "cosine", "label_smoothing": 0.1}),
    ("darts_plus_imagenet800_se", {"squeeze_excitation": True,
                                   "policy": "autoaugment_imagenet"})])
def test_protocols_compose(protocol: str, expected: dict[str, Any]) -> None:
    found = composed(f"evaluation={protocol}")["evaluation"]
    assert found["protocol"] == protocol
    assert {key: found[key] for key in expected} == expected
    if protocol == "darts_plus_large":
        assert found["mixup"] > 0


def test_searches_on_larger_images_compose() -> None:
    tiny = composed("experiment=darts_plus/search_tiny_imagenet")
    assert tiny["search_space"]["stem"] == "strided" and tiny["search"]["epochs"] == 60
    large = composed("experiment=darts_plus/search_imagenet")
    assert large["search_space"]["stem"] == "imagenet"
    assert large["algorithm"]["learning_rate"] == 0.003
    wanted = {"batch_size": 512, "learning_rate": 0.2, "train_fraction": 0.1,
              "valid_fraction": 0.1, "epochs": 200}
    assert {key: large["search"][key] for key in wanted} == wanted
    for config in (tiny, large):
        assert config["early_stop"]["name"] == "skip_count"
    cells = composed("experiment=darts_plus/cifar10_per_cell")
    assert cells["search_space"]["share_cells"] is False and cells["early_stop"]["name"] == "none"
