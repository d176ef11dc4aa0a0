"""The HTML frame: one document, styles and script inside, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

from nasbench.tables.html import html_table
from nasbench.tables.table import Table


def page(title: str, lead: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """A document of (id, heading, HTML) sections with navigation; `lead` is HTML."""
    assets = files("nasbench.report")
    style = assets.joinpath("style.css").read_text(encoding="utf-8")
    script = assets.joinpath("script.js").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{identity}">{escape(heading)}</a></li>'
                    for identity, heading, _ in sections)
    body = "\n".join(f'<section id="{identity}" aria-labelledby="{identity}-heading">'
                     f'<h2 id="{identity}-heading">{escape(heading)}</h2>\n{content}\n</section>'
                     for identity, heading, content in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the tables</a>
<header>
<button type="button" id="theme">Theme</button>
<h1>{escape(title)}</h1>
{lead}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main id="main">
{body}
</main>
<script>
{script}</script>
</body>
</html>
"""


def tables_page(tables: Sequence[Table]) -> str:
    """Just tables as a document."""
    content = "\n".join(html_table(table, f"table-{i}") for i, table in enumerate(tables))
    return page(tables[0].title if len(tables) == 1 else "Tables", "",
                [("tables", "Tables", content)])


def figure(svg: str, caption: str, css: str = "") -> str:
    """An inline drawing with its caption."""
    kind = f' class="{css}"' if css else ""
    return f"<figure{kind}>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
