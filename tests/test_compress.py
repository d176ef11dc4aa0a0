"""Compression: groups by hand, shrunk equals masked, counted zeros, controls on the same budget."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from algorithms.bayes_priors import alpha, harmonic
from algorithms.curvature_recursion import recursive_weight_curvature
from algorithms.weight_priors import Junction, WeightPriors, families
from nasbench.compress import CompressSettings, run
from nasbench.compress.loop import train
from nasbench.compress.networks import Prunable, build
from nasbench.compress.shrink import clean, shrink
from nasbench.data import DataInfo

CPU = torch.device("cpu")
SETTINGS = CompressSettings(
    name="test", network="mlp", widths=[24, 12], patterns=["neuron", "column"], lam=3e-3,
    group_reduce="sum", rounds=3, epochs_per_round=3, variance_threshold=1e-4,
    weight_threshold=1e-4, curvature_batches=2, batch_size=20, learning_rate=0.1, momentum=0.9,
    weight_decay=1e-4, augment=False, repeats=1)


class Images:
    """Random 8x8 images whose upper half tells the class and whose lower half is constant noise."""

    def __init__(self, n: int, seed: int):
        g = torch.Generator().manual_seed(seed)
        self.y = torch.randint(3, (n,), generator=g)
        self.x = 0.3 * torch.randn(n, 1, 8, 8, generator=g)
        self.x[torch.arange(n), 0, self.y] += 1
        self.info = DataInfo("bars", 3, 8, 1, None, None)

    def __len__(self) -> int:
        return len(self.y)

    def steps_per_epoch(self, batch_size: int) -> int:
        return len(self) // batch_size

    def batches(self, batch_size: int, *, seed: int, augmentation: Any, start: int = 0) -> Any:
        g = torch.Generator().manual_seed(seed % 2**31)
        while True:
            for part in torch.randperm(len(self), generator=g).split(batch_size):
                yield self.x[part], self.y[part]

    def once(self, batch_size: int) -> Any:
        return zip(self.x.split(batch_size), self.y.split(batch_size), strict=True)


DATA: Any = SimpleNamespace(train=Images(200, 0), test=Images(100, 1),
                            info=DataInfo("bars", 3, 8, 1, None, None))


@pytest.mark.parametrize("pattern, count, members", [
    ("element", 12, 1), ("row", 3, 4), ("column", 4, 3), ("layer", 1, 12)])
def test_patterns_cut_a_matrix(pattern: str, count: int, members: int) -> None:
    (family,) = families([pattern], {"w": torch.Size([3, 4])}, [], CPU)
    assert family.count == count
    assert family.size({"w": torch.zeros(3, 4)}).tolist() == [members] * count


@pytest.mark.parametrize("pattern, count", [("filter", 2), ("channel", 3), ("shape", 27)])
def test_patterns_cut_a_convolution(pattern: str, count: int) -> None:
    shape = torch.Size([2, 3, 3, 3])
    (family,) = families([pattern], {"w": shape}, [], CPU)
    w = torch.arange(54.0).view(shape)
    by_hand = {"filter": w.sum((1, 2, 3)), "channel": w.sum((0, 2, 3)),
               "shape": w.sum(0).flatten()}[pattern]
    assert family.count == count and torch.equal(family.total({"w": w}), by_hand)


def test_a_neuron_is_its_row_and_the_columns_it_feeds() -> None:
    shapes = {"a": torch.Size([2, 1, 3, 3]), "b": torch.Size([5, 8])}  # two maps of four pixels
    (family,) = families(["neuron"], shapes, [Junction("a", "b", 4)], CPU)
    b = torch.arange(8.0).expand(5, 8)
    total = family.total({"a": torch.ones(shapes["a"]), "b": b})
    assert total.tolist() == [9 + 5 * 6, 9 + 5 * 22]


def test_pattern_without_a_group_is_refused() -> None:
    with pytest.raises(ValueError, match="^compress.patterns: shape finds no group"):
        run(replace(SETTINGS, patterns=["shape"]), DATA, 0, CPU)


def test_update_combines_patterns_harmonically() -> None:
    w = torch.tensor([[0.3, 0.4], [1.0, 2.0]])
    groups = families(["row", "element"], {"w": w.shape}, [], CPU)
    priors = WeightPriors({"w": w}, groups, 0.5, "sum", 0.16, 0.0)
    h = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    row, element = torch.tensor([[0.5], [5**0.5]]), w.clone()
    together = harmonic(row.expand(2, 2), element)  # 0.1875, 0.2222, 0.6910, 1.0557
    priors.update({"w": h})
    torch.testing.assert_close(priors.omega[0],
                               alpha(row.expand(2, 2), together, h / 0.5).sum(1).sqrt())
    torch.testing.assert_close(priors.omega[1].view(2, 2),
                               alpha(element, together, h / 0.5).sqrt())
    assert priors.mask["w"].tolist() == [[1.0, 1.0], [1.0, 1.0]] == (together > 0.16).tolist()
    priors.variance_threshold = 10.0
    priors.update({"w": h})
    assert not priors.mask["w"].any() and not w.any()


def test_proximal_step_zeroes_whole_groups() -> None:
    w = torch.tensor([[0.3, 0.4], [3.0, 4.0]])
    priors = WeightPriors({"w": w}, families(["row"], {"w": w.shape}, [], CPU), 1.0, "sum", 0, 0)
    priors.proximal_step(1.0)
    torch.testing.assert_close(w, torch.tensor([[0.0, 0.0], [2.4, 3.2]]))


def test_weight_curvature_of_a_linear_layer_is_exact() -> None:
    """Softmax regression: H = mean x_j^2 p_i (1 - p_i), also by differences of gradients."""
    layer = nn.Linear(4, 3).double()
    x, y = torch.randn(7, 4).double(), torch.randint(3, (7,))
    found = recursive_weight_curvature(layer, ["weight"], [(x[:3], y[:3]), (x[3:], y[3:])])
    p = layer(x).softmax(1).detach()
    expected = torch.einsum("nj,ni->ij", x.square(), p * (1 - p)) / 7
    torch.testing.assert_close(found["weight"], expected)
    full = torch.autograd.functional.hessian(
        lambda w: nn.functional.cross_entropy(nn.functional.linear(x, w, layer.bias.detach()), y),
        layer.weight.detach())
    diagonal = torch.einsum("ijij->ij", full)
    torch.testing.assert_close(found["weight"], diagonal)


def pruned(network: str, widths: list[int], size: int, seed: int) -> Prunable:
    """Random weights, statistics and masks that kill units, single inputs and one whole branch."""
    torch.manual_seed(seed)
    built = build(network, widths, 5, size, 2)
    for m in built.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
            nn.init.normal_(m.weight)
            nn.init.normal_(m.bias)
    parameters = dict(built.named_parameters())
    with torch.no_grad():
        for j in built.junctions():
            w = parameters[j.producer]
            w[torch.rand(len(w)) < 0.4] = 0
            c = parameters[j.consumer]
            c[:, torch.rand(c.shape[1]) < 0.3] = 0
        if network == "resnet18":
            parameters["blocks.3.conv2.weight"].zero_()
    return built


@pytest.mark.parametrize("network, widths, size", [
    ("mlp", [13, 7], 6), ("lenet", [5, 6, 9], 8), ("lenet", [4, 5, 6], 28),
    ("resnet18", [4, 5, 6, 7], 8)])
@pytest.mark.parametrize("seed", range(3))
def test_shrunk_network_equals_the_masked_one(network: str, widths: list[int], size: int, seed: int
                                              ) -> None:
    masked = pruned(network, widths, size, seed).eval()
    clean(masked)
    zeros = [int((p == 0).sum()) for p in masked.parameters()]
    clean(masked)
    assert zeros == [int((p == 0).sum()) for p in masked.parameters()]  # a fixpoint
    small, x = shrink(masked), torch.randn(16, 2, size, size)
    with torch.no_grad():
        torch.testing.assert_close(small(x), masked(x), rtol=0, atol=1e-5)
        assert float(masked(x).std()) > 1e-4
    count = [sum(p.numel() for p in n.parameters()) for n in (small, masked)]
    assert count[0] < 0.8 * count[1]
    if network == "resnet18":
        assert small.structure()[3] == 0


def test_emptied_network_still_shrinks() -> None:
    masked = build("lenet", [3, 4, 5], 3, 8, 1).eval()
    with torch.no_grad():
        masked.body.conv2.weight.zero_()
    clean(masked)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(masked(x), shrink(masked)(x))


@pytest.fixture(scope="module")
def outcome() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    return run(SETTINGS, DATA, 0, CPU, record=records.append), records


def test_three_methods_on_one_budget(outcome: tuple) -> None:
    result, records = outcome
    assert [r["method"] for r in result["runs"]] == ["dense", "bayesian", "magnitude"]
    for method in ("dense", "bayesian", "magnitude"):
        assert [r["epoch"] for r in records if r["method"] == method] == list(range(9))
    dense, bayes, magnitude = result["runs"]
    assert dense["sparsity_percent"] == 0 and dense["params"] == 64 * 24 + 24 + 24 * 12 + 12 + 39
    assert 30 < bayes["pruned_percent"] < 100
    assert magnitude["pruned_percent"] == pytest.approx(bayes["pruned_percent"], abs=0.06)
    for r in (bayes, magnitude):
        assert r["sparsity_percent"] == pytest.approx(
            100 * (1 - r["nonzero_weights"] / r["prunable_weights"]))
        assert r["shrunk_difference"] < 1e-5
    assert bayes["params"] < dense["params"] and bayes["mult_adds"] < dense["mult_adds"]
    assert bayes["test_error_percent"] <= dense["test_error_percent"] + 5
    assert all(r["phase"] == "compress" for r in records)


class Rates:
    """Notes the learning rate of every step and when a round ends."""

    def __init__(self) -> None:
        self.rounds: list[list[float]] = [[]]

    def after_step(self, rate: float) -> None:
        self.rounds[-1].append(rate)

    def after_round(self, number: int) -> None:
        self.rounds.append([])


def test_every_round_anneals_and_the_last_has_a_full_one_after_the_pruning() -> None:
    rates = Rates()
    train(build("mlp", [4, 4], 3, 8, 1), rates, SETTINGS, DATA, None, 0, lambda metrics: None, {})
    assert len(rates.rounds) == SETTINGS.rounds
    for one in rates.rounds:
        assert len(one) == 3 * 10 and one == sorted(one, reverse=True)
        assert one[0] == 0.1 and one[15] == pytest.approx(0.05) and one[-1] < 0.001


def test_pruned_inputs_are_those_without_information(outcome: tuple) -> None:
    """Only the first three of eight image rows tell the class: at most 24 of 64 inputs matter."""
    assert outcome[0]["runs"][1]["structure"][0] <= 30


def test_same_seed_same_result(outcome: tuple) -> None:
    assert run(SETTINGS, DATA, 0, CPU) == outcome[0]


def test_larger_lambda_is_sparser() -> None:
    short = replace(SETTINGS, epochs_per_round=2)
    counts = [run(replace(short, lam=lam), DATA, 0, CPU)["runs"][1]["nonzero_weights"]
              for lam in (2e-3, 4e-3, 1e-2)]
    assert counts[0] > counts[1] > counts[2], counts


def test_resnet_and_repeats() -> None:
    settings = replace(SETTINGS, network="resnet18", widths=[4, 4, 4, 4], repeats=2, rounds=2,
                       patterns=["neuron", "layer"], epochs_per_round=1, lam=0.05)
    result = run(settings, DATA, 3, CPU)
    assert [r["seed"] for r in result["runs"]] == [3, 3, 3, 4, 4, 4]
    summary = result["summary"]["bayesian"]
    assert summary["n"] == 2 and summary["params_std"] is not None
    both = [r["params"] for r in result["runs"] if r["method"] == "bayesian"]
    assert summary["params"] == sum(both) / 2


@pytest.mark.parametrize("key, value", [
    ("network", "vgg"), ("widths", [3]), ("widths", [0, 1]), ("patterns", []),
    ("patterns", ["row", "row"]), ("patterns", ["block"]), ("lam", 0.0), ("group_reduce", "max"),
    ("rounds", 1), ("epochs_per_round", 0), ("weight_threshold", -1.0), ("learning_rate", 0.0),
    ("momentum", 1.0), ("repeats", 0)])
def test_bad_settings_are_one_line(key: str, value: Tensor) -> None:
    with pytest.raises(ValueError, match=rf"^compress\.{key}: must be [^\n]+$"):
        replace(SETTINGS, **{key: value})
