"""`result.json`, schema `nasbench.result/1`: the fields a result must have, checked when read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SCHEMA = "nasbench.result/1"
STATUSES = ("running", "done", "interrupted", "failed")

_NUMBER = (int, float)
_TOP: dict[str, tuple[type, ...]] = {
    "status": (str,), "run_id": (str,), "algorithm": (str,), "dataset": (str,), "seed": (int,),
    "config": (dict,), "versions": (dict,), "hardware": (dict,), "started": (str,),
}
_SEARCH: dict[str, tuple[type, ...]] = {
    "protocol": (str,), "epochs": (int,), "seconds": _NUMBER, "genotypes": (list,),
}
_DERIVED: dict[str, tuple[type, ...]] = {
    "name": (str,), "genotype": (dict,), "derivation": (str,), "params": (int,),
    "mult_adds": (int,),
}
_EVALUATION: dict[str, tuple[type, ...]] = {
    "genotype": (dict,), "protocol": (str,), "epochs": (int,), "channels": (int,), "cells": (int,),
    "auxiliary": (bool,), "params": (int,), "mult_adds": (int,), "train_seconds": _NUMBER,
}

# A network measured on held-out training images (evaluation.holdout) has no test error.
_TESTED: dict[str, tuple[type, ...]] = {"test_error_percent": _NUMBER,
                                        "best_epoch_test_error_percent": _NUMBER}


class ForeignSchema(ValueError):
    """The file is JSON, but not a result of this schema."""


def read(path: Path) -> dict[str, Any]:
    """A result as plain Python. ValueError (ForeignSchema for another schema) with one line that
    does not repeat the path; OSError when unreadable."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"malformed JSON at line {error.lineno}: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError):
        raise ValueError("not a JSON text file") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise ForeignSchema(f"schema is {found!r}, expected {SCHEMA!r}")
    _check(data, _TOP, "")
    if data["status"] not in STATUSES:
        raise ValueError(f"field status: {data['status']!r} is none of {', '.join(STATUSES)}")
    return data


def check_finished(data: dict[str, Any]) -> None:
    """ValueError unless a `done` result holds everything a table needs."""
    search = data.get("search")
    if search is not None:
        if not isinstance(search, dict):
            raise ValueError("field search: expected an object or null")
        _check(search, _SEARCH, "search.")
        for i, derived in enumerate(search["genotypes"]):
            _check(derived, _DERIVED, f"search.genotypes[{i}].")
            _check_graph(derived["genotype"], f"search.genotypes[{i}].genotype")
    evaluations = data.get("evaluation")
    if not isinstance(evaluations, list):
        raise ValueError("field evaluation: expected a list")
    for i, evaluation in enumerate(evaluations):
        _check(evaluation, _EVALUATION, f"evaluation[{i}].")
        _check_graph(evaluation["genotype"], f"evaluation[{i}].genotype")
        held_out = evaluation.get("valid_error_percent") is not None
        _check(evaluation, {"valid_error_percent": _NUMBER} if held_out else _TESTED,
               f"evaluation[{i}].")
        if not held_out and not 0 <= evaluation["test_error_percent"] <= 100:
            raise ValueError(f"field evaluation[{i}].test_error_percent: "
                             f"{evaluation['test_error_percent']} is not a percentage")
    if search is None and not evaluations and not data.get("compress"):
        raise ValueError("holds neither a search, an evaluation nor a compression")


def _check(data: Any, fields: dict[str, tuple[type, ...]], prefix: str) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"field {prefix.rstrip('.')}: expected an object")
    for name, types in fields.items():
        value = data.get(name)
        if not isinstance(value, types) or isinstance(value, bool) and bool not in types:
            got = "missing" if name not in data else f"{type(value).__name__}"
            raise ValueError(f"field {prefix}{name}: expected "
                             f"{' or '.join(t.__name__ for t in types)}, got {got}")


def _check_graph(genotype: dict[str, Any], where: str) -> None:
    for kind in ("normal", "reduce"):
        cell = genotype.get(kind)
        if not (isinstance(cell, dict) and isinstance(cell.get("edges"), list)
                and isinstance(cell.get("concat"), list)):
            raise ValueError(f"field {where}.{kind}: expected a cell graph with edges and concat")
