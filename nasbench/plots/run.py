"""The figures of one run: losses and accuracy, architecture weights, skip counts, live operations,
and whatever its strategy wants drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nasbench.plots.canvas import add_series, draw, finish, save
from nasbench.results.record import series as read_series

Plot = Mapping[str, Any]
TEST_ERROR = "test_error"


def save_run_plots(run_dir: str | Path, plots: Sequence[Plot] = (), *, retrained: bool = False
                   ) -> list[Path]:
    """Write RUN_DIR/figures/NAME.svg and .png from the run's journals and `plots` (the dicts of
    `Strategy.plots`, kept in RUN_DIR/plots.json for the report); returns the paths. `retrained`:
    only those that retraining has changed."""
    folder = Path(run_dir)
    if plots:
        (folder / "plots.json").write_text(json.dumps([dict(plot) for plot in plots]) + "\n",
                                           encoding="utf-8")
    config = folder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    series = read_series(folder)
    figures = run_figures(series, settings)
    journal = folder / "architecture.jsonl"
    if retrained:
        changed = {TEST_ERROR, *(_safe(plot["name"]) for plot in series.get("plots") or []
                                 if plot.get("retrained"))}
        figures = {name: figure for name, figure in figures.items() if name in changed}
    elif journal.is_file():
        names = (settings.get("search_space") or {}).get("operations") or []
        lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
        figures |= {f"edge_weights_{row}": _edges(lines, row, names)
                    for row in range(len(lines[0]["weights"]) if lines else 0)}
    return [path for name, figure in figures.items()
            for path in save(figure, folder / "figures" / name)]


def add_retrained(run_dir: str | Path, evaluations: Sequence[Mapping[str, Any]]) -> None:
    """Put the retrained networks on the figures of RUN_DIR/plots.json that ask for them with
    `retrained`, the name of a size such as params, at (size, test error in percent)."""
    path = Path(run_dir) / "plots.json"
    if not path.is_file():
        return
    specs = json.loads(path.read_text(encoding="utf-8"))
    for spec in specs:
        size = spec.get("retrained")
        points = [(e[size], e["test_error_percent"]) for e in evaluations
                  if size in e and e["test_error_percent"] is not None]
        if points:
            spec["series"]["retrained (test error)"] = points
    path.write_text(json.dumps(specs) + "\n", encoding="utf-8")


def run_figures(series: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Figure]:
    """Name -> figure, for whatever the series (of nasbench.results.record) hold."""
    search = series.get("search") or []
    found: dict[str, Figure] = {}
    specs = []
    if search:
        specs = [
            _epochs("loss", "Search: loss", "loss", search, ("train_loss", "valid_loss")),
            _epochs("supernet_accuracy", "Search: accuracy of the search network",
                    "supernet_valid_accuracy (%)", search, ("supernet_valid_accuracy",)),
            _epochs("skip_connects", "Skip connections of the derived normal cell",
                    "skip connections", search, ("skip_connects",)),
            _epochs("live_operations", "Operations still alive", "live operations", search,
                    ("live_operations",))]
    evaluate = series.get("evaluate") or []
    if evaluate:
        specs.append(_trainings(evaluate))
    for spec in [*specs, *(series.get("plots") or [])]:
        if any(spec["series"].values()):
            found[_safe(spec["name"])] = draw(spec)
    if series.get("architecture"):
        names = (config.get("search_space") or {}).get("operations")
        found["architecture_weights"] = _architecture(series["architecture"], names)
    return found


def _epochs(name: str, title: str, y_label: str, lines: Sequence[Mapping[str, Any]],
            keys: Sequence[str]) -> dict[str, Any]:
    points = {key: [(line["epoch"], line[key]) for line in lines if line.get(key) is not None]
              for key in keys}
    return {"name": name, "title": title, "x_label": "epoch", "y_label": y_label,
            "series": {key: found for key, found in points.items() if found}}


def _trainings(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Test error over epochs, one curve per retraining (epochs start again with each)."""
    curves: list[list[tuple[float, float]]] = []
    last = float("inf")
    for line in lines:
        if line["epoch"] <= last:
            curves.append([])
        last = line["epoch"]
        if line.get("test_error_percent") is not None:
            curves[-1].append((line["epoch"], line["test_error_percent"]))
    return {"name": TEST_ERROR, "title": "Retraining: test error", "x_label": "epoch",
            "y_label": "test error (%)",
            "series": {f"training {i}": curve for i, curve in enumerate(curves) if curve}}


def _architecture(epochs: Sequence[Mapping[str, Any]], names: Sequence[str] | None) -> Figure:
    """Weight of each operation, mean over edges, one panel per row (cell type, or cell)."""
    rows = len(epochs[0]["weights"])
    figure = Figure(figsize=(5.2 * min(rows, 2), 3.8 * ((rows + 1) // 2)), layout="constrained")
    panels = figure.subplots((rows + 1) // 2, min(rows, 2), squeeze=False).ravel()
    for row, axes in enumerate(panels[:rows]):
        for op in range(len(epochs[0]["weights"][row])):
            label = names[op] if names and op < len(names) else f"operation {op}"
            points = [(e["epoch"], e["weights"][row][op]) for e in epochs]
            add_series(axes, label, points, op, scatter=False)
        kind = ("normal cell", "reduction cell")[row] if rows == 2 else f"cell {row}"
        finish(axes, f"Architecture weights: {kind}", "epoch", "mean weight over edges")
    for axes in panels[rows:]:
        axes.remove()
    return figure


def _edges(epochs: Sequence[Mapping[str, Any]], row: int, names: Sequence[str]) -> Figure:
    """Weight of each operation on every edge of one row (cell type, or cell) over the epochs."""
    count = len(epochs[0]["weights"][row])
    columns = min(5, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(2.4 * columns, 1.9 * lines + 0.6), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    pairs = [(s, d) for d in range(2, count + 2) for s in range(d)]
    for edge, axes in enumerate(panels[:count]):
        for op in range(len(epochs[0]["weights"][row][edge])):
            points = [(e["epoch"], e["weights"][row][edge][op]) for e in epochs]
            add_series(axes, names[op] if op < len(names) else str(op), points, op, scatter=False)
        axes.set_title("edge {} -> {}".format(*pairs[edge]), fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in panels[count:]:
        axes.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return figure


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
