"""What a candidate of CARS costs: seconds to score one, and a sparse against a dense weight step.

    python -m benchmarks.cars_evaluation [--json] [--precision float32|bfloat16]
                                         [--batch 64 128] [--images 25000] [--score-batch 2500]
                                         [--candidates 5] [--repeats 15] [--threads N]

The network is the one a search would take on this device. A sparse step trains one fresh uniform
individual, a dense step all operations; both have the same weights and batch and take turns;
medians. `ratio` is the smallest dense / sparse over the batch sizes, both launched kernel by
kernel; on a GPU `dense_recorded_ms` is the dense step as a CUDA graph, which the ever new sparse
ones cannot be. Candidates are scored as in a search, on images held on the device as bytes, under
the current weights and under a snapshot. `paper_scale` extrapolates from the first batch size to
500 epochs of 25,000 images and 45 generations of 256 candidates under the current weights and 128
children under the previous ones (256 in the first).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measuring import alternate, count, environment, parser, run, seconds
from nasbench.clock import Clock
from nasbench.data import DataInfo
from nasbench.data.normalisation import Normaliser
from nasbench.data.resident import ResidentSplit
from nasbench.precision import Precision
from nasbench.search.score import BATCH_NORMS, Scorer
from nasbench.search.weights import SupernetWeights
from search_spaces import CellSpace, Mixing, SearchNetwork
from search_spaces.darts.fast import build_search_network
from search_spaces.operations import DARTS_OPERATIONS
from search_spaces.sampling import sample_genotype

EPOCHS, GENERATIONS, POPULATION, IMAGES, BATCH = 500, 45, 128, 25_000, 128
SCORED = (3 * GENERATIONS + 1) * POPULATION  # 2N now, N children before; in the first 2N before


def individuals(network: SearchNetwork) -> Callable[[], Mixing]:
    """Fresh uniform ones, each with its own operations live."""
    rng, ones = torch.Generator().manual_seed(0), network.place(torch.ones(network.mixing_shape))

    def draw() -> Mixing:
        code = network.space.one_hot(sample_genotype(network.space, rng))
        return Mixing(ones, Mixing.sparse(code).live)

    return draw


def compare_steps(weights: SupernetWeights, draw: Callable[[], Mixing], batch: int, size: int,
                  repeats: int, device: torch.device) -> dict[str, Any]:
    """A case: milliseconds of a sparse and a dense weight step and their ratio."""
    x = torch.randn(batch, 3, size, size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(10, (batch,), device=device)
    network = weights.network
    dense = Mixing(network.place(torch.full(network.mixing_shape, 1 / len(DARTS_OPERATIONS))))
    steps = {"sparse": lambda: weights.step((x, y), draw()),
             "dense": lambda: weights.step((x, y), dense)}
    recording, weights.capture.enabled = weights.capture.enabled, False
    ms = alternate(steps, repeats, device)
    weights.capture.enabled = recording
    if recording:
        ms |= alternate({"dense_recorded": steps["dense"]}, repeats, device)
    print(f"batch {batch}: " + ", ".join(f"{k} {v:.1f} ms" for k, v in ms.items()),
          file=sys.stderr, flush=True)
    return {"batch": batch, **{f"{form}_ms": value for form, value in ms.items()},
            "ratio": ms["dense"] / ms["sparse"], "repeats": repeats}


def score(weights: SupernetWeights, draw: Callable[[], Mixing], a: argparse.Namespace,
          precision: Precision) -> dict[str, float]:
    """Seconds per candidate under every batch-norm policy, current and previous weights."""
    device = precision.device
    normalise = Normaliser((0.5,) * 3, (0.25,) * 3, device, channels_last=True)
    held = ResidentSplit(
        "search_valid", DataInfo("random", 10, a.image_size, 3, None, None),
        torch.randint(256, (a.images, 3, a.image_size, a.image_size), dtype=torch.uint8),
        torch.randint(10, (a.images,)), normalise)
    calibration = list(held.once(BATCH))[:20]
    scorer = Scorer(weights.network, lambda: held.once(a.score_batch), lambda: calibration,
                    batch_norm="batch", precision=precision, clock=Clock(device))
    snapshot, found = weights.snapshot(), {}
    for policy in BATCH_NORMS:
        for name, values in ((policy, None), (f"{policy}, previous weights", snapshot)):
            def one(policy: str = policy, values: Any = values) -> None:
                scorer(draw(), weights=values, batch_norm=policy)

            one()
            found[name] = statistics.median(seconds(one, device) for _ in range(a.candidates))
            print(f"candidate, {name}: {found[name]:.3f} s", file=sys.stderr, flush=True)
    return found


def measure(a: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """All medians, as a record."""
    torch.manual_seed(0)
    network = build_search_network(CellSpace(DARTS_OPERATIONS), a.channels, a.cells, 10,
                                   image_size=a.image_size, device=device)
    network = network.to(memory_format=torch.channels_last)
    precision = Precision.choose(device, a.precision, None)
    precision.apply()
    weights = SupernetWeights(network, learning_rate=0.025, momentum=0.9, weight_decay=3e-4,
                              grad_clip=5.0, precision=precision, clock=Clock(device))
    draw = individuals(network)
    cases = [compare_steps(weights, draw, batch, a.image_size, a.repeats, device)
             for batch in a.batch]
    scores = score(weights, draw, a, precision)
    steps = EPOCHS * IMAGES / cases[0]["batch"]
    training = steps * cases[0]["sparse_ms"] / 1e3
    evaluation = SCORED * scores["batch"] * IMAGES / a.images
    return {"benchmark": "cars_evaluation", "ratio": min(c["ratio"] for c in cases),
            **environment(device, a.precision), "network": type(network).__name__,
            "channels": a.channels, "cells": a.cells, "image_size": a.image_size,
            "images": a.images, "score_batch": a.score_batch, "candidates": a.candidates,
            "cases": cases, "seconds_per_candidate": scores,
            "paper_scale": {"training_hours": training / 3600, "evaluation_hours":
                            evaluation / 3600, "evaluation_share":
                            evaluation / (evaluation + training)}}


def table(r: dict[str, Any]) -> str:
    lines = [f"{r['device']}, {r['threads']} threads, {r['dtype']}, torch {r['torch']}, "
             f"{r['network']}", f"C={r['channels']}, {r['cells']} cells, {r['image_size']} pixels; "
             f"{r['images']} images scored {r['score_batch']} at a time", ""]
    lines += [f"weight step, batch {c['batch']:4d}: sparse {c['sparse_ms']:9.1f} ms, dense "
              f"{c['dense_ms']:9.1f} ms, ratio {c['ratio']:.1f}" for c in r["cases"]]
    lines += [f"{'candidate, ' + k:36s}{v:10.3f} s" for k, v in r["seconds_per_candidate"].items()]
    scale = r["paper_scale"]
    return "\n".join([*lines, "", "extrapolated to the paper's search: training "
                      f"{scale['training_hours']:.2f} h, evaluation "
                      f"{scale['evaluation_hours']:.2f} h "
                      f"({100 * scale['evaluation_share']:.0f} % of the total)",
                      f"ratio (worst case): {r['ratio']:.2f}"])


def main() -> None:
    p = parser("CARS: sparse against dense weight steps, and the cost of scoring candidates.")
    p.set_defaults(repeats=15)
    p.add_argument("--batch", type=count, nargs="+", default=[BATCH])
    p.add_argument("--channels", type=count, default=16)
    p.add_argument("--cells", type=count, default=8)
    p.add_argument("--image-size", type=count, default=32)
    p.add_argument("--images", type=count, default=IMAGES)
    p.add_argument("--score-batch", type=count, default=2500)
    p.add_argument("--candidates", type=count, default=5)
    run(p, measure, table)


if __name__ == "__main__":
    main()
