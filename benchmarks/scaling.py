"""How a search step scales: time and memory against batch, channels, cells, image size, live share.

    python -m benchmarks.scaling [--json] [--axis batch channels ...] [--repeats 3] [--threads N]

One quantity is varied at a time around a base case; plain (eager NCHW) and fast take turns in one
process, times are medians of a first-order DARTS step (see `search_step`).
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from benchmarks.forms import ENDS, make_step, networks
from benchmarks.measuring import alternate, environment, mebibytes, parser, peak_memory, run
from search_spaces import CellSpace
from search_spaces.operations import DARTS_OPERATIONS

BASE = {"batch": 16, "channels": 16, "cells": 5, "image_size": 16, "live": 1.0}
AXES: dict[str, list[float]] = {"batch": [4, 16, 64], "channels": [8, 16, 32, 48],
                                "cells": [3, 5, 8], "image_size": [8, 16, 32],
                                "live": [0.1, 0.25, 0.5, 1.0]}


def point(values: dict[str, float], repeats: int, device: torch.device, precision: str
          ) -> dict[str, Any]:
    """Milliseconds and peak bytes of both forms at one setting."""
    space = CellSpace(DARTS_OPERATIONS)
    batch, channels, cells, size = (int(values[k]) for k in ("batch", "channels", "cells",
                                                             "image_size"))
    live = share_mask(space, values["live"])
    forms = networks(space, channels, cells, size, device, ENDS)
    steps, eager = ({form: make_step(network, form, batch, size, live, precision, graphs)
                     for form, network in forms.items()} for graphs in (True, False))
    ms = alternate(steps, repeats, device)
    return {**values, "live_operations": int(live.sum()), "ratio": ms["plain_nchw"] / ms["fast"],
            **{f"{form}_ms": ms[form] for form in ENDS},
            "peak_memory_bytes": {form: peak_memory(step, device) for form, step in eager.items()}}


def share_mask(space: CellSpace, share: float) -> Tensor:
    """A random share of all operations, the smaller within the larger."""
    shape = (2, len(space.edges), len(space.operations))
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < share


def measure_all(a: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    curves = {axis: [point({**BASE, axis: value}, a.repeats, device, a.precision)
                     for value in AXES[axis]] for axis in a.axis}
    ratio = min(p["ratio"] for curve in curves.values() for p in curve)
    return {"benchmark": "scaling", "ratio": ratio, **environment(device, a.precision),
            "base": BASE, "curves": curves}


def table(r: dict[str, Any]) -> str:
    lines = [f"{r['device']}, {r['threads']} threads, torch {r['torch']}; fast in {r['dtype']}; "
             f"base {BASE}"]
    for axis, curve in r["curves"].items():
        for c in curve:
            lines.append(
                f"{axis:>10} {c[axis]:>6} plain {c['plain_nchw_ms']:>7.0f} ms  fast "
                f"{c['fast_ms']:>7.0f} ms  ratio {c['ratio']:>5.2f}  peak MiB "
                f"{mebibytes(c, ENDS)}")
    return "\n".join([*lines, f"ratio (worst case): {r['ratio']:.2f}"])


def main() -> None:
    p = parser("Scaling curves of a search step.")
    p.add_argument("--axis", nargs="+", choices=list(AXES), default=list(AXES))
    p.set_defaults(repeats=3)
    run(p, measure_all, table)


if __name__ == "__main__":
    main()
