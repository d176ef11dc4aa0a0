"""Figures across runs: error against size and search cost with published points, anytime curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nasbench.plots.canvas import COLOURS, MARKERS, SIZE, add_series, finish
from nasbench.published import Published
from nasbench.tables.groups import Group

MAX_GROUPS = 12
MAX_POINTS = 2_000  # of one group; more are drawn as an even sample


def error_against_params(groups: Sequence[tuple[str, Group]], published: Sequence[Published],
                         title: str) -> Figure:
    """Test error over parameters: a point per training, the front of all measured points, published
    rows as crosses."""
    figure, axes = _axes()
    everything: list[tuple[float, float]] = []
    for i, (label, group) in enumerate(groups[:MAX_GROUPS]):
        part = group.frame.dropna(subset=["params"])
        points = list(zip((part["params"] / 1e6).tolist(), part["test_error_percent"].tolist(),
                          strict=True))
        everything += points
        add_series(axes, label, points[::1 + len(points) // MAX_POINTS], i, scatter=True)
    front = pareto_front(everything)
    if len(front) > 1:
        axes.step(*zip(*front, strict=True), where="post", color=COLOURS[-1], linewidth=1,
                  label="measured front")
    _crosses(axes, [(r.params_millions, r.error_percent) for r in published])
    finish(axes, title, "parameters (M)", "test error (%)")
    return figure


def error_against_cost(groups: Sequence[tuple[str, Group]], published: Sequence[Published],
                       title: str) -> Figure | None:
    """Mean test error over search cost in GPU-days (log); None where neither is known."""
    figure, axes = _axes()
    drawn = False
    for i, (label, group) in enumerate(groups[:MAX_GROUPS]):
        days = group.mean("gpu_days")
        if days:
            drawn = True
            axes.errorbar([days], [group.summary.mean], yerr=[group.summary.std or 0.0],
                          color=COLOURS[i % len(COLOURS)], fmt=MARKERS[i % len(MARKERS)],
                          capsize=3, label=label)
    drawn |= _crosses(axes, [(r.search_cost_gpu_days or None, r.error_percent) for r in published])
    if not drawn:
        return None
    axes.set_xscale("log")
    finish(axes, title, "search cost (GPU-days, devices differ)", "test error (%)")
    return figure


def anytime(curves: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], title: str
            ) -> Figure | None:
    """Accuracy of the search network against search time: per label, the runs' epochs (with
    `elapsed` and `supernet_valid_accuracy`); one thin line per run. None without any."""
    figure, axes = _axes()
    drawn = False
    for i, (label, runs) in enumerate(list(curves.items())[:MAX_GROUPS]):
        for j, epochs in enumerate(runs):
            points = [(e["elapsed"], e["supernet_valid_accuracy"]) for e in epochs
                      if e.get("elapsed") is not None
                      and e.get("supernet_valid_accuracy") is not None]
            drawn |= bool(points)
            add_series(axes, label if j == 0 else "_", points, i, scatter=False)
    if not drawn:
        return None
    finish(axes, title, "search time (s)", "supernet_valid_accuracy (%)")
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points no other is at least as good as in both coordinates (lower is better), by x."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return front


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.subplots()


def _crosses(axes: Axes, points: Sequence[tuple[float | None, float | None]]) -> bool:
    kept = [(x, y) for x, y in points if x is not None and y is not None]
    if kept:
        axes.scatter([x for x, _ in kept], [y for _, y in kept], marker="x", s=30,
                     color="#888888", linewidths=1.2, label="published (own protocols)")
    return bool(kept)
