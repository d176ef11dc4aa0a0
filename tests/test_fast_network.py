"""The fast search networks against the plain one: outputs, gradients, statistics, state."""

from __future__ import annotations

import functools
import logging
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from search_spaces import CellSpace, Mixing, SearchNetwork
from search_spaces.darts import fast
from search_spaces.darts.fast import BatchedSearchNetwork, FastSearchNetwork
from search_spaces.darts.fast.cpu import native
from search_spaces.darts.fast.cpu.cell import run_cell
from search_spaces.darts.fast.terms import all_terms
from tests import equality
from tests.equality import OTHERS, close, random_mixing, same
from tests.harness import DARTS_OPERATIONS, images

pytestmark = pytest.mark.usefixtures("one_thread")
compiled = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")
Pair = Callable[..., tuple[SearchNetwork, SearchNetwork]]


@pytest.fixture(params=[pytest.param(FastSearchNetwork, marks=compiled), BatchedSearchNetwork])
def either(request: pytest.FixtureRequest) -> Pair:
    """Makes the plain network and a fast one: compiled kernels or batched edges."""
    return functools.partial(equality.pair, request.param)


def pair(*arguments: Any, **options: Any) -> tuple[SearchNetwork, SearchNetwork]:
    return equality.pair(FastSearchNetwork, *arguments, **options)


@pytest.mark.parametrize("kind", ["softmax", "masked", "real", "sparse"])
@pytest.mark.parametrize("share", [True, False])
def test_equal_in_float64(either: Pair, kind: str, share: bool) -> None:
    plain, quick = either(share=share, cells=4 if share else 3)
    x, y = images(3)
    for seed in range(2):  # another live set, the same network
        same(plain, quick, random_mixing(plain, kind, seed), x.double(), y, 1e-8)


@pytest.mark.parametrize(("operations", "channels", "size"), [
    (DARTS_OPERATIONS, 2, 8), (DARTS_OPERATIONS, 4, 12), (DARTS_OPERATIONS, 20, 8), (OTHERS, 6, 8)])
def test_any_width_and_operation(either: Pair, operations: Sequence[str], channels: int, size: int
                                 ) -> None:
    plain, quick = either(operations, channels=channels, size=size, nodes=2)
    x, y = images(3, size=size)
    same(plain, quick, random_mixing(plain, "real", 1), x.double(), y, 1e-8)


def test_equal_in_float32(either: Pair) -> None:
    """1e-4 of the largest value. One node and random images: deeper networks amplify rounding at
    ReLU kinks, in the plain network as well."""
    plain, quick = either(channels=16, nodes=2, cells=2, dtype=torch.float32)
    x, y = images(8)
    same(plain, quick, random_mixing(plain, "softmax", 0), x, y, 1e-4)


@compiled
def test_threads_share_the_batch() -> None:
    torch.set_num_threads(2)
    plain, quick = pair(("max_pool_3x3", "skip_connect", "sep_conv_3x3"), channels=16, nodes=1)
    x, y = images(9)  # 9 * 8 * 8 * 16 values: enough for the first cell to use both
    same(plain, quick, random_mixing(plain, "softmax", 0), x.double(), y, 1e-8)


def test_dead_network_gets_no_gradient(either: Pair) -> None:
    plain, quick = either()
    x, y = images(3)
    nothing = Mixing.sparse(torch.zeros(plain.mixing_shape).double())
    for network in (plain, quick):
        cross_entropy(network(x.double(), nothing), y).backward()
    for (key, p), q in zip(plain.named_parameters(), quick.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), key
        close(q.grad, p.grad, 1e-8)


@compiled
def test_ties_of_the_maximum_go_to_the_first() -> None:
    """Small integers, so that most windows hold their maximum more than once."""
    _, quick = pair(("max_pool_3x3",), nodes=1, cells=3)
    cell = quick.cell(0)
    terms = [[all_terms(cell)[e, 0] for e in range(2)]]
    x = torch.randint(3, (2, 2, 8, 8, 8), generator=torch.Generator().manual_seed(0)).double()
    x, direction = x.requires_grad_(), torch.randn(2, 8, 8, 8).double()
    expected = sum(cell.edge(e)["max_pool_3x3"](x[e]) for e in range(2))
    found = run_cell(cell, terms, x[0], x[1], torch.ones(2, 1).double(), [])
    close(found, expected, 1e-8)
    close(*(torch.autograd.grad(y, x, direction)[0] for y in (found, expected)), 1e-8)


def test_repeated_steps_are_bit_equal(either: Pair) -> None:
    x, y = images(4)
    runs = []
    for _ in range(2):
        _, quick = either(dtype=torch.float32)
        mixing = random_mixing(quick, "softmax", 0)
        optimizer = torch.optim.SGD(quick.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            cross_entropy(quick(x, mixing), y).backward()
            optimizer.step()
        runs.append(quick.state_dict())
    assert all(torch.equal(value, runs[1][key]) for key, value in runs[0].items())


@pytest.mark.parametrize("momentum", [0.0, None])
def test_batch_norm_momentum_is_read_at_every_step(either: Pair, momentum: float | None) -> None:
    plain, quick = either()
    x, y = images(3)
    for network in (plain, quick):
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = momentum
    same(plain, quick, random_mixing(plain, "softmax", 0), x.double(), y, 1e-8)


def test_displaced_weights(either: Pair) -> None:
    """The second-order step replaces `p.data`; nothing may hold on to the old memory."""
    plain, quick = either()
    x, y = images(3)
    mixing = random_mixing(plain, "softmax", 0)
    same(plain, quick, mixing, x.double(), y, 1e-8)
    for p, q in zip(plain.parameters(), quick.parameters(), strict=True):
        p.data = p.data * 1.5
        q.data = p.data.clone()
    same(plain, quick, mixing, x.double(), y, 1e-8)


def test_second_backward_pass_over_one_graph(either: Pair) -> None:
    plain, quick = either()
    x, y = images(3)
    found = []
    for network in (plain, quick):
        leaf = random_mixing(network, "softmax", 0).weights.requires_grad_()
        logits = network(x.double(), leaf)
        found.append([torch.autograd.grad(logits[:, c].sum(), leaf, retain_graph=True)[0]
                      for c in range(2)])
    for a, b in zip(*found, strict=True):
        close(b, a, 1e-8)


@pytest.mark.parametrize(("kind", "case"), [
    *((FastSearchNetwork, case) for case in ("per sample", "autocast", "evaluation gradient")),
    *((BatchedSearchNetwork, case) for case in ("per sample", "evaluation gradient"))])
def test_falls_back_to_the_plain_forward(kind: type[SearchNetwork], case: str) -> None:
    plain, quick = equality.pair(kind, dtype=torch.float32)
    x, _ = images(3)
    weights = random_mixing(plain, "softmax", 0).weights
    if case == "per sample":
        weights = weights.expand(3, -1, -1, -1) * torch.rand(3, 1, 1, 1)
    outputs = []
    for network in (plain, quick):
        network.train(case != "evaluation gradient")
        with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
            outputs.append(network(x, Mixing(weights)))
    assert torch.equal(*outputs)


def test_state_moves_both_ways(either: Pair) -> None:
    plain, quick = either()
    assert list(plain.state_dict()) == list(quick.state_dict())
    x, _ = images(3)
    quick.train()
    quick(x.double(), random_mixing(quick, "softmax", 0))
    plain.load_state_dict(quick.state_dict())
    for a, b in zip(plain.state_dict().values(), quick.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert type(pickle.loads(pickle.dumps(quick))) is type(quick)


@compiled
def test_choice(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert fast.choose("plain") is SearchNetwork
    assert fast.choose("auto") is fast.choose("fast") is FastSearchNetwork
    with pytest.raises(ValueError, match=r"^search_space\.implementation: must be .*'quick'"):
        fast.choose("quick")
    monkeypatch.setenv("CXX", "no-such-compiler")
    native.library.cache_clear()
    with caplog.at_level(logging.WARNING):
        network = fast.build_search_network(CellSpace(("none", "skip_connect"), 1), 4, 2, 4)
    assert type(network) is SearchNetwork
    assert len(caplog.records) == 1 and "\n" not in caplog.text.strip()
    with pytest.raises(ValueError, match=r"^search_space\.implementation: fast .*compiler"):
        fast.choose("fast")
    with pytest.raises(ValueError, match="for CPUs and CUDA GPUs, not for meta"):
        fast.choose("fast", "meta")
    native.library.cache_clear()


@compiled
def test_kernels_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    native.library(torch.float32)
    native.library.cache_clear()
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    native.library(torch.float32)


@compiled
def test_a_changed_header_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "kernels"
    shutil.copytree(native.KERNELS, copy)
    monkeypatch.setattr(native, "KERNELS", copy)
    before = native._path(torch.float32)
    assert before == native._path(torch.float32) != native._path(torch.float64)
    with (copy / "statistics.h").open("a") as header:
        header.write("// changed\n")
    assert native._path(torch.float32) != before
