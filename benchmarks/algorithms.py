"""One search step of each algorithm, as its strategy makes it: plain eager NCHW against fast.

    python -m benchmarks.algorithms [--json] [--algorithm darts darts_2nd asap bayesnas cars]
                                    [--batch N] [--channels N] [--repeats 3] [--threads N]
                                    [--precision float32|bfloat16]

Settings are those of `python run.py algorithm=NAME search=paper dataset=cifar10` (with `--batch`
another batch size), on random images, at the start of the search: architecture and weight steps,
optimisers included. Both forms draw the same numbers and take turns in one process; medians;
`ratio` is the smallest plain / fast. The steps of DARTS+ are those of DARTS, those of random search
those of CARS. `steps_hours` extrapolates to all steps of the paper's search without its validation,
curvature or candidates, as if nothing were ever pruned.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from algorithms.strategy import Batch, Problem
from benchmarks.forms import precision_of
from benchmarks.measuring import (
    alternate,
    count,
    environment,
    mebibytes,
    parser,
    peak_memory,
    run,
)
from nasbench.build import component, construct
from nasbench.clock import Clock
from nasbench.configuration import compose
from nasbench.measure import FinalMeasures
from nasbench.search.weights import SupernetWeights
from nasbench.settings import SearchSettings
from search_spaces import CellSpace, FinalNetwork, SearchNetwork
from search_spaces.darts.fast import choose

ALGORITHMS = ("darts", "darts_2nd", "asap", "bayesnas", "cars")
FORMS = ("plain", "fast")
IMAGES, SIZE, CLASSES = 50_000, 32, 10  # CIFAR-10


def settings_of(algorithm: str, overrides: list[str]) -> tuple[dict[str, Any], SearchSettings]:
    """The resolved configuration and its typed search settings."""
    config = compose([f"algorithm={algorithm}", "search=paper", "dataset=cifar10", *overrides])
    return config, construct(SearchSettings, config["search"], "search")


def make_step(form: str, config: dict[str, Any], settings: SearchSettings, device: torch.device,
              precision: str, cuda_graphs: bool) -> Callable[[], dict[str, Tensor]]:
    """A strategy on its own search network; the step as a function without arguments."""
    fast, space = form == "fast", config["search_space"]
    torch.manual_seed(0)
    kind = choose("fast", device) if fast else SearchNetwork
    network = kind(CellSpace(tuple(space["operations"]), space["nodes"]), settings.channels,
                   settings.cells, CLASSES, image_size=SIZE, share_cells=space["share_cells"])
    network = network.to(device)
    chosen = precision_of(fast, device, precision)
    weights = SupernetWeights(
        network, learning_rate=settings.learning_rate, momentum=settings.momentum,
        weight_decay=settings.weight_decay, grad_clip=settings.grad_clip, precision=chosen,
        clock=Clock(device), cuda_graphs=fast and cuda_graphs)
    layout = torch.channels_last if fast else torch.contiguous_format
    rng = torch.Generator().manual_seed(1)

    def batch() -> Batch:
        x = torch.randn(settings.batch_size, 3, SIZE, SIZE, generator=rng)
        y = torch.randint(CLASSES, (settings.batch_size,), generator=rng)
        return x.to(device).contiguous(memory_format=layout), y.to(device)

    def unscored(*_: Any, **__: Any) -> float:
        raise AssertionError("a search step scores nothing")

    measures = FinalMeasures(lambda genotype: FinalNetwork(genotype, 36, 20, CLASSES), 3, SIZE,
                             device)
    strategy = component(config["algorithm"], "algorithm", ("share_cells",))
    strategy.setup(Problem(network, weights, unscored, lambda split, n, seed: [batch()] * n,
                           measures, torch.Generator().manual_seed(2)))
    train, valid = batch(), batch()

    def step() -> dict[str, Tensor]:
        chosen.apply()  # TF32 with bfloat16 only, so plain is float32 indeed
        metrics: dict[str, Tensor] = strategy.search_step(train, valid)
        return metrics

    return step


def measure(algorithm: str, overrides: list[str], repeats: int, device: torch.device,
            precision: str) -> dict[str, Any]:
    """A case: both forms of one algorithm's step."""
    config, settings = settings_of(algorithm, overrides)
    steps = {form: make_step(form, config, settings, device, precision, True) for form in FORMS}
    ms = alternate(steps, repeats, device)
    print(f"{algorithm}: " + ", ".join(f"{k} {v:.1f} ms" for k, v in ms.items()), file=sys.stderr,
          flush=True)
    memory = {form: peak_memory(make_step(form, config, settings, device, precision, False), device)
              for form in FORMS}
    share = settings.train_fraction or 1 - settings.valid_fraction
    steps_of_search = math.ceil(round(IMAGES * share) / settings.batch_size) * settings.epochs
    return {"algorithm": algorithm, "batch": settings.batch_size, "channels": settings.channels,
            "cells": settings.cells, **{f"{form}_ms": ms[form] for form in FORMS},
            "ratio": ms["plain"] / ms["fast"], "peak_memory_bytes": memory,
            "search_steps": steps_of_search,
            "steps_hours": {form: ms[form] * steps_of_search / 3.6e6 for form in FORMS},
            "repeats": repeats}


def measure_all(a: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    overrides = [f"search.{key}={value}" for key, value in
                 (("batch_size", a.batch), ("channels", a.channels)) if value is not None]
    cases = [measure(name, overrides, a.repeats, device, a.precision) for name in a.algorithm]
    return {"benchmark": "algorithms", "ratio": min(c["ratio"] for c in cases),
            **environment(device, a.precision), "cases": cases}


def table(r: dict[str, Any]) -> str:
    lines = [f"{r['device']}, {r['threads']} threads, torch {r['torch']}, {r['dtype']} (plain: "
             "float32); milliseconds per step; hours: of all steps of the search, extrapolated",
             f"{'':>10} {'batch':>5} {'C':>3} {'plain':>9} {'fast':>9} {'ratio':>6} {'hours':>7}  "
             "peak MiB plain/fast"]
    for c in r["cases"]:
        lines.append(
            f"{c['algorithm']:>10} {c['batch']:>5} {c['channels']:>3} {c['plain_ms']:>9.1f} "
            f"{c['fast_ms']:>9.1f} {c['ratio']:>6.2f} {c['steps_hours']['fast']:>7.2f}  "
            f"{mebibytes(c, FORMS)}")
    return "\n".join([*lines, f"ratio (worst case): {r['ratio']:.2f}"])


def main() -> None:
    p = parser(str(__doc__).splitlines()[0])
    p.set_defaults(repeats=3)
    p.add_argument("--algorithm", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    p.add_argument("--batch", type=count, default=None, help="default: the algorithm's own")
    p.add_argument("--channels", type=count, default=None, help="default: the algorithm's own")
    run(p, measure_all, table)


if __name__ == "__main__":
    main()
