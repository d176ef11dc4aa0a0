"""What a candidate of CARS costs: seconds to score one, and a sparse against a dense weight step.

    python benchmarks/cars_evaluation.py --device cuda --precision bfloat16
    python benchmarks/cars_evaluation.py --images 512 --batch 64 --json

Sparse and dense steps alternate in one process on the same batch and weights; medians. The
shares of the whole search are extrapolated to the paper's settings from the medians: 500 epochs of
25,000 images, 45 generations of 256 candidates under the current weights, 128 under the previous.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nasbench.clock import Clock  # noqa: E402
from nasbench.precision import Precision  # noqa: E402
from nasbench.search.score import BATCH_NORMS, Scorer  # noqa: E402
from nasbench.search.weights import SupernetWeights  # noqa: E402
from search_spaces import CellSpace, Mixing, SearchNetwork  # noqa: E402
from search_spaces.sampling import sample_genotype  # noqa: E402

OPERATIONS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3",
              "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
EPOCHS, GENERATIONS, POPULATION, IMAGES, BATCH = 500, 45, 128, 25_000, 128


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, device work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(a: argparse.Namespace) -> dict[str, Any]:
    """All medians, as a record."""
    device = torch.device(a.device)
    torch.manual_seed(0)
    space = CellSpace(OPERATIONS)
    network = SearchNetwork(space, a.channels, a.cells, 10, image_size=a.size).to(device)
    precision, clock = Precision(device, a.precision, False), Clock()
    weights = SupernetWeights(network, learning_rate=0.025, momentum=0.9, weight_decay=3e-4,
                              grad_clip=5.0, precision=precision, clock=clock)
    x = torch.randn(a.images, 3, a.size, a.size, device=device)
    y = torch.randint(10, (a.images,), device=device)
    held_out = list(zip(x.split(a.score_batch), y.split(a.score_batch), strict=True))
    batch = (x[:a.batch], y[:a.batch])
    rng = torch.Generator().manual_seed(0)

    def candidate() -> Mixing:
        code = Mixing.sparse(space.one_hot(sample_genotype(space, rng)))
        return Mixing(network.place(code.weights), code.live)

    dense = Mixing(network.place(torch.full(network.mixing_shape, 1 / len(OPERATIONS))))
    steps: dict[str, list[float]] = {"sparse": [], "dense": []}
    for i in range(a.repeats + 2):
        for kind, mixing in (("sparse", candidate()), ("dense", dense)):
            taken = seconds(lambda mixing=mixing: weights.step(batch, mixing), device)
            if i >= 2:  # the first two warm up
                steps[kind].append(taken)
    step = {kind: statistics.median(values) for kind, values in steps.items()}

    snapshot = weights.snapshot()
    scorer = Scorer(network, lambda: held_out, lambda: [batch] * 20, batch_norm="batch",
                    precision=precision, clock=clock)
    scores: dict[str, float] = {}
    for policy in BATCH_NORMS:
        for name, values in ((policy, None), (f"{policy}, previous weights", snapshot)):
            def one(policy: str = policy, values: Any = values) -> float:
                return scorer(candidate(), weights=values, batch_norm=policy)

            one()
            scores[name] = statistics.median(seconds(one, device) for _ in range(a.candidates))

    training = EPOCHS * -(-IMAGES // BATCH) * step["sparse"] * BATCH / a.batch
    per_image = scores["batch"] / a.images
    evaluation = GENERATIONS * 3 * POPULATION * IMAGES * per_image
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name, "threads": torch.get_num_threads(), "precision": a.precision,
            "torch": torch.__version__, "channels": a.channels, "cells": a.cells,
            "image_size": a.size, "batch": a.batch, "images": a.images,
            "score_batch": a.score_batch, "step_seconds": step,
            "dense_over_sparse": step["dense"] / step["sparse"], "seconds_per_candidate": scores,
            "paper_scale_hours": {"training": training / 3600, "evaluation": evaluation / 3600},
            "evaluation_share": evaluation / (evaluation + training)}


def table(r: dict[str, Any]) -> str:
    lines = [f"{r['device']}, {r['threads']} threads, {r['precision']}, torch {r['torch']}",
             f"{r['cells']} cells, {r['channels']} channels, {r['image_size']} pixels; "
             f"batch {r['batch']}; {r['images']} images scored {r['score_batch']} at a time", "",
             f"{'weight step, sparse':40s}{1000 * r['step_seconds']['sparse']:12.1f} ms",
             f"{'weight step, dense':40s}{1000 * r['step_seconds']['dense']:12.1f} ms",
             f"{'dense / sparse':40s}{r['dense_over_sparse']:12.1f}"]
    lines += [f"{'candidate, ' + k:40s}{1000 * v:12.1f} ms"
              for k, v in r["seconds_per_candidate"].items()]
    hours = r["paper_scale_hours"]
    return "\n".join([*lines, "", "extrapolated to the paper's search: training "
                      f"{hours['training']:.2f} h, evaluation {hours['evaluation']:.2f} h "
                      f"({100 * r['evaluation_share']:.0f} % of the total)"])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    p.add_argument("--channels", type=int, default=16)
    p.add_argument("--cells", type=int, default=8)
    p.add_argument("--size", type=int, default=32)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--images", type=int, default=25_000)
    p.add_argument("--score-batch", type=int, default=2500)
    p.add_argument("--candidates", type=int, default=5)
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument("--json", action="store_true")
    arguments = p.parse_args()
    record = measure(arguments)
    print(json.dumps(record, indent=2) if arguments.json else table(record))


if __name__ == "__main__":
    main()
