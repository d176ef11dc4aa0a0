"""One figure from a plain dict, and figures as files or inline SVG."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, told apart by the colour-blind; legible on white and on near-black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#a6761d", "#7f7f7f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MAX_SERIES = 24
SIZE = (6.4, 4.0)


def draw(spec: Mapping[str, Any]) -> Figure:
    """A figure from {name, title, x_label, y_label, series: {label: [(x, y), ...]}, kind}.

    kind is `line` (default) or `scatter`. Points that are not finite numbers are left out; of more
    than MAX_SERIES series, evenly spaced ones are drawn. Optional: `log_x`.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    series = list(spec["series"].items())
    if len(series) > MAX_SERIES:
        step = (len(series) - 1) / (MAX_SERIES - 1)
        series = [series[round(i * step)] for i in range(MAX_SERIES)]
    scatter = spec.get("kind", "line") == "scatter"
    for i, (label, points) in enumerate(series):
        add_series(axes, str(label), points, i, scatter=scatter)
    finish(axes, spec["title"], spec["x_label"], spec["y_label"])
    if spec.get("log_x"):
        axes.set_xscale("log")
    return figure


def add_series(axes: Axes, label: str, points: Sequence[Sequence[float]], index: int, *,
               scatter: bool) -> None:
    kept = [(float(x), float(y)) for x, y in points
            if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)]
    if not kept:
        return
    x, y = zip(*kept, strict=True)
    colour = COLOURS[index % len(COLOURS)]
    if scatter:
        axes.scatter(x, y, s=26, color=colour, marker=MARKERS[index % len(MARKERS)], label=label,
                     alpha=0.85)
    else:
        style = "-" if index < len(COLOURS) else "--" if index < 2 * len(COLOURS) else ":"
        axes.plot(x, y, style, color=colour, linewidth=1.6, label=label,
                  marker="." if len(kept) < 15 else None)


def finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if x_label == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines and all(float(y).is_integer() for line in axes.lines
                          for y in np.asarray(line.get_ydata(), dtype=float)):
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    labels = axes.get_legend_handles_labels()[1]
    if len(labels) > 1:
        axes.legend(fontsize=7 if len(labels) > 8 else 8, frameon=False,
                    ncols=2 if len(labels) > 8 else 1)


def save(figure: Figure, path: str | Path, suffixes: Sequence[str] = (".svg", ".png")
         ) -> list[Path]:
    """Write PATH with each suffix; returns the paths. OSError when a place cannot be written."""
    base = Path(path)
    base.parent.mkdir(parents=True, exist_ok=True)
    written = [base.with_name(base.name + suffix) for suffix in suffixes]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "nasbench"}):
        for target in written:  # no date: the same cell gives the same file
            figure.savefig(target, dpi=130,
                           metadata={"Date": None} if target.suffix == ".svg" else None)
    return written


def inline_svg(figure: Figure, identity: str, description: str) -> str:
    """An `<svg>` for an HTML page: ids prefixed by `identity`, black drawn in the page's text
    colour, transparent ground, `description` for screen readers."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": identity}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{identity}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{identity}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{identity}-\1"', text)
    text = re.sub(r"#(?:000000|262626|333333|444444)\b|(?<=fill: )#000\b", "currentColor", text)
    # Text without a fill is black in SVG, whatever the page's colour.
    text = re.sub(r'(<text style=")(?![^"]*fill:)', r"\1fill: currentColor; ", text)
    text = re.sub(r'<svg [^>]*viewBox="([^"]+)"[^>]*>',
                  rf'<svg role="img" aria-label="{_attribute(description)}" viewBox="\1">', text,
                  count=1)
    return text.strip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
