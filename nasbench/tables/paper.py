"""A paper's tables: its rows in its order, and under each of its own rows what we measured."""

from __future__ import annotations

import pandas as pd

from nasbench import published
from nasbench.published import Published
from nasbench.tables import cells, match
from nasbench.tables.cells import COLUMNS, DOUBTFUL
from nasbench.tables.groups import REPEATS, SEARCHES, Group, measured_groups
from nasbench.tables.table import Row, Table

GAP_NOTE = ("Gap: our mean minus the published value; \"OUTSIDE\": the published value lies "
            "outside our 95 % interval of the mean (Student's t). Given only under the published "
            "protocol and basis.")
KIND_NOTE = (f"\"{SEARCHES}\": one value per search; \"{REPEATS}\": one value per training of the "
             "same cell. ± is one standard deviation (n - 1).")


def paper_tables(frame: pd.DataFrame, key: str, dataset: str | None = None,
                 unverified: bool = False) -> list[Table]:
    """One table per published table and data set, then measured rows on other data sets.

    unverified: show low-confidence numbers, marked, instead of withholding them. Raises ValueError
    for an unknown paper, or a data set of which there is neither a published nor a measured row.
    """
    paper = published.paper(key)
    groups = measured_groups(frame)
    own = [g for g in groups if g.algorithm in paper["algorithms"] or _is_baseline(g)]
    tables: list[Table] = []
    covered: list[str] = []
    for name in paper["tables"]:
        rows = published.table(name)
        for each in dict.fromkeys(row.dataset for row in rows):
            if dataset not in (None, each):
                continue
            chosen = [row for row in rows if row.dataset == each]
            extra = own if each not in covered else []
            covered.append(each)
            tables.append(_table(paper, name, chosen, [g for g in groups if g.dataset == each],
                                 [g for g in extra if g.dataset == each], unverified))
    for each in sorted({g.dataset for g in own if not _is_baseline(g)} - set(covered)):
        if dataset in (None, each):
            here = [g for g in own if g.dataset == each]
            tables.append(_finish(f"{paper['title']}: measured on {each}", _measured(here)))
    if not tables:
        raise ValueError(f"dataset {dataset}: neither published nor measured rows of {key}; "
                         f"published: {', '.join(dict.fromkeys(_datasets(key)))}")
    return tables


def measured_tables(frame: pd.DataFrame, dataset: str | None = None) -> list[Table]:
    """All measured rows, one table per data set; ValueError when there are none."""
    groups = measured_groups(frame)
    names = sorted({g.dataset for g in groups if dataset in (None, g.dataset)})
    if not names:
        raise ValueError("no measured rows" + (f" on {dataset}" if dataset else "")
                         + "; finish a run, or `python -m nasbench record RUN_DIR`")
    return [_finish(f"Measured on {name}", _measured([g for g in groups if g.dataset == name]))
            for name in names]


def label(group: Group) -> str:
    """The algorithm's display name with what tells it apart, or the cell's name."""
    known = published.index()["algorithms"].get(group.algorithm or "", {})
    if group.basis == REPEATS:
        origin = f" (found by {known.get('label', group.algorithm)})" if group.algorithm else ""
        return f"{group.cell}{origin}"
    name = known.get("label", str(group.algorithm))
    if group.cell.lower().startswith(name.lower()) and len(group.cell) > len(name):
        name = group.cell  # a member of a family, named after its algorithm
    base, _, inside = group.cell.partition(" (")  # a cell may carry a remark in parentheses
    remark = inside.rstrip(")") if base.lower() in name.lower() else group.cell
    detail = ["" if _letters(group.cell) == _letters(name) else remark, group.variant]
    detail = [words for words in detail if words]
    return f"{name} ({'; '.join(detail)})" if detail else name


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


def _table(paper: dict, name: str, rows: list[Published], groups: list[Group], extra: list[Group],
           unverified: bool) -> Table:
    out: list[Row] = []
    notes: list[str] = []
    used: set[int] = set()
    for row in rows:
        spec = match.specification(paper, name, row)
        out.append(_published(row, spec, unverified))
        if row.note:
            notes.append(f"{row.architecture}: {row.note}.")
        for group in groups:
            if spec is not None and id(group) not in used and match.answers(spec, row, group) \
                    and not _is_baseline(group):
                used.add(id(group))
                out.append(measured_row(group, _gap(spec, row, group)))
    rest = [g for g in extra if id(g) not in used]
    leading = _baseline_rows([g for g in rest if _is_baseline(g)])
    rest_rows = [measured_row(g) for g in rest if not _is_baseline(g)]
    title = f"{paper['title']}: {rows[0].table}, {rows[0].dataset}"
    if any(row.confidence in ("medium", "low") for row in rows):
        notes.append(f"{DOUBTFUL} not read in the paper itself; treat as approximate.")
    if any(row.confidence == "low" for row in rows) and not unverified:
        notes.append("Numbers recalled without a source are withheld (--unverified shows them).")
    return _finish(title, leading + out + rest_rows, notes)


def _published(row: Published, spec: dict | None, unverified: bool) -> Row:
    shown = row.confidence in ("high", "medium") or row.confidence == "low" and unverified
    text, values = cells.published_text(row) if shown else (cells.withheld_text(row), {})
    searched = f", searched on {row.search_dataset}" if row.search_dataset else ""
    text |= {"architecture": row.architecture + searched, "row": "published",
             "method": row.search_method,
             "protocol": row.protocol or (spec or {}).get("protocol", ""),
             "source": row.source}
    count = match.counted_mult_adds(spec, row.dataset)
    if count is not None:
        text["mult_adds"], values["mult_adds"] = f"{count / 1e6:.1f}", count / 1e6
    return Row("published", text, values)


def _gap(spec: dict, row: Published, group: Group) -> tuple[str, float | None]:
    if row.error_percent is None or row.confidence not in ("high", "medium"):
        return "", None
    reasons = match.differences(spec, group)
    if reasons:
        more = f" and {len(reasons) - 2} more" if len(reasons) > 2 else ""
        return "not comparable: " + "; ".join(reasons[:2]) + more, None
    gap, interval = group.summary.mean - row.error_percent, group.summary.interval()
    if interval is None:
        return f"{gap:+.2f} (n=1, no interval)", gap
    inside = interval[0] <= row.error_percent <= interval[1]
    return f"{gap:+.2f} ({'inside' if inside else 'OUTSIDE'} " \
           f"{interval[0]:.2f} to {interval[1]:.2f})", gap


def measured_row(group: Group, gap: tuple[str, float | None] = ("", None)) -> Row:
    """A measured row; `gap` as text and value."""
    text, values = cells.measured_text(group)
    known = published.index()["algorithms"].get(group.algorithm or "", {})
    text |= {"architecture": label(group), "method": known.get("method", ""), "gap": gap[0]}
    if gap[1] is not None:
        values["gap"] = gap[1]
    return Row("measured", text, values, tuple(group.runs))


def _is_baseline(group: Group) -> bool:
    return group.algorithm == published.index()["baseline"]["algorithm"]


def _baseline_rows(groups: list[Group]) -> list[Row]:
    name = published.index()["baseline"]["label"]
    absent = Row("absent", {"architecture": name, "row": "not measured yet", "method": "random"})
    return [measured_row(g) for g in groups] or [absent]


def _measured(groups: list[Group]) -> list[Row]:
    rest = [g for g in groups if not _is_baseline(g)]
    return _baseline_rows([g for g in groups if _is_baseline(g)]) + [measured_row(g) for g in rest]


def _finish(title: str, rows: list[Row], notes: list[str] | None = None) -> Table:
    """Drop columns nothing is in; say what the rows mean."""
    filled = [c for c in COLUMNS if any(row.text.get(c.key) for row in rows)]
    gap = [GAP_NOTE] if any(c.key == "gap" for c in filled) else []
    return Table(title, filled, rows, [KIND_NOTE, *gap, *(notes or [])])


def _datasets(key: str) -> list[str]:
    return [row.dataset for name in published.paper(key)["tables"] for row in published.table(name)]
