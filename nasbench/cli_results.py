"""`python -m nasbench tables | compare | report | record`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("markdown", "csv", "latex", "html")


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Register the commands; each sets `handler(options) -> exit code`. Handlers raise ValueError
    or OSError with one line for what the user can put right."""
    tables = subparsers.add_parser("tables", help="a paper's tables with our measured rows")
    tables.add_argument("--paper", help="a paper of nasbench/published/papers.json; "
                        "without it: all measured rows")
    tables.add_argument("--dataset")
    tables.add_argument("--unverified", action="store_true",
                        help="show published numbers of low confidence, marked")
    _output(tables)
    tables.set_defaults(handler=_tables)

    compare = subparsers.add_parser("compare", help="all algorithms on one data set, with tests")
    compare.add_argument("--dataset", required=True)
    compare.add_argument("--figures", type=Path, help="folder for the figures, SVG and PNG")
    _output(compare)
    compare.set_defaults(handler=_compare)

    report = subparsers.add_parser("report", help="one self-contained HTML page of everything")
    report.add_argument("--output", type=Path, default=Path("results/report/index.html"))
    report.add_argument("--export", type=Path, help="also write all rows, .csv or .parquet")
    _sources(report)
    report.set_defaults(handler=_report)

    record = subparsers.add_parser("record", help="write the small record of finished runs")
    record.add_argument("run_dir", nargs="+", type=Path, metavar="RUN_DIR")
    record.add_argument("--records", type=Path, default=Path("results/records"))
    record.set_defaults(handler=_record)


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=FORMATS, default="markdown")
    parser.add_argument("--output", type=Path, help="file to write instead of printing")
    _sources(parser)


def _sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=Path, default=Path("results/records"))
    parser.add_argument("--runs", type=Path, default=Path("results/runs"))


def _load(options: argparse.Namespace) -> pd.DataFrame:
    """The tidy frame; what was left out goes to stderr, one line each."""
    from nasbench.results import load

    frame = load(options.records, options.runs)
    for problem in frame.attrs["problems"]:
        print(f"left out ({problem['kind']}): {problem['path']}: {problem['message']}",
              file=sys.stderr)
    return frame


def _tables(options: argparse.Namespace) -> int:
    from nasbench.published import paper

    if options.paper is not None:
        paper(options.paper)  # an unknown one is refused before anything is read
    from nasbench.tables import measured_tables, paper_tables, render

    frame = _load(options)
    if options.paper is None:
        found = measured_tables(frame, options.dataset)
    else:
        found = paper_tables(frame, options.paper, options.dataset, options.unverified)
        if not any(row.kind == "measured" for table in found for row in table.rows):
            print(f"no measured rows for {options.paper} yet: published rows only",
                  file=sys.stderr)
    _write(render(found, options.format), options.output)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from nasbench.tables import compare, render

    frame = _load(options)
    _write(render(compare(frame, options.dataset), options.format), options.output)
    if options.figures is not None:
        from nasbench.plots import save
        from nasbench.report.build import comparison_figures

        for name, _, figure in comparison_figures(frame, options.dataset):
            for path in save(figure, options.figures / f"{options.dataset}_{name}"):
                print(path, file=sys.stderr)
    return 0


def _report(options: argparse.Namespace) -> int:
    from nasbench.report import write_report
    from nasbench.results import save

    frame = _load(options)
    print(write_report(frame, options.output))
    if options.export is not None:
        print(save(frame, options.export))
    return 0


def _record(options: argparse.Namespace) -> int:
    from nasbench.results import record

    for folder in options.run_dir:
        print(record(folder, options.records))
    return 0


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(output)
