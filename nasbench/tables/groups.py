"""Measured rows: which trainings share a mean, and which never do.

Two kinds of row answer two questions. *Mean over searches*: how good is the algorithm; one value
per search (the mean of its retrainings), n is the number of searches. *Repeated retraining of one
cell*: how good is this cell; one value per training, n is the number of trainings. Runs share a row
only when all deciding settings of search and retraining agree (nasbench.results.settings).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from nasbench.results.settings import distinguish
from nasbench.tables.statistics import Summary, summarise

SEARCHES = "mean over searches"
REPEATS = "repeated retraining of one cell"


@dataclass
class Group:
    """Trainings behind one measured row. `values`: test errors, one per search or per training;
    `seeds` and `runs` belong to them, in order."""

    basis: str
    algorithm: str | None
    cell: str
    genotype_id: str | None
    dataset: str
    protocol: str
    search_protocol: str | None
    search_settings: str
    evaluation_settings: str
    epochs: int
    channels: int
    cells: int
    values: list[float]
    seeds: list[int]
    runs: list[str]
    frame: pd.DataFrame
    variant: str = ""
    protocol_variant: str = ""
    names: list[str] = field(default_factory=list)

    @cached_property
    def summary(self) -> Summary:
        return summarise(self.values)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All deciding settings, {"group.key": value}."""
        return {**json.loads(self.search_settings or "{}"), **json.loads(self.evaluation_settings)}

    @property
    def protocol_text(self) -> str:
        """`darts600 (600 epochs, C=36, L=20)`, plus what tells it from its namesakes."""
        words = [f"{self.epochs} epochs", f"C={self.channels}", f"L={self.cells}"]
        words += [self.protocol_variant] if self.protocol_variant else []
        after = f"; search {self.search_protocol}" if self.search_protocol else ""
        return f"{self.protocol} ({', '.join(words)}){after}"

    def mean(self, column: str) -> float | None:
        """Mean of a column over this row's runs; None where nothing was measured."""
        values = self.frame.drop_duplicates("run_id")[column] if column in (
            "gpu_days", "search_seconds") else self.frame[column]
        values = values.dropna()
        return float(values.mean()) if len(values) else None

    @property
    def devices(self) -> str:
        return ", ".join(sorted({str(name) for name in self.frame["device_name"].dropna()}))


_EVALUATION = ["dataset", "protocol", "evaluation_settings", "epochs", "channels", "cells"]


def measured_groups(frame: pd.DataFrame) -> list[Group]:
    """All groups of a tidy frame, searches first, in the order of algorithm and cell."""
    done = frame[frame["test_error_percent"].notna()]
    groups = [*_searches(done[done["searched"]]), *_repeats(done)]
    _name_variants([g for g in groups if g.basis == SEARCHES],
                   lambda g: (g.dataset, g.algorithm, g.cell, g.search_protocol),
                   lambda g: g.search_settings, "variant")
    _name_variants(groups, lambda g: (g.dataset, g.protocol, g.epochs, g.channels, g.cells),
                   lambda g: g.evaluation_settings, "protocol_variant")
    return groups


def _searches(done: pd.DataFrame) -> Iterable[Group]:
    keys = ["algorithm", "cell", "search_protocol", "search_settings", *_EVALUATION]
    for key, part in done.groupby(keys, sort=True, dropna=False):
        values = dict(zip(keys, key, strict=True))
        runs = part.groupby("run_id", sort=False).agg(
            error=("test_error_percent", "mean"), seed=("seed", "first")).sort_values("seed")
        yield Group(SEARCHES, values["algorithm"], values["cell"], None, values["dataset"],
                    values["protocol"], values["search_protocol"], values["search_settings"],
                    values["evaluation_settings"], int(values["epochs"]), int(values["channels"]),
                    int(values["cells"]), runs["error"].tolist(), runs["seed"].tolist(),
                    runs.index.tolist(), part)


def _repeats(done: pd.DataFrame) -> Iterable[Group]:
    keys = ["genotype_id", *_EVALUATION]
    # The same cell trained with the same seed and settings is one training, however often it ran.
    unique = done.drop_duplicates([*keys, "seed", "repeat"])
    size = unique.groupby(keys, dropna=False)["run_id"].transform("size")
    given = (~unique["searched"]).groupby([unique[k] for k in keys], dropna=False).transform("any")
    # Where several searches were made, their repeats are in the mean over searches; a row for each
    # of their cells would only invite picking the best.
    family = ["algorithm", "cell", "searched", "search_settings", *_EVALUATION]
    alone = unique.groupby(family, dropna=False)["run_id"].transform("nunique") == 1
    origin = done[done["searched"]].drop_duplicates("genotype_id").set_index("genotype_id")
    for key, part in unique[(size > 1) & alone | given].groupby(keys, sort=True, dropna=False):
        values = dict(zip(keys, key, strict=True))
        found = origin.loc[key[0]] if key[0] in origin.index else None
        given_names = part.loc[~part["searched"], "cell"]
        yield Group(REPEATS, None if found is None else found["algorithm"],
                    str((given_names if len(given_names) else part["cell"]).iloc[0]), key[0],
                    values["dataset"], values["protocol"], None,
                    "" if found is None else found["search_settings"],
                    values["evaluation_settings"], int(values["epochs"]), int(values["channels"]),
                    int(values["cells"]), part["test_error_percent"].tolist(),
                    part["seed"].tolist(), part["run_id"].tolist(), part,
                    names=sorted(set(part["cell"])))


def _name_variants(groups: list[Group], family: Callable[[Group], Any],
                   settings: Callable[[Group], str], target: str) -> None:
    """Within each family, say in `target` by which settings its members differ."""
    families: dict[Any, list[Group]] = {}
    for group in groups:
        families.setdefault(family(group), []).append(group)
    for members in families.values():
        for group, words in zip(members, distinguish([settings(g) for g in members]), strict=True):
            setattr(group, target, words)
