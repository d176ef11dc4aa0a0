"""What a CARS search records of each generation, and the figures drawn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from algorithms import pareto
from algorithms.strategy import Metrics
from search_spaces import CellSpace

LABELS = {"params": "parameters", "mult_adds": "multiply-adds", "latency_ms": "latency (ms)"}


def exposure(sampled: Mapping[int, int], space: CellSpace) -> Metrics:
    """Share of each operation, and of all with weights, among those that training steps ran since
    the previous generation (before the first one that includes the warm-up)."""
    total = max(1, sum(sampled.values()))
    shares = {name: sampled.get(o, 0) / total for o, name in enumerate(space.operations)
              if o in space.real}
    return {"exposure": shares,
            "learnable_exposure": sum(shares[space.operations[o]] for o in space.learnable)}


def describe(error: pareto.Floats, costs: pareto.Floats, stage: pareto.Integers,
             names: Sequence[str], reference: Sequence[float], bins: int) -> Metrics:
    """The population in numbers.

    `front`: [error, first cost] of the first merged stage, by cost; `accuracy_front`: of those that
    no other dominates in error and costs; `size_histogram`: of the first cost, `bins` equal bins
    from 0 to its reference (larger ones in the last); `hypervolume` in (error, first cost) and
    `hypervolume_NAME` in (error, NAME) as a share of the reference box.
    """
    best = pareto.ranks(np.column_stack([error, costs])) == 0
    size, largest = costs[:, 0], reference[1]
    counts, _ = np.histogram(np.minimum(size, largest), bins, (0, largest))
    out: Metrics = {"front": _points(error, size, stage == 0),
                    "accuracy_front": _points(error, size, best),
                    "size_histogram": counts.tolist(), "candidate_best_error": float(error.min())}
    for j, name in enumerate(names):
        out["hypervolume" if j == 0 else f"hypervolume_{name}"] = pareto.hypervolume(
            np.stack([error, costs[:, j]], axis=1), [reference[0], reference[j + 1]])
    return out


def _points(error: pareto.Floats, cost: pareto.Floats, member: NDArray[np.bool_]
            ) -> list[list[float]]:
    """[error, cost] of the members, by cost."""
    order = np.flatnonzero(member)[np.argsort(cost[member], kind="stable")]
    return np.stack([error[order], cost[order]], axis=1).tolist()


def plots(history: Sequence[Metrics], cost: str) -> list[dict[str, Any]]:
    """Fronts over the generations, the final front, and three shares per generation."""
    generations = [row for row in history if "generation" in row]
    if not generations:
        return []
    axes = {"x_label": LABELS[cost], "y_label": "search-validation error (%)", "kind": "scatter"}

    def scatter(row: Metrics, key: str) -> list[tuple[float, float]]:
        return [(size, error) for error, size in row[key]]

    def line(key: str) -> list[tuple[float, float]]:
        return [(row["generation"], row[key]) for row in generations if row[key] is not None]

    shown = sorted({round(i * (len(generations) - 1) / 5) for i in range(6)})
    last = generations[-1]
    return [
        {"name": "fronts", "title": "Accuracy fronts over the generations", **axes,
         "series": {f"generation {row['generation']}": scatter(row, "accuracy_front")
                    for row in (generations[i] for i in shown)}},
        {"name": "final_front", "title": "Final front", **axes, "retrained": cost,
         "series": {"merged front": scatter(last, "front"),
                    "accuracy front": scatter(last, "accuracy_front")}},
        {"name": "population", "title": "Population", "x_label": "generation", "y_label": "share",
         "series": {"hypervolume": line("hypervolume"),
                    "operations with weights in training": line("learnable_exposure"),
                    "rank stability (Kendall tau)": line("candidate_rank_stability")}}]
