"""A fast network must agree with the plain one on the device at hand before a search may use it.

GPU kernels are compiled by whatever driver and library versions a machine has; a second at the
start buys that nobody searches with a network that computes something else.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from search_spaces.darts.search_network import SearchNetwork
from search_spaces.space import CellSpace

SPACE = CellSpace(("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3",
                   "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"), nodes=2)
# Of the norm of the difference, relative; a wrong kernel is off by about 1.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.3}


@functools.cache
def disagreement(kind: type[SearchNetwork], device: torch.device) -> str | None:
    """What is wrong with this network on this device, in words, or None."""
    try:
        plain, tested = (_small(k).to(device) for k in (SearchNetwork, kind))
        for dtype, tolerance in TOLERANCES.items():
            expected, found = _results(plain, torch.float32), _results(tested, dtype)
            for name, value in expected.items():
                error = float((found[name] - value).norm() / value.norm())
                if not error <= tolerance:
                    return (f"its {name} on {device.type} differs from the plain network's by "
                            f"{error:.1e} (relative, {str(dtype).removeprefix('torch.')})")
    except Exception as error:  # noqa: BLE001 - compilers and drivers raise what they like
        return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
    return None


def _small(kind: type[SearchNetwork]) -> SearchNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(SPACE, 8, 2, 4, image_size=8)


def _results(network: SearchNetwork, dtype: torch.dtype) -> dict[str, Tensor]:
    """Logits and gradients of a fixed batch; no ReLU kink is near enough to matter."""
    rng = torch.Generator().manual_seed(0)
    x, mixing = (torch.rand(shape, generator=rng) for shape in ((8, 3, 8, 8), network.mixing_shape))
    leaf = network.place(mixing).requires_grad_()
    y = torch.arange(8, device=leaf.device) % 4
    network.train()
    with torch.autocast(leaf.device.type, dtype, enabled=dtype != torch.float32):
        logits = network(network.place(x), leaf)
    weight = network.get_parameter("cell0.edge0->2.sep_conv_3x3.dw1.weight")
    first, second = torch.autograd.grad(cross_entropy(logits.float(), y), [leaf, weight])
    return {"output": logits.detach().float(), "mixing gradient": first, "weight gradient": second}
