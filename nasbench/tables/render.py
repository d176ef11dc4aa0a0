"""A table as Markdown, CSV, LaTeX (booktabs) or HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from nasbench.tables.table import Table

FORMATS = ("markdown", "csv", "latex", "html")


def render(tables: Sequence[Table], form: str) -> str:
    """Text of all tables, ending in a newline; ValueError for an unknown form. HTML is a whole
    document, LaTeX a fragment that needs only `\\usepackage{booktabs}`, CSV one block for all
    tables with a leading column that names the table."""
    if form not in FORMATS:
        raise ValueError(f"format: must be one of {', '.join(FORMATS)}, got {form!r}")
    if form == "csv":
        return _csv(tables)
    if form == "html":
        from nasbench.report.page import tables_page

        return tables_page(tables)
    return "\n".join((_markdown if form == "markdown" else _latex)(table) for table in tables)


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    rule = ["---:" if c.numeric else "---" for c in table.columns]
    body = [line([row.text.get(c.key, "") for c in table.columns]) for row in table.rows]
    notes = [f"- {note}" for note in table.notes]
    head = line([c.title for c in table.columns])
    return "\n".join([f"### {table.title}", "", head, line(rule), *body, "", *notes]) + "\n"


def _csv(tables: Sequence[Table]) -> str:
    columns = list(dict.fromkeys(c.key for table in tables for c in table.columns))
    numeric = {c.key for table in tables for c in table.columns if c.numeric}
    header = ["table", "kind"]
    for key in columns:
        header += [key, f"{key}_value"] if key in numeric else [key]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*header, "runs"])
    for table in tables:
        for row in table.rows:
            line: list[object] = [table.title, row.kind]
            for key in columns:
                line.append(row.text.get(key, ""))
                if key in numeric:
                    line.append(row.value.get(key, ""))
            writer.writerow([*line, " ".join(row.runs)])
    return out.getvalue()


_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
          "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
          "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$", "†": r"$^\dagger$", "*": "$*$",
          "→": r"$\to$", "λ": r"$\lambda$", "τ": r"$\tau$", "·": r"$\cdot$", "–": "--"}


def latex_text(text: str) -> str:
    """Escaped for LaTeX; a character outside ASCII without an entry becomes `?`."""
    return "".join(_LATEX.get(c, c if ord(c) < 128 else "?") for c in text)


def _latex(table: Table) -> str:
    form = "".join("r" if c.numeric else r"p{1.9cm}" for c in table.columns)

    def line(cells: Sequence[str]) -> str:
        return " & ".join(latex_text(c) for c in cells) + r" \\"

    body = [line([row.text.get(c.key, "") for c in table.columns]) for row in table.rows]
    head = " & ".join(
        rf"\parbox[b]{{1.6cm}}{{\raggedleft {latex_text(c.title)}}}"
        if c.numeric and len(c.title) > 16 else latex_text(c.title) for c in table.columns) + r" \\"
    notes = [rf"\par\noindent {latex_text(note)}" for note in table.notes]
    return "\n".join([
        r"% needs \usepackage{booktabs}", r"\begin{table}", r"\tiny",
        r"\setlength{\tabcolsep}{2pt}", rf"\caption{{{latex_text(table.title)}}}",
        rf"\begin{{tabular}}{{{form}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}", *notes, r"\end{table}"]) + "\n"
