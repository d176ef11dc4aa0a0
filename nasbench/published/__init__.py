"""The papers' numbers as data: tables, what our rows correspond to, and hyper-parameters.

`*_cifar10.csv` and the like hold one published table each, all with the columns of COLUMNS. Empty
means the paper does not print it. `papers.json` says which tables make up a paper, which measured
rows answer which published row, and under which retraining protocol the two may be compared.
`hyperparameters.csv` holds what the presets of `conf/experiment` are held against. No number of our
own is in this folder.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent

COLUMNS = {
    "paper": "the paper the table stands in",
    "table": "table or figure number",
    "dataset": "data set of the error, as conf/dataset names it where we have it",
    "architecture": "row label as printed",
    "search_dataset": "data set the cell was searched on, where the table distinguishes it",
    "error_percent": "top-1 test error, percent",
    "error_std": "printed spread, percentage points",
    "error_best_percent": "best single number, where printed beside the mean",
    "top5_error_percent": "top-5 test error, percent",
    "params_millions": "parameters, 1e6",
    "params_std": "printed spread of the parameters, 1e6",
    "mult_adds_millions": "as printed, 1e6; the papers' counters differ, see our own column",
    "latency_ms": "milliseconds, device in the note",
    "search_cost_gpu_days": "as printed; devices differ between papers",
    "search_method": "gradient, evolution, RL, ...",
    "protocol": "retraining protocol where it departs from its neighbours'",
    "note": "what a reader should know",
    "confidence": "high, medium, low (recalled, never shown as fact), missing (not available)",
    "source": "where it was read",
}
NUMBERS = tuple(name for name in COLUMNS if name.startswith(("error_", "top5_", "params_", "mult_",
                                                             "latency_", "search_cost_")))
CONFIDENCES = ("high", "medium", "low", "missing")


@dataclass(frozen=True)
class Published:
    """One published row; numbers are floats or None."""

    paper: str
    table: str
    dataset: str
    architecture: str
    search_dataset: str
    error_percent: float | None
    error_std: float | None
    error_best_percent: float | None
    top5_error_percent: float | None
    params_millions: float | None
    params_std: float | None
    mult_adds_millions: float | None
    latency_ms: float | None
    search_cost_gpu_days: float | None
    search_method: str
    protocol: str
    note: str
    confidence: str
    source: str


@cache
def index() -> dict[str, Any]:
    """papers.json."""
    return json.loads((_FOLDER / "papers.json").read_text(encoding="utf-8"))


def paper(key: str) -> dict[str, Any]:
    """A paper's entry of papers.json; ValueError for an unknown one."""
    papers = index()["papers"]
    if key not in papers:
        raise ValueError(f"unknown paper {key!r}; known: {', '.join(papers)}")
    return papers[key]


@cache
def table(name: str) -> tuple[Published, ...]:
    """The rows of one CSV, in the paper's order; ValueError when it breaks the schema."""
    path = _FOLDER / name
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(COLUMNS):
            raise ValueError(f"{name}: columns are {reader.fieldnames}, expected {list(COLUMNS)}")
        return tuple(_row(record, f"{name}, row {i}") for i, record in enumerate(reader, 1))


def _row(record: dict[str, str], where: str) -> Published:
    values: dict[str, Any] = dict(record)
    for name in NUMBERS:
        try:
            values[name] = float(record[name]) if record[name] else None
        except ValueError:
            raise ValueError(f"{where}: {name} is {record[name]!r}, not a number") from None
    if values["confidence"] not in CONFIDENCES:
        raise ValueError(f"{where}: confidence is {values['confidence']!r}")
    return Published(**values)


def hyperparameters() -> list[dict[str, str]]:
    """The rows of hyperparameters.csv: experiment, key, value (JSON), how_known, source, remark."""
    with (_FOLDER / "hyperparameters.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
