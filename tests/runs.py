"""Tiny real runs on the embedded digits, and the comparison of two finished run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nasbench.configuration import compose
from nasbench.display import Display
from nasbench.runner import execute

TINY = ["dataset=digits", "dataset.limit_train=128", "dataset.limit_test=64",
        "search_space.operations=[none,skip_connect,sep_conv_3x3]", "search.batch_size=32",
        "search.channels=4", "search.cells=3", "evaluation.batch_size=32", "evaluation.channels=4",
        "evaluation.cells=2", "evaluation.epochs=2", "hardware=cpu", "hardware.threads=1",
        "search_space.implementation=auto"]
VOLATILE = {"seconds", "seconds_by_section", "train_seconds", "images_per_second", "started",
            "finished", "run_id", "config", "commit"}


def quiet() -> Display:
    return Display(Console(quiet=True))


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    """A quiet run in this process."""
    return execute(compose([*TINY, *overrides, f"run_dir={folder}"]), quiet())


def lasting(value: Any) -> Any:
    """Without what may differ between two equal runs."""
    if isinstance(value, dict):
        return {k: lasting(v) for k, v in value.items() if k not in VOLATILE}
    return [lasting(v) for v in value] if isinstance(value, list) else value


def same_tensors(a: Any, b: Any) -> bool:
    """Equal bit for bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.equal(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_tensors(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same_tensors(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def assert_same_run(one: Path, two: Path) -> None:
    """Results, every journal line, and all weights and states of two run folders are equal."""
    for name in ("metrics.jsonl", "genotypes.jsonl", "architecture.jsonl"):
        lines = [[lasting(json.loads(line)) for line in (folder / name).read_text().splitlines()]
                 if (folder / name).exists() else None for folder in (one, two)]
        assert lines[0] == lines[1], name
    results = [lasting(json.loads((folder / "result.json").read_text())) for folder in (one, two)]
    assert results[0] == results[1]
    weights = sorted(p.name for p in one.glob("*.pt") if not p.name.startswith("checkpoint"))
    assert weights == sorted(p.name for p in two.glob("*.pt")
                             if not p.name.startswith("checkpoint"))
    assert weights
    for name in weights:
        assert same_tensors(*(torch.load(f / name, weights_only=True) for f in (one, two))), name
