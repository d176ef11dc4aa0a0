"""Whether a fast search network computes what the plain one does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from search_spaces import CellSpace, Mixing, SearchNetwork
from tests.harness import DARTS_OPERATIONS

OTHERS = ("none", "max_pool_3x3", "sep_conv_7x7", "conv_7x1_1x7", "skip_connect")


def pair(kind: type[SearchNetwork], operations: Sequence[str] = DARTS_OPERATIONS, *,
         channels: int = 8, cells: int = 3, nodes: int = 3, size: int = 8,
         dtype: torch.dtype = torch.float64, share: bool = True, seed: int = 0
         ) -> tuple[SearchNetwork, SearchNetwork]:
    """A plain network and one of the kind, with the same weights."""
    torch.manual_seed(seed)
    space = CellSpace(tuple(operations), nodes)
    plain, quick = (k(space, channels, cells, 4, image_size=size, share_cells=share).to(dtype)
                    for k in (SearchNetwork, kind))
    quick.load_state_dict(plain.state_dict())
    return plain, quick


def close(found: Tensor | None, expected: Tensor | None, tolerance: float) -> None:
    """To `tolerance` of the largest value; None (no gradient) only where both are."""
    assert (found is None) == (expected is None)
    if found is not None and found.numel():
        scale = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)


def same(plain: SearchNetwork, quick: SearchNetwork, mixing: Mixing, x: Tensor, y: Tensor,
         tolerance: float) -> None:
    """Outputs, gradients by both ways of asking, statistics, and evaluation afterwards."""
    results = []
    for network in (plain, quick):
        network.train()
        network.zero_grad(set_to_none=True)
        leaf = mixing.weights.clone().requires_grad_()
        logits = network(x, Mixing(leaf, mixing.live))
        cross_entropy(logits, y).backward()
        weights = {k: p.grad for k, p in network.named_parameters()}
        again = mixing.weights.clone().requires_grad_()
        loss = cross_entropy(network(x, Mixing(again, mixing.live)), y)
        alone, = torch.autograd.grad(loss, [again])
        network.eval()
        with torch.no_grad():
            evaluated = network(x, mixing)
        buffers = dict(network.named_buffers())
        results.append((logits, leaf.grad, alone, evaluated, weights, buffers))
    expected, found = results
    for a, b in zip(found[:4], expected[:4], strict=True):
        close(a, b, tolerance)
    for part in (4, 5):
        assert found[part].keys() == expected[part].keys()
        for key, value in expected[part].items():
            close(found[part][key], value, tolerance)


def random_mixing(network: SearchNetwork, kind: str, seed: int) -> Mixing:
    g = torch.Generator().manual_seed(seed)
    shape = network.mixing_shape
    values = torch.randn(shape, generator=g, dtype=torch.float64)
    live = torch.rand(shape, generator=g) < 0.5
    if kind == "softmax":
        return Mixing(network.place(values.softmax(-1)))
    if kind == "masked":  # annealed softmax over what is left
        masked = (values / 0.1).masked_fill(~live, -torch.inf).softmax(-1)
        return Mixing(network.place(masked.nan_to_num(0.0)), live)
    if kind == "real":
        return Mixing(network.place(values), live)
    code = live & (torch.rand(shape, generator=g) < 0.3)
    return Mixing.sparse(network.place(code.double()))
