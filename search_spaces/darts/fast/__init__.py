"""The fast search networks, and the choice between them and the plain one.

`search_space.implementation`: `plain` is the readable per-edge network, `fast` the same function
with the same parameters and state (compiled kernels on a CPU, batched edges on a GPU), `auto` is
fast where this machine can run it.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from search_spaces.darts.fast.agreement import disagreement
from search_spaces.darts.fast.cpu.native import library
from search_spaces.darts.fast.cpu.network import FastSearchNetwork
from search_spaces.darts.fast.gpu.network import BatchedSearchNetwork
from search_spaces.darts.search_network import SearchNetwork
from search_spaces.space import CellSpace

__all__ = ["IMPLEMENTATIONS", "BatchedSearchNetwork", "FastSearchNetwork", "build_search_network",
           "choose", "implementation_of"]

log = logging.getLogger(__name__)

IMPLEMENTATIONS = ("auto", "fast", "plain")


def choose(implementation: str, device: torch.device | str = "cpu") -> type[SearchNetwork]:
    """The class to build. What has to be compiled is compiled now (seconds, once per machine,
    logged), so that no search step waits for it. Raises ValueError for an unknown name, and where
    `fast` is asked for and cannot be had."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError("search_space.implementation: must be one of "
                         f"{', '.join(IMPLEMENTATIONS)}, got {implementation!r}")
    if implementation == "plain":
        return SearchNetwork
    try:
        return _fast(torch.device(device))
    except OSError as error:
        if implementation == "fast":
            raise ValueError(f"search_space.implementation: fast is not possible here: {error}; "
                             "use auto or plain") from None
        log.warning("search_space.implementation=auto runs the plain network: %s", error)
        return SearchNetwork


def _fast(device: torch.device) -> type[SearchNetwork]:
    """Raises OSError where the device has none that can be trusted."""
    if device.type == "cpu":
        library(torch.float32)
        return FastSearchNetwork
    if device.type != "cuda":
        raise OSError(f"it is made for CPUs and CUDA GPUs, not for {device.type}")
    log.info("checking the fast search network on this GPU (its kernels are compiled the first "
             "time, and kept)")
    found = disagreement(BatchedSearchNetwork, device)
    if found is not None:
        raise OSError(found)
    return BatchedSearchNetwork


def implementation_of(network: SearchNetwork) -> str:
    """`fast` or `plain`: what `auto` came to, for a checkpoint to repeat."""
    return "plain" if type(network) is SearchNetwork else "fast"


def build_search_network(space: CellSpace, channels: int, cells: int, classes: int, *,
                         implementation: str = "auto", device: torch.device | str = "cpu",
                         **options: Any) -> SearchNetwork:
    """The chosen network on its device; `options` as for `SearchNetwork`."""
    return choose(implementation, device)(space, channels, cells, classes, **options).to(device)
