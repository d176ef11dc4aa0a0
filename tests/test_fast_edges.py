"""The compiled search network where something is out of the ordinary: it does as the plain one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from search_spaces import CellSpace, SearchNetwork
from search_spaces.darts.fast import FastSearchNetwork
from search_spaces.darts.fast.cpu import native
from search_spaces.darts.fast.cpu.cell import live_parameters, run_cell
from search_spaces.darts.fast.terms import all_terms
from search_spaces.operations import OPERATIONS, Operation
from tests.equality import close, pair, random_mixing, same
from tests.harness import images

pytestmark = [pytest.mark.usefixtures("one_thread"),
              pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")]
NAN, INF = float("nan"), float("inf")
WEIGHT = "cell0.edge0->2.sep_conv_3x3.pw1.weight"


def both() -> tuple[SearchNetwork, SearchNetwork, Tensor, Tensor, Tensor]:
    """plain, fast, images, labels, mixing weights"""
    plain, quick = pair(FastSearchNetwork, nodes=2)
    x, y = images(3)
    return plain, quick, x.double(), y, random_mixing(plain, "softmax", 0).weights


@pytest.mark.parametrize("where", ["image", "stem.conv.weight", "cell1.pre0.conv.weight", WEIGHT,
                                   "mixing", "overflow"])
def test_nan_reaches_the_output_and_every_gradient(where: str) -> None:
    plain, quick, x, y, mixing = both()
    if where == "overflow":
        x = x * 1e200 * 1e200
    elif where in ("image", "mixing"):
        (x if where == "image" else mixing)[0, 0] = NAN
    for network in (plain, quick):
        if where.endswith("weight"):
            network.get_parameter(where).data.fill_(NAN)
        logits = network(x, mixing)
        assert logits.isnan().all()
        cross_entropy(logits, y).backward()
    for (key, p), q in zip(plain.named_parameters(), quick.parameters(), strict=True):
        assert torch.equal(p.grad.isnan(), q.grad.isnan()), key


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("channels", [2, 8])
@pytest.mark.parametrize("name", ["max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3", "dil_conv_5x5"])
def test_one_bad_pixel_in_a_cell(name: str, channels: int, value: float) -> None:
    """Two of them near each other: which one a maximum pool chooses shows in the gradient."""
    _, quick = pair(FastSearchNetwork, (name,), nodes=1, channels=channels)
    for cell, width in ((quick.cell(0), channels), (quick.cell(1), 2 * channels)):
        terms = [[all_terms(cell)[e, 0] for e in range(2)]]
        x = torch.randn(2, 2, width, 8, 8, generator=torch.Generator().manual_seed(0)).double()
        x[0, 0, 0, 3, 3] = x[1, 1, -1, 0, 0] = x[1, 1, -1, 1, 1] = value
        x.requires_grad_()
        expected = sum(cell.edge(e)[name](x[e]) for e in range(2))
        found = run_cell(cell, terms, x[0], x[1], torch.ones(2, 1).double(),
                         live_parameters(terms))
        direction = torch.randn_like(expected)
        for a, b in ((found, expected), [torch.autograd.grad(y, x, direction)[0]
                                         for y in (found, expected)]):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-8, equal_nan=True)


class Constant(nn.Module):
    """`size` 0: zeros; else a trained value per channel, whatever the image."""

    def __init__(self, size: int, stride: int):
        super().__init__()
        self.value = nn.Parameter(torch.randn(size, 1, 1)) if size else None
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros_like(x[:, :, ::self.stride, ::self.stride])
        return zeros if self.value is None else zeros + self.value


class Unused(nn.Conv2d):
    def __init__(self, channels: int, stride: int):
        super().__init__(channels, channels, 1, stride)
        self.extra = nn.Parameter(torch.randn(3))


def frozen(channels: int, stride: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels).requires_grad_(False)


@pytest.mark.parametrize("build", [
    frozen, Unused, Constant, lambda channels, stride: Constant(0, stride)],
    ids=["frozen weight", "unused parameter", "trained constant", "zeros"])
@pytest.mark.parametrize("others", [("sep_conv_3x3",), ()])
def test_custom_operations(monkeypatch: pytest.MonkeyPatch, others: tuple[str, ...],
                           build: Callable[[int, int], nn.Module]) -> None:
    entry = Operation("custom", lambda channels, stride, search: build(channels, stride))
    monkeypatch.setitem(OPERATIONS, "custom", entry)
    plain, quick = pair(FastSearchNetwork, ("none", "custom", *others), nodes=2, channels=4)
    x, y = images(3)
    same(plain, quick, random_mixing(plain, "softmax", 0), x.double(), y, 1e-8)


@pytest.mark.parametrize("part", ["batch norms", "one batch norm", "cell"])
def test_a_part_in_evaluation_mode(part: str) -> None:
    plain, quick, x, y, mixing = both()
    for network in (plain, quick):
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        for module in {"batch norms": norms, "one batch norm": norms[-1:],
                       "cell": [network.cell(1)]}[part]:
            module.eval()
        cross_entropy(network(x, mixing), y).backward()
    for (key, p), q in zip(plain.named_parameters(), quick.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), key
    for key, value in plain.state_dict().items():
        assert torch.equal(value, quick.state_dict()[key]), key


def test_other_parameters_for_one_call() -> None:
    plain, quick, x, y, mixing = both()
    results = []
    for network in (plain, quick):
        given = {key: (1.5 * p).detach().requires_grad_()
                 for key, p in network.named_parameters()}
        logits = torch.func.functional_call(network, given, (x, mixing))
        results.append((logits, *torch.autograd.grad(cross_entropy(logits, y),
                                                     list(given.values()))))
    for a, b in zip(*results, strict=True):
        close(b, a, 1e-8)


@pytest.mark.parametrize("key", [WEIGHT, "cell2.pre1.conv.weight", "cell2.pre0.conv1.weight"])
def test_weights_changed_before_the_backward_pass(key: str) -> None:
    for network in both()[:2]:
        _, _, x, y, mixing = both()
        loss = cross_entropy(network(x, mixing), y)
        with torch.no_grad():
            network.get_parameter(key).mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_weights_in_any_memory_order() -> None:
    plain, quick, x, y, mixing = both()
    for network in (plain, quick):
        for p in network.parameters():
            if p.dim() == 4:
                p.data = p.data.transpose(0, 1).contiguous().transpose(0, 1)
    assert not quick.get_parameter(WEIGHT).is_contiguous()
    same(plain, quick, random_mixing(plain, "softmax", 0), x, y, 1e-8)


def test_an_empty_batch() -> None:
    plain, quick, x, _, mixing = both()
    assert plain(x[:0], mixing).shape == quick(x[:0], mixing).shape == (0, 4)


@pytest.mark.parametrize("shape", [(7, 7), (8, 10), (9, 8), (11, 11)])
def test_sizes_that_cannot_be_halved(shape: tuple[int, int]) -> None:
    errors = []
    for network in both()[:2]:
        mixing = random_mixing(network, "softmax", 0)
        with pytest.raises(RuntimeError) as raised:
            network(torch.randn(2, 3, *shape).double(), mixing)
        errors.append(str(raised.value))
    assert errors[0] == errors[1]


def test_odd_sizes_where_the_plain_network_takes_them() -> None:
    """Without a factorized reduction a stride rounds up."""
    plain, quick = pair(FastSearchNetwork, ("max_pool_3x3", "sep_conv_3x3"), cells=1, nodes=1)
    x = torch.randn(2, 3, 9, 9).double()
    same(plain, quick, random_mixing(plain, "softmax", 0), x, torch.tensor([0, 1]), 1e-8)


@pytest.mark.parametrize(("stem", "size"), [("cifar", 8), ("strided", 31), ("imagenet", 64)])
def test_legal_sizes_take_the_kernels(stem: str, size: int) -> None:
    space = CellSpace(("skip_connect",), 1)
    network = FastSearchNetwork(space, 4, 3, 4, image_size=size, stem=stem)
    assert network._kernels_apply(torch.randn(2, 3, size, size),
                                  random_mixing(network, "softmax", 0))
