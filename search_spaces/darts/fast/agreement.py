"""A fast network must agree with the plain one on the device at hand before a search may use it.

GPU kernels are compiled by whatever driver and library versions a machine has; a check at the
start (longer once per machine, when about 90 kernels are compiled and kept on its disk) buys that
nobody searches with a network that computes something else.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from search_spaces.darts.search_network import SearchNetwork
from search_spaces.full_precision import full_float32
from search_spaces.operations import DARTS_OPERATIONS
from search_spaces.space import CellSpace

SPACE = CellSpace(DARTS_OPERATIONS, nodes=2)
# Of the norm of the difference, relative; ReLU kinks take 4e-3 of the first on a CPU, bfloat16
# itself 0.14 of the second (in the plain network as well), a wrong kernel is off by about 1.
TOLERANCES = {torch.float32: 5e-2, torch.bfloat16: 0.5}
# (batch, pixels): GPU kernels treat large maps differently, so one of each kind.
SIZES = {"cpu": [(8, 8)], "cuda": [(8, 8), (16, 32), (64, 32)]}


@functools.cache
def disagreement(kind: type[SearchNetwork], device: torch.device) -> str | None:
    """What is wrong with this network on this device, in words, or None."""
    try:
        with full_float32():
            return _compare(kind, device)
    except Exception as error:  # noqa: BLE001 - compilers and drivers raise what they like
        return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"


def _compare(kind: type[SearchNetwork], device: torch.device) -> str | None:
    plain, tested = (_small(k).to(device) for k in (SearchNetwork, kind))
    for batch, size in SIZES.get(device.type, SIZES["cpu"]):
        for dtype, tolerance in TOLERANCES.items():
            expected = _results(plain, torch.float32, batch, size)
            found = _results(tested, dtype, batch, size)
            for name, value in expected.items():
                error = float((found[name] - value).norm() / value.norm())
                if not error <= tolerance:
                    return (f"its {name} on {device.type} differs from the plain network's by "
                            f"{error:.1e} (relative, {str(dtype).removeprefix('torch.')}, batch "
                            f"{batch}, {size} pixels)")
    return None


def _small(kind: type[SearchNetwork]) -> SearchNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(SPACE, 16, 2, 4, image_size=8)


def _results(network: SearchNetwork, dtype: torch.dtype, batch: int, size: int
             ) -> dict[str, Tensor]:
    """Logits and all gradients of a fixed batch."""
    rng = torch.Generator().manual_seed(0)
    mixing = torch.rand(network.mixing_shape, generator=rng)
    x = torch.rand(batch, 3, size, size, generator=rng)
    leaf = network.place(mixing).requires_grad_()
    y = torch.arange(batch, device=leaf.device) % 4
    network.train()
    with torch.autocast(leaf.device.type, dtype, enabled=dtype != torch.float32):
        logits = network(network.place(x), leaf)
    first, *rest = torch.autograd.grad(cross_entropy(logits.float(), y),
                                       [leaf, *network.parameters()])
    return {"output": logits.detach().float(), "mixing gradient": first,
            "weight gradient": torch.cat([gradient.flatten() for gradient in rest])}
