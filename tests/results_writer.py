"""Writes run folders and results as a run would leave them, for the tests of what reads them."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import Any

OPERATIONS = ["none", "skip_connect", "sep_conv_3x3"]


def graph(seed: int) -> dict[str, Any]:
    """A valid cell pair that depends on the seed."""
    rng = random.Random(seed)

    def cell() -> dict[str, Any]:
        edges = [[rng.choice(OPERATIONS[1:]), source, node] for node in (2, 3, 4, 5)
                 for source in sorted(rng.sample(range(node), 2))]
        return {"edges": edges, "concat": [2, 3, 4, 5]}

    return {"normal": cell(), "reduce": cell()}


def evaluation(genotype: dict[str, Any], name: str = "cell", error: float = 5.0, repeat: int = 0,
               **changes: Any) -> dict[str, Any]:
    return {"genotype": {"name": name, **genotype}, "repeat": repeat, "protocol": "smoke",
            "epochs": 12, "channels": 12, "cells": 5, "auxiliary": True, "params": 123_456,
            "mult_adds": 7_000_000, "test_error_percent": error,
            "best_epoch_test_error_percent": error - 0.5, "train_seconds": 20.0,
            "peak_memory_bytes": None} | changes


def result(algorithm: str = "alpha", seed: int = 0, percent: float = 5.0, dataset: str = "digits",
           given: bool = False, repeats: int = 1, genotype: dict[str, Any] | None = None,
           cell: str | None = None, settings: dict[str, Any] | None = None,
           protocol: str = "smoke", search_protocol: str = "smoke", run_id: str | None = None,
           evaluate: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A finished result with test error `percent`. settings: {"group.key": value} on top of a small
    configuration; evaluate: fields of the evaluation entries; changes: top-level fields."""
    genotype = genotype or graph(zlib.crc32(f"{algorithm}{seed}".encode()))
    cell = cell or algorithm
    config: dict[str, Any] = {
        "algorithm": {"name": algorithm, "_target_": "x.Y", "lam": 0.5, "paper": {"a": 1}},
        "search": {"protocol": search_protocol, "epochs": 4},
        "evaluation": {"protocol": protocol, "epochs": 12, "channels": 12, "cells": 5,
                       "genotype": None, "repeats": repeats},
        "dataset": {"name": dataset, "image_size": 8, "root": "/home/someone/data"},
        "search_space": {"operations": OPERATIONS}, "early_stop": {"name": "none"}, "seed": seed,
        "run_dir": "/home/someone/run"}
    for key, value in (settings or {}).items():
        group, _, name = key.partition(".")
        config[group][name] = value
    search = None if given else {
        "protocol": search_protocol, "epochs": 4, "seconds": 10.0 + seed, "gpu_days": None,
        "stop_reason": "budget", "peak_memory_bytes": None, "images_per_second": 100.0,
        "genotypes": [{"name": cell, "genotype": genotype, "derivation": "a rule",
                       "supernet_valid_accuracy": 90.0 - percent / 2, "params": 123_456,
                       "mult_adds": 7_000_000}]}
    fields = {key: config["evaluation"][key] for key in ("epochs", "channels", "cells")}
    return {
        "schema": "nasbench.result/1", "status": "done", "error": None,
        "run_id": run_id or f"{algorithm}-{dataset}-s{seed}" + ("-given" if given else ""),
        "algorithm": algorithm, "dataset": dataset, "seed": seed, "config": config,
        "commit": "0123456789abcdef", "versions": {"torch": "2.0"},
        "hardware": {"device": "cpu", "name": "Test CPU", "count": 1, "memory_bytes": None},
        "started": "2024-01-01T00:00:00+00:00", "finished": "2024-01-01T00:10:00+00:00",
        "search": search,
        "evaluation": [evaluation(genotype, cell, percent + 0.1 * i, i, protocol=protocol,
                                  **{**fields, **(evaluate or {})}) for i in range(repeats)],
    } | changes


def write_run(folder: Path, content: dict[str, Any], epochs: int = 4) -> Path:
    """A run folder: result.json, config.json, metrics.jsonl, architecture.jsonl, plots.json."""
    run = folder / content["run_id"]
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps(content), encoding="utf-8")
    (run / "config.json").write_text(json.dumps(content["config"]), encoding="utf-8")
    lines = [{"phase": "search", "epoch": e, "train_loss": 2.0 / (e + 1),
              "valid_loss": 2.1 / (e + 1), "supernet_valid_accuracy": 50.0 + 5 * e,
              "learning_rate": 0.025, "live_operations": 28 - e, "skip_connects": e % 3,
              "temperature": 1.6 * 0.9 ** e,
              "seconds": {"data": 0.1, "architecture": 1.0, "weights": 2.0, "evaluation": 0.4}}
             for e in range(epochs)]
    lines += [{"phase": "evaluate", "epoch": e, "train_loss": 1.0 / (e + 1),
               "test_error_percent": 20.0 / (e + 1)} for e in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines),
                                       encoding="utf-8")
    weights = [[[0.2, 0.3, 0.5]] * 14] * 2
    (run / "architecture.jsonl").write_text(
        "".join(json.dumps({"epoch": e, "weights": weights}) + "\n" for e in range(epochs)),
        encoding="utf-8")
    plot = {"name": "temperature", "title": "Temperature", "x_label": "epoch", "y_label": "T",
            "series": {"T": [[e, 1.6 * 0.9 ** e] for e in range(epochs)]}}
    (run / "plots.json").write_text(json.dumps([plot]), encoding="utf-8")
    return run


def write_record(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content['run_id']}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
