"""What the fast networks take for an operation they know must be exactly that operation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from search_spaces import CellSpace, SearchNetwork
from search_spaces.darts.fast import BatchedSearchNetwork, FastSearchNetwork
from search_spaces.darts.fast.cpu import native
from search_spaces.darts.fast.terms import make_term
from search_spaces.operations import OPERATIONS, DilatedConv, Operation, Pool, SeparableConv

pytestmark = pytest.mark.usefixtures("one_thread")


def biased(channels: int, stride: int) -> nn.Module:
    conv = DilatedConv(channels, 3, stride, True)
    conv.pw = nn.Conv2d(channels, channels, 1, bias=True)
    return conv


def circular(channels: int, stride: int) -> nn.Module:
    conv = SeparableConv(channels, 3, stride, True)
    conv.dw2.padding_mode = "circular"
    conv.dw2._reversed_padding_repeated_twice = [1, 1, 1, 1]
    return conv


LOOKALIKES: dict[str, Callable[[int, int], nn.Module]] = {
    "wide pool": lambda c, s: Pool(nn.MaxPool2d(5, s, 2), c, True),
    "padding counts": lambda c, s: Pool(nn.AvgPool2d(3, s, 1), c, True),
    "own divisor": lambda c, s: Pool(nn.AvgPool2d(3, s, 1, count_include_pad=False,
                                                  divisor_override=5), c, True),
    "bias": biased, "circular": circular}


@pytest.mark.parametrize("name", LOOKALIKES)
@pytest.mark.parametrize("kind", [
    pytest.param(FastSearchNetwork, marks=pytest.mark.skipif(
        native.compiler() is None, reason="needs a C++ compiler")), BatchedSearchNetwork])
def test_a_lookalike_is_computed_as_it_is(kind: type[SearchNetwork], name: str,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATIONS, "lookalike", Operation(
        "lookalike", lambda c, s, search: LOOKALIKES[name](c, s)))
    assert make_term(LOOKALIKES[name](4, 1), 0, 0, 0).kind == "library"
    torch.manual_seed(0)
    space = CellSpace(("skip_connect", "lookalike"), 2)
    plain = SearchNetwork(space, 4, 3, 5, image_size=8).double()
    fast = kind(space, 4, 3, 5, image_size=8).double()
    fast.load_state_dict(plain.state_dict())
    x, weights = torch.randn(3, 3, 8, 8).double(), torch.rand(plain.mixing_shape).double()
    torch.testing.assert_close(fast(x, weights), plain(x, weights), rtol=1e-9, atol=1e-9)


def test_what_is_known_is_recognised() -> None:
    kinds = {name: make_term(OPERATIONS[name].build(4, stride, True), 0, 0, 0).kind
             for name in ("max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3", "sep_conv_5x5",
                          "sep_conv_7x7", "dil_conv_3x3", "dil_conv_5x5") for stride in (1, 2)}
    assert kinds == {"max_pool_3x3": "max", "avg_pool_3x3": "avg", "sep_conv_3x3": "conv",
                     "sep_conv_5x5": "conv", "sep_conv_7x7": "conv", "dil_conv_3x3": "conv",
                     "dil_conv_5x5": "conv"}
    skip = OPERATIONS["skip_connect"]
    assert make_term(skip.build(4, 2, True), 0, 0, 0).point is not None
    assert make_term(skip.build(4, 1, True), 0, 0, 0).kind == "skip"


@pytest.mark.parametrize("kind", [FastSearchNetwork, BatchedSearchNetwork])
def test_a_normalisation_in_its_own_mode_is_obeyed(kind: type[SearchNetwork]) -> None:
    space = CellSpace(("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3"), 2)
    torch.manual_seed(0)
    plain, fast = (k(space, 4, 2, 5, image_size=8).double() for k in (SearchNetwork, kind))
    fast.load_state_dict(plain.state_dict())
    x, weights = torch.randn(3, 3, 8, 8).double(), torch.rand(plain.mixing_shape).double()
    for network in (plain, fast):
        network.train()
        network.cell(1).eval()
    torch.testing.assert_close(fast(x, weights), plain(x, weights), rtol=1e-9, atol=1e-9)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[key], value, rtol=1e-9, atol=1e-9)
