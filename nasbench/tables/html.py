"""A table as an HTML fragment; the report's frame and script make it sortable."""

from __future__ import annotations

from html import escape

from nasbench.tables.table import Table


def html_table(table: Table, identity: str, links: bool = False) -> str:
    """A scrollable table whose headers are buttons; `identity` is the caption's id. links: point
    measured rows to the anchors `run-RUN_ID` of the report."""
    head = "".join(
        f'<th scope="col"{" class=num" if c.numeric else ""}><button type="button">'
        f"{escape(c.title)}</button></th>" for c in table.columns)
    body = []
    for row in table.rows:
        cells = []
        for i, c in enumerate(table.columns):
            text, value = escape(row.text.get(c.key, "")), row.value.get(c.key)
            sort = f' data-value="{value:.10g}"' if value is not None else ""
            if links and c.key == "source" and row.runs:
                text = f'<a href="#run-{escape(row.runs[0])}">{text}</a>'
            css = ' class="num"' if c.numeric else ""
            if c.key == "gap" and "OUTSIDE" in text:
                css = ' class="num flag"'
            elif len(text) > 40:
                css = ' class="num wrap"' if c.numeric else ''
            cells.append(f'<th scope="row">{text}</th>' if i == 0
                         else f"<td{css}{sort}>{text}</td>")
        body.append(f'<tr class="{row.kind}">{"".join(cells)}</tr>')
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return (f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{identity}">'
            f'<table class="sortable"><caption id="{identity}">{escape(table.title)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(body)
            + f'\n</tbody></table></div><ul class="notes">{notes}</ul>')
