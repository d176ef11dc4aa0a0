"""What the report holds, section by section."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nasbench import published
from nasbench.plots import (
    anytime,
    error_against_cost,
    error_against_params,
    inline_svg,
    run_figures,
)
from nasbench.report.page import figure, page
from nasbench.results.record import series
from nasbench.tables.compare import compare
from nasbench.tables.groups import SEARCHES, Group, measured_groups
from nasbench.tables.html import html_table
from nasbench.tables.paper import label, measured_tables, paper_tables
from nasbench.tables.table import Table
from search_spaces.genotype import Genotype

MAX_RUNS = 8     # whose curves are drawn: the first seed of each searched row
MAX_CELLS = 12   # cell pairs drawn
CURVES_PER_ROW = 5

Section = tuple[str, str, str]


def write_report(frame: pd.DataFrame, output: str | Path = "results/report/index.html") -> Path:
    """Write the page for a tidy frame (nasbench.results.load()) and return its path. Without
    measured rows it shows the published tables alone. OSError when it cannot be written."""
    groups = measured_groups(frame)
    runs = frame["run_id"].nunique()
    newest = frame["finished"].dropna().max() if len(frame) else None
    lead = (f"<p>{runs} runs, {int(frame['test_error_percent'].notna().sum())} retrained networks"
            + (f", the newest finished {escape(str(newest))}" if newest else "")
            + ". Published rows are as printed by their papers, measured rows (shaded) come from "
            "run records; each links to where its numbers come from. Test errors are those of the "
            "last epoch.</p>")
    sections: list[Section] = []
    if groups:
        sections.append(("measured", "Measured", _measured(frame, groups)))
    sections += _papers(frame, groups)
    if groups:
        sections += [("runs", "Searches, epoch by epoch", _runs(groups)),
                     ("cells", "Cells", _cells(groups))]
    sections.append(("provenance", "Where every number comes from", _provenance(frame)))
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page("Architecture search: measured beside published", lead, sections),
                      encoding="utf-8")
    return target


def _tables(tables: list[Table], prefix: str) -> str:
    return "\n".join(html_table(table, f"{prefix}-{i}", links=True)
                     for i, table in enumerate(tables))


def _measured(frame: pd.DataFrame, groups: list[Group]) -> str:
    out = []
    for dataset in sorted({g.dataset for g in groups}):
        here = [g for g in groups if g.dataset == dataset]
        out += [f"<h3>{escape(dataset)}</h3>",
                _tables(measured_tables(frame, dataset), f"measured-{_id(dataset)}")]
        if any(g.basis == SEARCHES for g in here):
            out.append(_tables(compare(frame, dataset), f"compare-{_id(dataset)}"))
        out.append('<div class="figures">' + "".join(
            figure(inline_svg(found, f"{_id(dataset)}-{name}", f"{caption}, {dataset}"),
                   f"{caption}, {dataset}")
            for name, caption, found in comparison_figures(frame, dataset)) + "</div>")
    return "\n".join(out)


def comparison_figures(frame: pd.DataFrame, dataset: str) -> list[tuple[str, str, Figure]]:
    """(name, caption, figure): error against size and search cost with published points of high
    confidence, and anytime curves, of everything measured on a data set."""
    groups = measured_groups(frame[frame["dataset"] == dataset])
    named = [(label(g), g) for g in groups]
    rows = list({(r.architecture, r.error_percent): r
                 for paper in published.index()["papers"].values() for name in paper["tables"]
                 for r in published.table(name)
                 if r.dataset == dataset and r.confidence == "high" and not r.latency_ms}.values())
    curves = {label(g): [_series(path).get("search", [])
                         for path in list(dict.fromkeys(g.frame["source"]))[:CURVES_PER_ROW]]
              for g in groups if g.basis == SEARCHES}
    drawn = [("error_params", "Error against size", error_against_params(named, rows, dataset)),
             ("error_cost", "Error against search cost", error_against_cost(named, rows, dataset)),
             ("anytime", "Accuracy of the search network against search time",
              anytime(curves, dataset))]
    return [(name, caption, found) for name, caption, found in drawn if found is not None]


def _series(source: str) -> dict[str, Any]:
    """Curves behind a row: of its record, or of the folder its result.json is in."""
    path = Path(source)
    return series(path.parent if path.name == "result.json" else path)


def _papers(frame: pd.DataFrame, groups: list[Group]) -> list[Section]:
    sections = []
    for key, paper in published.index()["papers"].items():
        tables = paper_tables(frame, key)
        ours = any(row.kind == "measured" for table in tables for row in table.rows)
        heading = paper["title"].partition(" (")[0]
        content = (f"<details{' open' if ours else ''}><summary>{escape(paper['title'])}"
                   f"</summary>{_tables(tables, f'paper-{key}')}</details>")
        sections.append((f"paper-{key}", heading.split(":")[0], content))
    return sections


def _runs(groups: list[Group]) -> str:
    out = []
    for i, group in enumerate([g for g in groups if g.basis == SEARCHES][:MAX_RUNS]):
        path = str(group.frame["source"].iloc[0])
        config = json.loads(Path(path).read_text(encoding="utf-8"))["config"]
        figures = run_figures(_series(path), config)
        if figures:
            run = str(group.frame["run_id"].iloc[0])
            drawings = "".join(
                figure(inline_svg(found, f"run{i}-{name}", f"{name} of {run}"),
                       name.replace("_", " "), "wide" if len(found.axes) > 1 else "")
                for name, found in figures.items())
            out.append(f"<h3>{escape(label(group))}, {escape(group.dataset)}: "
                       f'<a href="#run-{escape(run)}">{escape(run)}</a></h3>'
                       f'<div class="figures">{drawings}</div>')
    return "\n".join(out) or "<p>No curves are recorded.</p>"


def _cells(groups: list[Group]) -> str:
    from nasbench.draw import draw_genotype

    out: list[str] = []
    seen: set[str] = set()
    for group in groups:
        first = group.frame.iloc[0]
        if first["genotype_id"] in seen or len(seen) >= MAX_CELLS:
            continue
        seen.add(first["genotype_id"])
        try:
            genotype = Genotype.from_dict(json.loads(first["genotype"]))
        except ValueError as error:  # an operation registered elsewhere
            out.append(f"<p>{escape(label(group))}: {escape(str(error))}</p>")
            continue
        title = f"{label(group)}, {group.dataset}, seed {first['seed']}"
        out.append(figure(inline_svg(draw_genotype(genotype), f"cell{len(seen)}", title), title,
                          "cell"))
    return f'<div class="figures cells">{"".join(out)}</div>'


_PROVENANCE = {"run_id": "Run", "cell": "Cell", "dataset": "Data set", "seed": "Seed",
               "protocol": "Protocol", "test_error_percent": "Test error (%)",
               "best_epoch_test_error_percent": "Best epoch (%), never the result",
               "params": "Params", "mult_adds": "Mult-adds",
               "supernet_valid_accuracy": "supernet_valid_accuracy (%)",
               "search_seconds": "Search (s)", "train_seconds": "Retraining (s)",
               "device_name": "Device", "commit": "Commit", "versions": "Versions",
               "finished": "Finished", "source": "File"}
_NUMERIC = {"seed", "test_error_percent", "best_epoch_test_error_percent", "params", "mult_adds",
            "supernet_valid_accuracy", "search_seconds", "train_seconds"}


def _provenance(frame: pd.DataFrame) -> str:
    head = "".join(f'<th scope="col"{" class=num" if key in _NUMERIC else ""}>'
                   f'<button type="button">{escape(title)}</button></th>'
                   for key, title in _PROVENANCE.items())
    lines, seen = [], set()
    columns = [frame[key].astype(object).where(frame[key].notna(), "").tolist()
               for key in _PROVENANCE]
    for values in zip(*columns, strict=True):
        run = str(values[0])
        anchor = "" if run in seen else f' id="run-{escape(run)}"'
        seen.add(run)
        cells = "".join(f"<td{' class=num' if key in _NUMERIC else ''}>{_cell(value)}</td>"
                        for key, value in zip(list(_PROVENANCE)[1:], values[1:], strict=True))
        lines.append(f'<tr{anchor}><th scope="row">{escape(run)}</th>{cells}</tr>')
    problems = "".join(f"<li><code>{escape(p['path'])}</code>: {escape(p['kind'])}: "
                       f"{escape(p['message'])}</li>" for p in frame.attrs.get("problems", []))
    left_out = f"<h3>Left out</h3><ul>{problems}</ul>" if problems else ""
    table = ('<div class="scroll tall" role="region" tabindex="0" aria-labelledby="all-rows">'
             '<table class="sortable"><caption id="all-rows">Every measured row</caption>'
             f"<thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(lines)
             + "\n</tbody></table></div>")
    return f"<details{' open' if len(lines) <= 50 else ''}><summary>{len(lines)} rows</summary>" \
           f"{table}</details>{left_out}"


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value))


def _id(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)
