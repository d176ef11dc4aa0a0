"""From a finished run folder to one small committed file: the result and its curves."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from nasbench.results import schema

MAX_POINTS = 120  # per curve: a 600-epoch retraining stays a few kilobytes


def record(run_dir: str | Path, records: str | Path = "results/records") -> Path:
    """Write RECORDS/RUN_ID.json from RUN_DIR/result.json and its series; returns the path.

    Raises ValueError for a run that is not finished, broken or foreign; OSError when a file cannot
    be read or written.
    """
    folder = Path(run_dir)
    source = folder / "result.json"
    if not source.is_file():
        raise ValueError(f"{folder}: no result.json; give the folder of a finished run")
    try:
        result = schema.read(source)
        if result["status"] != "done":
            raise ValueError(f"status is {result['status']}; only finished runs are recorded")
        schema.check_finished(result)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    for section, key in ((result["config"], "run_dir"),
                         (result["config"].get("dataset"), "root")):
        if isinstance(section, dict) and key in section:
            section[key] = None  # where it ran on that machine is nobody's business
    target = Path(records) / f"{result['run_id']}.json"
    if Path(result["run_id"]).name != result["run_id"]:
        raise ValueError(f"{source}: run_id {result['run_id']!r} cannot be a file name")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        kept = schema.read(target)
        if any(kept[key] != result[key] for key in ("started", "seed", "config")):
            raise ValueError(f"{target}: holds the record of another run called "
                             f"{result['run_id']}; rename {folder}")
    text = json.dumps({**result, "series": series(folder)}, indent=None, separators=(",", ":"))
    temporary = target.with_suffix(".tmp")
    temporary.write_text(_wrapped(text) + "\n", encoding="utf-8")
    os.replace(temporary, target)
    return target


def series(folder: Path) -> dict[str, Any]:
    """Curves of a run folder or record file: {"search": [...], "evaluate": [...], "plots": [...],
    "architecture": [...]}; absent files are empty lists. `elapsed` is the search time so far, in
    seconds; `architecture` is the mean over edges, [rows][operations], per epoch.
    """
    if folder.is_file():
        found = json.loads(folder.read_text(encoding="utf-8")).get("series")
        return found if isinstance(found, dict) else {}
    lines = read_lines(folder / "metrics.jsonl")
    elapsed = 0.0
    phases: dict[str, list[dict[str, Any]]] = {"search": [], "evaluate": []}
    for line in lines:
        line = {key: _rounded(value) for key, value in line.items() if key != "phase"} | {
            "phase": line.get("phase")}
        phase = line.pop("phase")
        if phase == "search":
            seconds = line.get("seconds")
            elapsed += sum(v for v in seconds.values() if isinstance(v, int | float)) \
                if isinstance(seconds, dict) else 0.0
            line["elapsed"] = round(elapsed, 2)
        phases.setdefault(str(phase), []).append(line)
    plots = []
    if (folder / "plots.json").is_file():
        plots = json.loads((folder / "plots.json").read_text(encoding="utf-8"))
    architecture = [{"epoch": item["epoch"], "weights": _mean_over_edges(item["weights"])}
                    for item in thinned(read_lines(folder / "architecture.jsonl"))
                    if item.get("weights")]
    return {**{phase: thinned(items) for phase, items in phases.items()}, "plots": plots,
            "architecture": architecture}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file; a torn last line (a killed run) is dropped."""
    if not path.is_file():
        return []
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            item = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(item, dict):
            found.append(item)
    return found


def thinned(items: list[Any], limit: int = MAX_POINTS) -> list[Any]:
    """At most `limit` items, evenly spaced, the first and last among them."""
    if len(items) <= limit:
        return items
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value


def _mean_over_edges(weights: list[list[list[float]]]) -> list[list[float]]:
    return [[round(sum(column) / len(row), 5) for column in zip(*row, strict=True)]
            for row in weights]


def _wrapped(text: str) -> str:
    """One line per top-level field would need a serialiser of our own; a break before each epoch is
    enough to keep diffs readable."""
    return text.replace('{"epoch"', '\n{"epoch"').replace('"series"', '\n"series"')
