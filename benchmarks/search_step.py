"""One first-order DARTS search step: plain eager NCHW, plain channels-last, fast.

    python -m benchmarks.search_step [--json] [--batch 16 64] [--live dense half genotype]
                                     [--repeats 5] [--channels 16] [--cells 8] [--threads N]
                                     [--precision float32|bfloat16]

A step is the gradient of one batch's loss with respect to the mixing coefficients, and the
gradient of another's with respect to the weights, with the SGD update, through the trainer that
searches use. All three networks hold the same weights, see the same batches and take turns in one
process; times are medians. The plain forms are eager float32; on a GPU the fast form also has the
precision of `--precision` (bfloat16 unless told) and recorded steps, except for `genotype`, whose
live set changes at every step of a search. `ratio` is the smallest plain NCHW / fast of all cases;
`breakdown` says what each kind of operation costs beside its floors (`breakdown.py`). The steps of
each algorithm as it makes them: `python -m benchmarks.algorithms`.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from benchmarks.breakdown import breakdown, floors
from benchmarks.forms import ENDS, FORMS, LIVE, live_mask, make_step, networks
from benchmarks.measuring import (
    alternate,
    count,
    environment,
    machine_rates,
    mebibytes,
    parser,
    peak_memory,
    run,
)
from search_spaces import CellSpace
from search_spaces.operations import DARTS_OPERATIONS


def measure(batch: int, kind: str, **sizes: Any) -> dict[str, Any]:
    """A case: one batch size and live set. `sizes`: the arguments of `breakdown`."""
    channels, cells, size, device = (sizes[k] for k in ("channels", "cells", "size", "device"))
    precision, space = sizes["precision"], CellSpace(DARTS_OPERATIONS)
    live = live_mask(space, kind)
    forms = networks(space, channels, cells, size, device)
    steps = {form: make_step(network, form, batch, size, live, precision, kind != "genotype")
             for form, network in forms.items()}
    ms = alternate(steps, sizes["repeats"], device)
    print(f"batch {batch}, {kind}: " + ", ".join(f"{k} {v:.1f} ms" for k, v in ms.items()),
          file=sys.stderr, flush=True)
    eager = {form: make_step(network, form, batch, size, live, precision)
             for form, network in forms.items()}  # a recorded step allocates when it is recorded
    memory = {form: peak_memory(step, device) for form, step in eager.items()}
    case = {"batch": batch, "live": kind, "algorithms": LIVE[kind],
            "live_operations": int(live.sum()), "channels": channels, "cells": cells,
            "image_size": size, **{f"{form}_ms": ms[form] for form in FORMS},
            "ratio": ms["plain_nchw"] / ms["fast"],
            "ratio_to_channels_last": ms["plain_channels_last"] / ms["fast"],
            "images_per_second": {form: 2e3 * batch / ms[form] for form in FORMS},
            "peak_memory_bytes": memory, "repeats": sizes["repeats"],
            "floors": floors(forms["plain_nchw"], batch, size, live, sizes["rates"], precision)}
    return case | ({"breakdown": breakdown(batch, **sizes)} if kind == "dense" else {})


def measure_all(a: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    rates = machine_rates(device, a.precision)
    sizes: dict[str, Any] = {
        "channels": a.channels, "cells": a.cells, "size": a.image_size, "repeats": a.repeats,
        "device": device, "precision": a.precision, "rates": rates}
    cases = [measure(batch, kind, **sizes) for batch in a.batch for kind in a.live]
    return {"benchmark": "search_step", "ratio": min(c["ratio"] for c in cases),
            **environment(device, a.precision), "gflops": rates[0] / 1e9,
            "gigabytes_per_second": rates[1] / 1e9, "cases": cases}


def table(r: dict[str, Any]) -> str:
    first = r["cases"][0]
    size = first["image_size"]
    lines = [f"{r['device']}, {r['threads']} threads, torch {r['torch']}, {r['dtype']} (plain: "
             f"float32), C={first['channels']}, {first['cells']} cells, {size}x{size}; "
             "milliseconds per step",
             f"{'batch':>5} {'live':>9} {'NCHW':>8} {'ch.last':>8} {'fast':>8} {'ratio':>6} "
             f"{'(c.l.)':>6} {'floor ops':>9} {'bytes':>6}  peak MiB NCHW/fast"]
    for c in r["cases"]:
        lines.append(
            f"{c['batch']:>5} {c['live']:>9} {c['plain_nchw_ms']:>8.1f} "
            f"{c['plain_channels_last_ms']:>8.1f} {c['fast_ms']:>8.1f} {c['ratio']:>6.2f} "
            f"{c['ratio_to_channels_last']:>6.2f} {c['floors']['operations_ms']:>9.1f} "
            f"{c['floors']['bytes_ms']:>6.1f}  {mebibytes(c, ENDS)}")
    for c in r["cases"]:
        if "breakdown" in c:
            lines += ["", f"batch {c['batch']}, dense: what each kind costs, milliseconds",
                      f"{'':>14} {'NCHW':>8} {'fast':>8} {'ratio':>6} {'floor ops':>9} "
                      f"{'bytes':>6}"]
        for part in c.get("breakdown", []):
            lines.append(
                f"{part['part']:>14} {part['plain_nchw_ms']:>8.1f} {part['fast_ms']:>8.1f} "
                f"{part['ratio']:>6.2f} {part['operations_ms']:>9.1f} {part['bytes_ms']:>6.1f}")
    return "\n".join([*lines, f"ratio (worst case): {r['ratio']:.2f}"])


def main() -> None:
    p = parser("A first-order DARTS search step: plain against fast.")
    p.add_argument("--batch", type=count, nargs="+", default=[16, 64])
    p.add_argument("--live", nargs="+", choices=list(LIVE), default=list(LIVE))
    p.add_argument("--channels", type=count, default=16)
    p.add_argument("--cells", type=count, default=8)
    p.add_argument("--image-size", type=count, default=32)
    run(p, measure_all, table)


if __name__ == "__main__":
    main()
