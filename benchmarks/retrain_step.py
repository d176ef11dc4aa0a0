"""One training step of a final network: plain eager float32 NCHW against the trainer's fast form.

    python -m benchmarks.retrain_step [--json] [--genotype DARTS_V2] [--batch 96] [--channels 36]
                                      [--cells 20] [--repeats 5] [--precision float32|bfloat16]

Drop-path and auxiliary head included (the protocol of the DARTS paper). The fast form is
channels-last; on a GPU also autocast, cells compiled, a fused optimiser and the step recorded as a
CUDA graph. Both hold the same weights and take turns in one process; medians; `ratio` is
plain / fast.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks.measuring import (
    alternate,
    count,
    environment,
    parser,
    peak_memory,
    run,
    seconds,
)
from nasbench.build import construct
from nasbench.configuration import compose
from nasbench.precision import Precision
from nasbench.retrain.compiled import compiled_cells
from nasbench.retrain.step import RetrainStep
from nasbench.settings import EvaluationSettings
from search_spaces import FinalNetwork, load_genotype

FORMS = ("plain", "fast")


def make_step(form: str, genotype: str, batch: int, channels: int, cells: int, size: int,
              device: torch.device, precision: str, compiled: bool, cuda_graphs: bool,
              stack: ExitStack) -> Callable[[], None]:
    """The step as a function without arguments; compiled cells are given back by the stack."""
    fast = form == "fast"
    config = compose(["evaluation=darts600", "dataset=cifar10"])
    settings = construct(EvaluationSettings, config["evaluation"], "evaluation")
    torch.manual_seed(0)
    network = FinalNetwork(load_genotype(genotype)[1], channels, cells, 10, image_size=size,
                           auxiliary=True, drop_path=True).to(device)
    network.get_buffer("drop_rate").fill_(settings.drop_path)
    layout = torch.channels_last if fast else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=layout)
    y = torch.randint(10, (batch,), device=device)
    chosen = Precision.choose(device, precision if fast else "float32", None)
    train = RetrainStep(network, settings, chosen, fast and cuda_graphs)
    if fast and compiled:
        stack.enter_context(compiled_cells(network))

    def step() -> None:
        chosen.apply()  # TF32 with bfloat16 only, so plain is float32 indeed
        train(x, y, y)

    return step


def measure(a: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One case, as a record."""
    with ExitStack() as stack:
        def steps(cuda_graphs: bool) -> dict[str, Callable[[], None]]:
            return {form: make_step(form, a.genotype, a.batch, a.channels, a.cells, a.image_size,
                                    device, a.precision, a.compile, cuda_graphs, stack)
                    for form in FORMS}

        eager = steps(False)
        first = seconds(eager["fast"], device)
        memory = {form: peak_memory(step, device) for form, step in eager.items()}
        ms = alternate(steps(True), a.repeats, device)
    case: dict[str, Any] = {
        "genotype": a.genotype, "batch": a.batch, "channels": a.channels, "cells": a.cells,
        "image_size": a.image_size, "compiled": a.compile, **{f"{f}_ms": ms[f] for f in FORMS},
        "ratio": ms["plain"] / ms["fast"], "first_fast_step_seconds": first,
        "images_per_second": {f: 1e3 * a.batch / ms[f] for f in FORMS},
        "peak_memory_bytes": memory, "repeats": a.repeats}
    return {"benchmark": "retrain_step", "ratio": case["ratio"],
            **environment(device, a.precision), "cases": [case]}


def table(r: dict[str, Any]) -> str:
    c, = r["cases"]
    lines = [f"{r['device']}, {r['threads']} threads, torch {r['torch']}; {c['genotype']}, "
             f"{c['cells']} cells, C={c['channels']}, batch {c['batch']}, fast in {r['dtype']}"]
    lines += [f"{f:>6} {c[f'{f}_ms']:>9.1f} ms {c['images_per_second'][f]:>9.0f} images/s "
              f"{c['peak_memory_bytes'][f] / 2**20:>8.0f} MiB peak" for f in FORMS]
    return "\n".join([*lines, f"ratio: {r['ratio']:.2f}"])


def main() -> None:
    p = parser(str(__doc__).splitlines()[0])
    p.add_argument("--genotype", default="DARTS_V2")
    p.add_argument("--batch", type=count, default=96)
    p.add_argument("--channels", type=count, default=36)
    p.add_argument("--cells", type=count, default=20)
    p.add_argument("--image-size", type=count, default=32)
    p.add_argument("--compile", action="store_true", default=torch.cuda.is_available(),
                   help="compile the cells (default on a GPU)")
    run(p, measure, table)


if __name__ == "__main__":
    main()
