"""The GPU's search network, on the CPU, against the plain one."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from algorithms.curvature import exact_curvature
from algorithms.curvature_recursion import recursive_curvature
from search_spaces import CellSpace, SearchNetwork
from search_spaces.darts import fast
from search_spaces.darts.fast import BatchedSearchNetwork, agreement
from search_spaces.darts.fast.gpu.network import PLANS
from search_spaces.darts.fast.gpu.plan import plan_cell
from search_spaces.darts.fast.terms import all_terms
from tests import equality
from tests.equality import random_mixing, same
from tests.harness import images
from tests.runs import run

pytestmark = pytest.mark.usefixtures("one_thread")


def pair(*arguments: Any, **options: Any) -> tuple[SearchNetwork, SearchNetwork]:
    return equality.pair(BatchedSearchNetwork, *arguments, **options)


def test_sums_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weight gradients of large maps are summed block by block."""
    monkeypatch.setattr("search_spaces.darts.fast.gpu.pointwise.ROWS", 16)
    plain, quick = pair(nodes=2)
    x, y = images(3)
    same(plain, quick, random_mixing(plain, "softmax", 0), x.double(), y, 1e-8)


def test_autocast_stays_near_float32() -> None:
    """bfloat16 keeps 8 bits; the plain network under autocast is as far away."""
    plain, quick = pair(channels=16, dtype=torch.float32)
    x, y = images(16)
    mixing = random_mixing(plain, "softmax", 0).weights
    found = []
    for network, enabled in ((plain, False), (plain, True), (quick, True)):
        leaf = mixing.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = network(x, leaf)
        assert logits.dtype == (torch.bfloat16 if enabled else torch.float32)
        cross_entropy(logits.float(), y).backward()
        assert leaf.grad is not None and leaf.grad.dtype == torch.float32
        found.append((logits.detach().float(), leaf.grad))
    for exact, plainly, quickly in zip(*found, strict=True):
        off = [float((value - exact).norm() / exact.norm()) for value in (plainly, quickly)]
        assert 0 < off[1] < 2 * off[0] + 0.01, off


def test_a_live_set_may_be_scored_before_it_is_trained() -> None:
    """As after pruning: what is remembered from inference serves training."""
    plain, quick = pair(cells=1, nodes=1)
    x, y = images(3)
    mixing = random_mixing(plain, "masked", 0)
    with torch.inference_mode():
        quick.eval()(x.double(), mixing)
    same(plain, quick, mixing, x.double(), y, 1e-8)


@pytest.mark.parametrize("curvature", [exact_curvature, recursive_curvature])
def test_curvature_is_that_of_the_plain_network(curvature: Any) -> None:
    """It differentiates in evaluation mode, layer by layer."""
    found = []
    for network in pair(nodes=1, share=False):
        live = torch.ones(network.mixing_shape, dtype=torch.bool)
        ones = torch.ones(network.mixing_shape, dtype=torch.float64)
        x, y = images(3)
        found.append(curvature(network, ones, ones[..., 0], live, [(x.double(), y)]).operation)
    assert torch.equal(*found)


def test_plans_are_kept_and_bounded() -> None:
    _, quick = pair(cells=1, nodes=1)
    x = images(3)[0].double()
    for seed in range(PLANS + 3):
        quick(x, random_mixing(quick, "sparse", seed))
    assert len(quick._plans) <= PLANS
    before = dict(quick._plans)
    quick(x, random_mixing(quick, "sparse", PLANS + 2))
    assert all(quick._plans[key] is value for key, value in before.items())


def test_the_plan_orders_terms_in_levels() -> None:
    """Edge 1 -> 3 has two separable operations, edge 0 -> 3 and 0 -> 2 one."""
    space = CellSpace(("sep_conv_3x3", "sep_conv_5x5", "skip_connect"), nodes=2)
    terms = all_terms(SearchNetwork(space, 4, 1, 4, image_size=8).cell(0))
    live = [[terms[0, 0]], [terms[2, 1], terms[3, 0], terms[3, 1], terms[3, 2]]]
    plan = plan_cell(live, space.edges, 3)
    first, second = plan.sources[0].separable, plan.sources[1].separable
    assert first is not None and second is not None
    assert (first.levels, first.targets) == ((2,), (2, 3))
    assert (second.levels, second.targets) == ((1, 1), (3,))
    assert plan.slots == [[0, 7], [9, 10], [11]]


def test_a_network_that_disagrees_is_refused(monkeypatch: pytest.MonkeyPatch,
                                             caplog: pytest.LogCaptureFixture) -> None:
    """On a GPU the fast network has to agree with the plain one before it is used."""

    class Wrong(BatchedSearchNetwork):
        def forward(self, x: torch.Tensor, mixing: Any) -> torch.Tensor:
            return super().forward(x, 1.01 * mixing)

    class Broken(BatchedSearchNetwork):
        def forward(self, x: torch.Tensor, mixing: Any) -> torch.Tensor:
            raise RuntimeError("no such kernel\nfor this device")

    cpu = torch.device("cpu")
    before = torch.random.get_rng_state()
    assert agreement.disagreement(BatchedSearchNetwork, cpu) is None
    assert torch.equal(before, torch.random.get_rng_state())
    assert "differs" in str(agreement.disagreement(Wrong, cpu))
    assert agreement.disagreement(Broken, cpu) == "RuntimeError: no such kernel"
    monkeypatch.setattr(fast, "disagreement", lambda kind, device: "it is wrong")
    with caplog.at_level(logging.WARNING):
        assert fast.choose("auto", "cuda") is SearchNetwork
    assert len(caplog.records) == 1 and "it is wrong" in caplog.text
    with pytest.raises(ValueError, match="fast is not possible here: it is wrong"):
        fast.choose("fast", "cuda")
    monkeypatch.setattr(fast, "disagreement", lambda kind, device: None)
    assert fast.choose("auto", "cuda") is BatchedSearchNetwork


@pytest.mark.parametrize("algorithm", ["darts_2nd", "asap", "bayesnas", "cars"])
def test_a_search_runs_on_it(algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                             ) -> None:
    """The same first epoch as with the plain network, up to rounding."""
    losses = []
    for kind in (SearchNetwork, BatchedSearchNetwork):
        monkeypatch.setattr("nasbench.runner.choose", lambda *_, kind=kind: kind)
        folder = tmp_path / kind.__name__
        result = run(folder, f"algorithm={algorithm}", "search=smoke", "stage=search",
                     "search.epochs=2", *(["algorithm.population=4", "algorithm.family_size=2",
                                           "algorithm.warmup_epochs=1"]
                                          if algorithm == "cars" else []))
        assert result["status"] == "done"
        first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
        losses.append((first["train_loss"], first["valid_loss"]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
