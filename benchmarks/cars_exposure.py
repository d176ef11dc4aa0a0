"""Which operations CARS keeps training under each selection rule: real searches on the digits.

    python -m benchmarks.cars_exposure [--json] [--threads N] [--seeds 0 1 2 3 4]
                                       [--rules pnsga3 nsga2] [--set KEY=VALUE ...]

The small-model trap: while the shared weights are young, small networks are ahead; plain selection
drops large ones, which are then not trained and never recover. `exposure` is the share of separable
convolutions among the operations that training steps ran, per generation; a uniform population has
2 of 7 (the first generation counts the warm-up, too). `late` is its mean over the second half of
the generations, `large_end` the 90 % quantile of the last population's parameters. `wrong_sign` is
the control: the second sorting prefers small networks too, so that it protects nothing. `ratio` is
the smallest late exposure under a rule of CARS over that under NSGA-II, means over the seeds.
`--set` changes the configuration.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from algorithms import pareto
from algorithms.cars import CARS
from algorithms.strategy import Problem
from benchmarks.measuring import environment
from nasbench.clock import Clock
from nasbench.configuration import compose
from nasbench.data import search_data
from nasbench.measure import FinalMeasures
from nasbench.schedules import cosine
from nasbench.search.score import Scorer
from nasbench.search.weights import SupernetWeights
from nasbench.setup_run import prepare
from search_spaces.darts.fast import build_search_network

LARGE = ("sep_conv_3x3", "sep_conv_5x5")
RULES = {"pnsga3": ["algorithm.speed=checkpoint_difference"],
         "accuracy_proxy": ["algorithm.speed=accuracy_proxy"],
         "nsga2": ["algorithm.selection=nsga2"],
         "wrong_sign": ["algorithm.speed=checkpoint_difference"]}
PROTECTED = ("pnsga3", "accuracy_proxy")
SMALL = ["algorithm=cars", "dataset=digits", "dataset.limit_train=480", "hardware=cpu",
         "search_space.nodes=3", "search.channels=4", "search.cells=3", "search.batch_size=16",
         "search.epochs=10", "evaluation.channels=8", "evaluation.cells=3",
         "algorithm.population=12", "algorithm.warmup_epochs=2",
         "algorithm.epochs_per_generation=1", "algorithm.family_size=1"]


def wrong_sign(error: pareto.Floats, speed: pareto.Floats, costs: pareto.Floats
               ) -> list[pareto.Integers]:
    """Both sortings minimise the cost."""
    return [pareto.ranks(np.column_stack([first, costs])) for first in (error, -speed)]


def search(rule: str, seed: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """One search: `exposure` per generation, `late` and `large_end`."""
    parts = prepare(compose([*SMALL, f"seed={seed}", *RULES[rule], *overrides]))
    s, strategy, clock = parts.search, parts.strategy, Clock()
    assert isinstance(strategy, CARS)
    if rule == "wrong_sign":
        strategy._sortings = wrong_sign  # type: ignore[method-assign]
    torch.manual_seed(seed)
    network = build_search_network(
        parts.space, s.channels, s.cells, parts.info.classes, image_size=parts.info.image_size,
        in_channels=parts.info.channels)
    data = search_data(parts.dataset, valid_fraction=s.valid_fraction, train_fraction=None,
                       device="cpu", workers=0)
    weights = SupernetWeights(network, learning_rate=s.learning_rate, momentum=s.momentum,
                              weight_decay=s.weight_decay, grad_clip=s.grad_clip,
                              precision=parts.precision, clock=clock)
    valid = list(data.search_valid.once(s.score_batch_size))
    score = Scorer(network, lambda: valid, lambda: [], batch_norm=s.batch_norm,
                   precision=parts.precision, clock=clock)
    measure = FinalMeasures(parts.final_network, parts.info.channels, parts.info.image_size,
                            parts.device)
    strategy.setup(Problem(network, weights, score, lambda split, n, seed: [], measure,
                           torch.Generator().manual_seed(seed)))
    batches = data.search_train.batches(
        s.batch_size, seed=seed, augmentation=parts.dataset.augmentation(cutout=0, policy=None))
    exposure = []
    for epoch in range(s.epochs):
        weights.lr = cosine(epoch, s.epochs, s.learning_rate, s.learning_rate_min)
        for _ in range(data.search_train.steps_per_epoch(s.batch_size)):
            strategy.search_step(next(batches), None)
        row = strategy.on_epoch_end(epoch)
        if row:
            exposure.append(sum(row["exposure"][name] for name in LARGE))
    sizes = [strategy.costs[one][0] for one in strategy.population]
    return {"seed": seed, "exposure": exposure,
            "late": statistics.fmean(exposure[len(exposure) // 2:]),
            "large_end": float(np.quantile(sizes, 0.9))}


def summary(rule: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    late = [run["late"] for run in runs]
    return {"rule": rule, "late_mean": statistics.fmean(late),
            "late_std": statistics.stdev(late) if len(late) > 1 else None,
            "large_end_mean": statistics.fmean(run["large_end"] for run in runs), "runs": runs}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's)")
    p.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    p.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], dest="overrides")
    a = p.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    cases = []
    for rule in a.rules:
        runs = []
        for seed in a.seeds:
            runs.append(search(rule, seed, a.overrides))
            print(f"{rule}, seed {seed}: late exposure {runs[-1]['late']:.3f}, 90 % size "
                  f"{runs[-1]['large_end']:.0f}", file=sys.stderr, flush=True)
        cases.append(summary(rule, runs))
    late = {case["rule"]: case["late_mean"] for case in cases}
    ratio = min((late[r] / late["nsga2"] for r in PROTECTED if r in late), default=None) \
        if "nsga2" in late else None
    result = {"benchmark": "cars_exposure", "ratio": ratio, **environment(torch.device("cpu")),
              "uniform": len(LARGE) / 7, "settings": [*SMALL, *a.overrides], "cases": cases}
    if a.json:
        print(json.dumps(result, indent=1))
        return
    print(f"separable convolutions in training, uniform {result['uniform']:.3f}, seeds {a.seeds}")
    for case in cases:
        spread = "" if case["late_std"] is None else f" ± {case['late_std']:.3f}"
        print(f"{case['rule']:>15} {case['late_mean']:.3f}{spread}, 90 % size "
              f"{case['large_end_mean']:.0f}")
    if ratio is not None:
        print(f"ratio (worst case): {ratio:.2f}")


if __name__ == "__main__":
    main()
