"""The trainer's pieces: shared weights, scoring, schedules, sizes, clock."""

from __future__ import annotations

import math

import pytest
import torch
from harness import DARTS_OPERATIONS, images, make_problem
from torch import nn

from nasbench.build import construct
from nasbench.clock import Clock
from nasbench.retrain.loop import mixed_up
from nasbench.schedules import learning_rate
from search_spaces import FinalNetwork, Mixing, SearchNetwork, load_genotype
from search_spaces.darts.final_network import drop_path
from search_spaces.space import CellSpace


def one_path(network: SearchNetwork) -> Mixing:
    """Operation 2 on every edge into the first node, nothing else."""
    code = torch.zeros(network.mixing_shape)
    code[:, :2, 2] = 1
    return Mixing.sparse(code)


def test_untouched_weights_stay_untouched() -> None:
    problem = make_problem()
    network, batch = problem.supernet, images(8)
    problem.weights.step(batch, Mixing(torch.full(network.mixing_shape, 1 / 3)))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    problem.weights.step(batch, one_path(network))
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    dead = {k for k in before if "edge" in k and ("->3" in k or "skip" in k)}
    assert dead and not changed & dead
    assert any("edge0->2.sep_conv_3x3.dw1.weight" in k for k in changed)


def test_dead_operations_are_not_computed() -> None:
    problem = make_problem()
    network, called = problem.supernet, set()
    for name, module in network.named_modules():
        if name.count(".") == 2 and "edge" in name:
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    network(images(4)[0], one_path(network))
    assert called == {f"cell{i}.edge{s}->2.sep_conv_3x3" for i in (0, 1) for s in (0, 1)}


def test_several_mixings_average_their_gradients() -> None:
    problem = make_problem(dtype=torch.float64)
    network, (x, y) = problem.supernet, images(8)
    batch = x.double(), y
    g = torch.Generator().manual_seed(1)
    mixings = [Mixing(torch.rand(network.mixing_shape, generator=g).double()) for _ in range(3)]
    separate = []
    for mixing in mixings:
        network.zero_grad()
        nn.functional.cross_entropy(network(batch[0], mixing), y).backward()
        separate.append([p.grad.clone() for p in network.parameters()])
    problem.weights.grad_clip = 0.0
    problem.weights.step(batch, mixings)
    for p, *grads in zip(network.parameters(), *separate, strict=True):
        torch.testing.assert_close(p.grad, sum(grads) / 3, rtol=1e-10, atol=1e-12)


def test_displaced_weights_come_back_exactly() -> None:
    problem = make_problem()
    network, weights = problem.supernet, problem.weights
    before = {k: v.clone() for k, v in network.state_dict().items()}
    mixing = Mixing(torch.full(network.mixing_shape, 1 / 3))
    with weights.at([v + 1 for v in weights.values()]):
        displaced = weights.gradients(images(8), mixing).loss
    for key, value in network.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(value, before[key]), key
    assert displaced != weights.gradients(images(8), mixing).loss


def test_unshared_cells_equal_shared_ones_with_repeated_rows() -> None:
    problem = make_problem(cells=4)
    shared = problem.supernet
    separate = SearchNetwork(shared.space, 4, 4, 4, image_size=8, share_cells=False)
    separate.load_state_dict(shared.state_dict())
    mixing = torch.rand(shared.mixing_shape)
    x = images(4)[0]
    torch.testing.assert_close(separate(x, mixing[list(shared.rows)]), shared(x, mixing))
    assert separate.mixing_shape[0] == 4


def test_mixing_per_sample_equals_samples_apart() -> None:
    problem = make_problem(operations=DARTS_OPERATIONS)
    network = problem.supernet.eval()
    x = images(3)[0]
    mixing = torch.rand(3, *network.mixing_shape)
    together = network(x, Mixing(mixing))
    for i in range(3):
        torch.testing.assert_close(together[i:i + 1], network(x[i:i + 1], mixing[i]), rtol=1e-4,
                                   atol=1e-5)


@pytest.mark.parametrize("policy", ["running", "batch", "recalibrated"])
def test_scoring_leaves_no_trace(policy: str) -> None:
    problem = make_problem()
    network = problem.supernet
    mixing = Mixing(torch.full(network.mixing_shape, 1 / 3))
    for _ in range(3):
        problem.weights.step(images(24), mixing)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    error = problem.score(mixing, batch_norm=policy)
    assert 0 <= error <= 100
    assert network.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
    old = problem.weights.snapshot()
    scores = problem.score(mixing, batch_norm=policy)
    problem.weights.step(images(24), mixing)
    assert problem.score(mixing, weights=old, batch_norm=policy) == scores


def test_cosine_of_the_original_log() -> None:
    """quark0/darts issue 7 prints 1.023679e-3 for epoch 49 of 50."""
    rate = learning_rate(49, schedule="cosine", epochs=50, start=0.025, end=0.001)
    assert rate == pytest.approx(1.023679e-3, rel=1e-6)


def test_schedules() -> None:
    common = {"epochs": 10, "start": 1.0, "end": 0.0}
    assert [learning_rate(e, schedule="linear", **common) for e in (0, 5)] == [1.0, 0.5]
    assert learning_rate(3, schedule="exponential", decay=0.97, **common) == pytest.approx(0.97**3)
    warm = [learning_rate(e, schedule="cosine", warmup_epochs=2, **common) for e in range(3)]
    assert warm == [0.5, 1.0, 1.0]
    cycles = [learning_rate(e, schedule="power_cosine", decay=0.5, cycles=2, power=1.0, **common)
              for e in range(10)]
    assert cycles[0] == 1.0 and cycles[5] == 0.5
    assert all(a > b for a, b in zip(cycles[:4], cycles[1:5], strict=True))
    assert cycles[1] == pytest.approx((1 + math.cos(math.pi / 5)) / 2)
    sharp = learning_rate(1, schedule="power_cosine", decay=0.5, cycles=2, power=2.0, **common)
    assert sharp == pytest.approx(2 ** cycles[1] - 1)


def test_drop_path_keeps_the_mean_and_spares_identity() -> None:
    torch.manual_seed(0)
    x = torch.ones(20000, 1, 1, 1)
    y = drop_path(x, torch.tensor(0.3))
    assert sorted(set(y.flatten().tolist())) == pytest.approx([0, 1 / 0.7])
    assert float(y.mean()) == pytest.approx(1.0, abs=0.02)
    cell = {"edges": [["skip_connect", 0, 2], ["skip_connect", 1, 2]], "concat": [2]}
    from search_spaces import Genotype
    skips = FinalNetwork(Genotype.from_dict({"normal": cell, "reduce": cell}), 4, 4, 3,
                         image_size=8, drop_path=True)
    skips.drop_rate.fill_(0.999)
    first = skips.cell0  # normal: identity is never dropped
    torch.manual_seed(0)
    before = torch.randn(2, 12, 8, 8)
    torch.testing.assert_close(first(before, before, skips.drop_rate), first(before, before, None))


def test_mixup_mixes_labels_like_images() -> None:
    x = torch.eye(4).view(4, 1, 2, 2).repeat(1, 1, 1, 1)
    y = torch.arange(4)
    mixed, targets = mixed_up(x, y, 4, 1.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed.flatten(1), targets)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))


def test_clock_sections_are_exclusive() -> None:
    clock = Clock()
    with clock("outer"):
        with clock("inner"):
            sum(range(200000))
    seconds = clock.read()
    assert seconds["inner"] > 0 and seconds["outer"] < seconds["inner"]
    assert clock.read() == {}


def test_construct_checks_types_and_names_the_key() -> None:
    def target(a: int, b: float | None, c: list[float]) -> tuple:
        return a, b, c

    assert construct(target, {"a": 1, "b": 2, "c": [1, 2.5]}, "x") == (1, 2.0, [1.0, 2.5])
    for values, words in [({"a": True, "b": None, "c": []}, "x.a"), ({"a": 1, "b": "q", "c": []},
                          "x.b"), ({"a": 1, "b": 1, "c": ["z"]}, r"x.c\[0\]"),
                          ({"a": 1, "b": 1}, "x.c: missing"),
                          ({"a": 1, "b": 1, "c": [], "d": 0}, "x.d: unknown")]:
        with pytest.raises(ValueError, match=words):
            construct(target, values, "x")


@pytest.mark.parametrize("size, channels, classes", [(8, 1, 10), (28, 1, 10), (32, 3, 100),
                                                     (64, 3, 200), (96, 3, 5), (160, 3, 7),
                                                     (224, 3, 1000)])
def test_stems_fit_the_image(size: int, channels: int, classes: int) -> None:
    x = torch.randn(2, channels, size, size)
    final = FinalNetwork(load_genotype("DARTS_V2")[1], 4, 3, classes, image_size=size,
                         in_channels=channels, auxiliary=True)
    logits, auxiliary = final(x)
    assert logits.shape == auxiliary.shape == (2, classes)
    search = SearchNetwork(CellSpace(("skip_connect", "sep_conv_3x3"), 2), 4, 3, classes,
                           image_size=size, in_channels=channels)
    assert search(x, torch.rand(search.mixing_shape)).shape == (2, classes)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu() -> None:
    problem = make_problem(operations=DARTS_OPERATIONS)
    network, mixing = problem.supernet, torch.rand(problem.supernet.mixing_shape)
    x = images(4)[0]
    expected = network(x, mixing).detach()
    actual = network.cuda()(x.cuda(), mixing.cuda()).detach().cpu()
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
