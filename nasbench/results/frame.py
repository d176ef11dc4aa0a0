"""`load`: every measured number in one tidy frame, one row per (run, genotype, evaluation)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from nasbench.results import schema
from nasbench.results.settings import EVALUATION_GROUPS, SEARCH_GROUPS, relevant

RECORDS = Path("results/records")
RUNS = Path("results/runs")

# column -> (pandas type, meaning)
COLUMNS: dict[str, tuple[str, str]] = {
    "run_id": ("str", "name of the run, from its configuration"),
    "algorithm": ("str", "configured algorithm; meaningful where `searched`"),
    "dataset": ("str", "data set of search and retraining"),
    "seed": ("Int64", ""),
    "searched": ("bool", "this run searched the cell; otherwise it was given"),
    "cell": ("str", "name of the genotype"),
    "genotype": ("str", "cell graph as JSON"),
    "genotype_id": ("str", "equal for equal graphs, whatever the order of edges"),
    "derivation": ("str", "rule by which the cell was derived"),
    "supernet_valid_accuracy": ("Float64", "percent, on search_valid"),
    "search_protocol": ("str", "paper, smoke, ..."),
    "search_settings": ("str", "deciding settings of the search, JSON"),
    "search_epochs": ("Int64", "epochs run"),
    "search_seconds": ("Float64", "search cost, candidate evaluation included"),
    "gpu_days": ("Float64", "search cost; missing on a CPU"),
    "stop_reason": ("str", ""),
    "search_peak_memory_bytes": ("Int64", "missing on a CPU"),
    "images_per_second": ("Float64", "of the search"),
    "protocol": ("str", "retraining protocol"),
    "evaluation_settings": ("str", "deciding settings of the retraining, JSON"),
    "repeat": ("Int64", "index among retrainings of this cell in this run"),
    "epochs": ("Int64", "retraining epochs"),
    "channels": ("Int64", "of the final network"),
    "cells": ("Int64", "of the final network"),
    "auxiliary": ("boolean", "trained with an auxiliary head (never counted in params)"),
    "params": ("Int64", "without auxiliary head, at retraining scale"),
    "mult_adds": ("Int64", "convolution + linear, batch 1, no auxiliary head"),
    "test_error_percent": ("Float64", "after the last epoch: the result"),
    "best_epoch_test_error_percent": ("Float64", "lowest over epochs; never the result"),
    "train_seconds": ("Float64", "retraining time"),
    "peak_memory_bytes": ("Int64", "of the retraining; missing on a CPU"),
    "device": ("str", "cpu or cuda"),
    "device_name": ("str", ""),
    "device_count": ("Int64", ""),
    "commit": ("str", ""),
    "versions": ("str", "JSON"),
    "started": ("str", "ISO 8601"),
    "finished": ("str", "ISO 8601"),
    "source": ("str", "file the row was read from"),
}


def load(records: str | Path = RECORDS, runs: str | Path | None = RUNS) -> pd.DataFrame:
    """Finished results of both folders, columns as in COLUMNS. A cell that was searched but not
    retrained has a row without test error.

    `frame.attrs["problems"]` lists what was left out: {"path", "kind", "message"}, kind one of
    broken, foreign, incomplete, failed, duplicate, other (another task). Missing folders are empty.
    A run that is also recorded counts once, as its record, and is no problem.
    """
    rows: list[dict[str, Any]] = []
    problems: list[dict[str, str]] = []
    seen: dict[str, tuple[Path, str, bool]] = {}
    for path, recorded in [*((p, True) for p in _records(Path(records))),
                           *((p, False) for p in (_runs(Path(runs)) if runs else ()))]:
        try:
            result = schema.read(path)
            if result["status"] != "done":
                kind = "failed" if result["status"] == "failed" else "incomplete"
                problems.append(_problem(path, kind, _why(result)))
                continue
            task = result["config"].get("task", "search")
            if task != "search":
                problems.append(_problem(path, "other", f"a {task} run has no row in these tables"))
                continue
            schema.check_finished(result)
        except schema.ForeignSchema as error:
            problems.append(_problem(path, "foreign", str(error)))
            continue
        except FileNotFoundError:
            problems.append(_problem(path, "incomplete", "the run folder has no result.json"))
            continue
        except (ValueError, OSError) as error:
            problems.append(_problem(path, "broken", str(error)))
            continue
        first = seen.get(result["run_id"])
        if first is not None:
            if not (first[2] and not recorded and first[1] == result.get("finished")):
                problems.append(_problem(path, "duplicate", f"run {result['run_id']} is already "
                                                            f"read from {first[0]}"))
            continue
        seen[result["run_id"]] = (path, result.get("finished") or "", recorded)
        rows += result_rows(result, str(path))
    frame = pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=kind)
                          for name, (kind, _) in COLUMNS.items()})
    frame.attrs["problems"] = problems
    return frame


def result_rows(result: dict[str, Any], source: str) -> Iterator[dict[str, Any]]:
    """The tidy rows of one finished result."""
    config, hardware = result["config"], result["hardware"]
    search = result.get("search")
    common = {key: result.get(key) for key in
              ("run_id", "algorithm", "dataset", "seed", "commit", "started", "finished")}
    common |= {"device": hardware.get("device"), "device_name": hardware.get("name"),
               "device_count": hardware.get("count"), "source": source,
               "versions": json.dumps(result["versions"], sort_keys=True),
               "evaluation_settings": relevant(config, EVALUATION_GROUPS)}
    derived: dict[str, dict[str, Any]] = {}
    if search is not None:
        common |= {"search_protocol": search["protocol"], "search_epochs": search["epochs"],
                   "search_settings": relevant(config, SEARCH_GROUPS),
                   "search_seconds": search["seconds"], "gpu_days": search.get("gpu_days"),
                   "stop_reason": search.get("stop_reason"),
                   "search_peak_memory_bytes": search.get("peak_memory_bytes"),
                   "images_per_second": search.get("images_per_second")}
        derived = {genotype_id(found["genotype"]): found for found in search["genotypes"]}
    repeats: dict[str, int] = {}
    for evaluation in result["evaluation"]:
        graph = {kind: evaluation["genotype"][kind] for kind in ("normal", "reduce")}
        identity = genotype_id(graph)
        found = derived.get(identity)
        repeat = repeats[identity] = repeats.get(identity, -1) + 1
        yield {**common, "searched": found is not None, "genotype_id": identity,
               "genotype": json.dumps(graph), "repeat": evaluation.get("repeat", repeat),
               "cell": str((found or evaluation["genotype"]).get("name") or "cell"),
               **_derivation(found),
               **{key: evaluation.get(key) for key in (
                   "protocol", "epochs", "channels", "cells", "auxiliary", "params", "mult_adds",
                   "test_error_percent", "best_epoch_test_error_percent", "train_seconds",
                   "peak_memory_bytes")}}
    for identity, found in derived.items():
        if identity not in repeats:
            yield {**common, "searched": True, "genotype_id": identity, "cell": found["name"],
                   "genotype": json.dumps(found["genotype"]), **_derivation(found),
                   "params": found["params"], "mult_adds": found["mult_adds"]}


def genotype_id(graph: dict[str, Any]) -> str:
    """Twelve hex digits that two equal cell pairs share."""
    canonical = [[sorted(map(list, graph[kind]["edges"])), list(graph[kind]["concat"])]
                 for kind in ("normal", "reduce")]
    return hashlib.sha1(json.dumps(canonical).encode()).hexdigest()[:12]


def _derivation(found: dict[str, Any] | None) -> dict[str, Any]:
    return {key: (found or {}).get(key) for key in ("derivation", "supernet_valid_accuracy")}


def _records(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _runs(folder: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(folder):
        folders.sort()
        if "result.json" in files or "metrics.jsonl" in files:
            folders.clear()
            yield Path(directory, "result.json")


def _why(result: dict[str, Any]) -> str:
    reason = " ".join(str(result.get("error") or result.get("reason") or "").split())
    return f"status is {result['status']}" + (f": {reason}" if reason else "")


def _problem(path: Path, kind: str, message: str) -> dict[str, str]:
    return {"path": str(path), "kind": kind, "message": message}
