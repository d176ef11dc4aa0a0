"""What each kind of operation costs in a search step, beside floors of its arithmetic and traffic.

A kind's milliseconds are those of a step with that kind live on every edge, less those of a step
with nothing live but the skip connection of the first edge; `fixed` is the latter: stem,
preprocessing of cells, classifier, optimiser.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.forms import ENDS, make_step, networks
from benchmarks.measuring import alternate
from search_spaces import CellSpace, Mixing, SearchNetwork
from search_spaces.operations import DARTS_OPERATIONS


def breakdown(batch: int, *, channels: int, cells: int, size: int, repeats: int,
              device: torch.device, precision: str, rates: tuple[float, float]
              ) -> list[dict[str, Any]]:
    """One entry per part: milliseconds of both forms, their ratio and the floors."""
    space = CellSpace(DARTS_OPERATIONS)
    forms = networks(space, channels, cells, size, device, ENDS)
    nothing = torch.zeros(2, len(space.edges), len(space.operations), dtype=torch.bool)
    nothing[:, 0, DARTS_OPERATIONS.index("skip_connect")] = True
    sets = {"fixed": nothing}
    for operation in space.real:
        sets[space.operations[operation]] = live = nothing.clone()
        live[:, :, operation] = True
    found: list[dict[str, Any]] = []
    for part, live in sets.items():
        steps = {form: make_step(network, form, batch, size, live, precision, cuda_graphs=True)
                 for form, network in forms.items()}
        values = {f"{form}_ms": ms for form, ms in alternate(steps, repeats, device).items()} | \
            floors(forms["plain_nchw"], batch, size, live, rates, precision)
        if found:
            values = {key: value - found[0][key] for key, value in values.items()}
        found.append({"part": part, **values, "ratio": values["plain_nchw_ms"] / values["fast_ms"]})
    return found


def floors(network: SearchNetwork, batch: int, size: int, live: Tensor,
           rates: tuple[float, float], precision: str) -> dict[str, float]:
    """Estimated milliseconds that a step's arithmetic and its memory traffic need at full rate.

    Operations: convolution multiply-adds, twice forward, twice to the inputs, once to the weights.
    Bytes: the output of every live convolution is written once and read three times (forward, sums
    and gradient of its normalisation), in both passes; nothing else need leave the cache.
    """
    counted = {"macs": 0, "values": 0}

    def hook(module: nn.Conv2d, _: Any, out: Tensor) -> None:
        per_output = module.weight[0].numel()
        counted["macs"] += out.numel() * per_output
        counted["values"] += out.numel() if module.groups == 1 else 0

    hooks = [m.register_forward_hook(hook) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        weights = network.place(live.float())
        network(torch.zeros(1, 3, size, size).to(weights), Mixing(weights, live))
    for h in hooks:
        h.remove()
    operations, bandwidth = rates
    bytes_per_value = 2 if precision == "bfloat16" else 4
    return {"operations_ms": 1e3 * 2 * 5 * batch * counted["macs"] / operations,
            "bytes_ms": 1e3 * 2 * 4 * bytes_per_value * batch * counted["values"] / bandwidth,
            "forward_gflop_per_image": 2e-9 * counted["macs"]}
