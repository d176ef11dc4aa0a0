"""All algorithms on one data set under one protocol, paired over seeds."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

import pandas as pd

from nasbench import published
from nasbench.tables.cells import plain, spread
from nasbench.tables.groups import SEARCHES, Group, measured_groups
from nasbench.tables.paper import label
from nasbench.tables.statistics import (
    MIN_PAIRS,
    bootstrap_interval,
    kendall_tau,
    relative_improvement,
    sign_flip_test,
)
from nasbench.tables.table import Column, Row, Table

COLUMNS = [
    Column("algorithm", "Algorithm", numeric=False),
    Column("n", "Searches (n)"),
    Column("error", "Test error (%)"),
    Column("interval", "95 % bootstrap interval of the mean"),
    Column("best", "Best (%)"),
    Column("params", "Params (M)"),
    Column("seconds", "Search time (s)"),
    Column("difference", "Difference to random sampling, paired"),
    Column("p", "p (sign-flip)"),
    Column("relative", "Relative improvement (%)"),
    Column("tau", "Kendall tau, supernet and retrained accuracy"),
]
PAIR_COLUMNS = [
    Column("first", "First", numeric=False), Column("second", "Second", numeric=False),
    Column("n", "Common seeds"), Column("difference", "Mean difference of errors"),
    Column("p", "p (sign-flip)"),
]


def compare(frame: pd.DataFrame, dataset: str) -> list[Table]:
    """Two tables per protocol: every algorithm, and every pair on their common seeds. Raises
    ValueError when nothing was measured on the data set."""
    chosen = frame[frame["dataset"] == dataset]
    groups = [g for g in measured_groups(chosen) if g.basis == SEARCHES]
    if not groups:
        known = sorted(set(frame.loc[frame["test_error_percent"].notna() & frame["searched"],
                                     "dataset"]))
        raise ValueError(f"no measured searches on {dataset}; "
                         + (f"there are some on: {', '.join(known)}" if known
                            else "finish a run, or `python -m nasbench record RUN_DIR`"))
    tables = []
    for protocol, members in by_protocol(groups).items():
        baseline = sampling(members)
        rows = sorted((_row(g, baseline) for g in members), key=lambda row: row.value["error"])
        notes = ["Paired over seeds; p: two-sided sign-flip permutation test, exact up to 16 pairs "
                 "(the smallest p of n pairs is 2 / 2^n), not corrected for several comparisons.",
                 "Relative improvement: 100 (Acc - Acc random) / Acc random, over random sampling "
                 "(one uniform cell per search)."]
        if baseline is None:
            rows.insert(0, Row("absent", {"algorithm": published.index()["baseline"][
                "sampling_label"], "error": "not measured yet"}))
        if all(row.text.get("tau", "") == "" for row in rows):
            notes.append(f"Kendall tau needs {MIN_PAIRS} cells with both accuracies.")
        filled = [c for c in COLUMNS if any(row.text.get(c.key) for row in rows)]
        tables.append(Table(f"{dataset}: {protocol}", filled, rows, notes))
        if len(members) > 1:
            pairs = [_pair(a, b) for a, b in combinations(members, 2)]
            tables.append(Table(f"{dataset}: {protocol}: pairs on common seeds", PAIR_COLUMNS,
                                [row for row in pairs if row is not None],
                                ["Negative: the first has the lower error."]))
    return tables


def by_protocol(groups: list[Group]) -> dict[str, list[Group]]:
    """Groups that may stand in one comparison: equal retraining settings, equal search protocol."""
    out: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in groups:
        out[group.protocol_text, group.evaluation_settings].append(group)
    return {text: members for (text, _), members in sorted(out.items())}


def sampling(groups: list[Group]) -> Group | None:
    """Pure random sampling among them: the baseline algorithm with its sampling settings."""
    baseline = published.index()["baseline"]
    for group in groups:
        if group.algorithm == baseline["algorithm"] and all(
                group.settings.get(k) == v for k, v in baseline["sampling"].items()):
            return group
    return None


def paired(a: Group, b: Group) -> list[float]:
    """Differences a - b on the seeds both have."""
    other = dict(zip(b.seeds, b.values, strict=True))
    return [value - other[seed] for seed, value in zip(a.seeds, a.values, strict=True)
            if seed in other]


def correlation(group: Group) -> tuple[float | None, int]:
    """Kendall tau of supernet accuracy and retrained accuracy over the group's cells, and n."""
    cells = group.frame.dropna(subset=["supernet_valid_accuracy"]).groupby(
        ["run_id", "genotype_id"]).agg(supernet=("supernet_valid_accuracy", "first"),
                                       error=("test_error_percent", "mean"))
    return kendall_tau(cells["supernet"].tolist(), (100 - cells["error"]).tolist()), len(cells)


def _row(group: Group, baseline: Group | None) -> Row:
    summary, interval = group.summary, bootstrap_interval(group.values)
    params, seconds = group.mean("params"), group.mean("search_seconds")
    tau, pairs = correlation(group)
    text = {"algorithm": label(group), "n": str(summary.n),
            "error": spread(summary.mean, summary.std), "best": plain(summary.best),
            "interval": "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}",
            "params": plain(None if params is None else params / 1e6, 3),
            "seconds": plain(seconds, 1),
            "tau": "" if tau is None else f"{tau:.2f} (n={pairs})"}
    value = {"n": float(summary.n), "error": summary.mean, "best": summary.best}
    for key, number in (("params", params), ("seconds", seconds), ("tau", tau)):
        if number is not None:
            value[key] = number
    if baseline is group:
        text["difference"] = "reference"
    elif baseline is not None:
        differences = paired(group, baseline)
        p = sign_flip_test(differences)
        if p is not None:
            mean = sum(differences) / len(differences)
            text |= {"difference": f"{mean:+.2f} (n={len(differences)})", "p": f"{p:.3g}"}
            value |= {"difference": mean, "p": p}
        gain = relative_improvement(summary.mean, baseline.summary.mean)
        text["relative"], value["relative"] = f"{gain:+.2f}", gain
    return Row("measured", text, value, tuple(group.runs))


def _pair(a: Group, b: Group) -> Row | None:
    differences = paired(a, b)
    p = sign_flip_test(differences)
    if p is None:
        return None
    mean = sum(differences) / len(differences)
    return Row("measured", {"first": label(a), "second": label(b), "n": str(len(differences)),
                            "difference": f"{mean:+.2f}", "p": f"{p:.3g}"},
               {"n": float(len(differences)), "difference": mean, "p": p})
