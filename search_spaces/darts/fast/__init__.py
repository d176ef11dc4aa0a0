"""The fast search network, and the choice between it and the plain one.

`search_space.implementation`: `plain` is the readable per-edge network, `fast` the same function
with the same parameters and state, `auto` is fast where this machine can build its kernels.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from search_spaces.darts.fast.native import library
from search_spaces.darts.fast.network import FastSearchNetwork
from search_spaces.darts.search_network import SearchNetwork
from search_spaces.space import CellSpace

__all__ = ["IMPLEMENTATIONS", "FastSearchNetwork", "build_search_network", "choose",
           "implementation_of"]

log = logging.getLogger(__name__)

IMPLEMENTATIONS = ("auto", "fast", "plain")


def choose(implementation: str, device: torch.device | str = "cpu") -> type[SearchNetwork]:
    """The class to build. It compiles the kernels now (seconds, once per machine, logged), so that
    no search step waits for them. Raises ValueError for an unknown name, and where `fast` is asked
    for and cannot be had: without a C++ compiler, and on other devices than the CPU."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError("search_space.implementation: must be one of "
                         f"{', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    if implementation == "plain":
        return SearchNetwork
    try:
        if torch.device(device).type != "cpu":
            raise OSError(f"it has kernels for the CPU only, not for {torch.device(device).type}")
        library(torch.float32)
    except OSError as error:
        if implementation == "fast":
            raise ValueError(f"search_space.implementation: fast is not possible here: {error}; "
                             "use auto or plain") from None
        log.warning("search_space.implementation=auto runs the plain network: %s", error)
        return SearchNetwork
    return FastSearchNetwork


def implementation_of(network: SearchNetwork) -> str:
    """`fast` or `plain`: what `auto` came to, for a checkpoint to repeat."""
    return "fast" if isinstance(network, FastSearchNetwork) else "plain"


def build_search_network(space: CellSpace, channels: int, cells: int, classes: int, *,
                         implementation: str = "auto", device: torch.device | str = "cpu",
                         **options: Any) -> SearchNetwork:
    """The chosen network on its device; `options` as for `SearchNetwork`."""
    return choose(implementation, device)(space, channels, cells, classes, **options).to(device)
