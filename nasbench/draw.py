"""Cells as pictures, SVG and PNG, with matplotlib alone."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from search_spaces import Cell, Genotype

STEP = 1.7  # between neighbouring nodes
BEND = 0.55  # an arc rises to half of this times its span
INPUTS = {0: "c_{k-2}", 1: "c_{k-1}"}


def draw_cells(cells: list[tuple[str, Cell]], title: str = "") -> Figure:
    """One row per cell: inputs green, nodes of the output yellow, each edge with its operations."""
    figure = Figure(figsize=(10, 4.4 * len(cells)), layout="constrained")
    axes = figure.subplots(len(cells), 1, squeeze=False)[:, 0]
    for (name, cell), axis in zip(cells, axes, strict=True):
        _draw(axis, cell)
        axis.set_title(name, loc="left", fontsize=11)
    if title:
        figure.suptitle(title)
    return figure


def draw_genotype(genotype: Genotype, title: str = "") -> Figure:
    both = [("normal cell", genotype.normal), ("reduction cell", genotype.reduce)]
    return draw_cells(both, title)


def _draw(axis: Axes, cell: Cell) -> None:
    """Nodes on a line, edges as arcs: above from even sources, below from odd ones, so that no arc
    runs through a node and no two labels share a place."""
    grouped: dict[tuple[int, int], list[str]] = {}
    for op, source, target in cell.edges:
        grouped.setdefault((source, target), []).append(op)
    top = 0.6
    for (source, target), ops in grouped.items():
        side, span = (1 if source % 2 == 0 else -1), STEP * (target - source)
        axis.add_patch(FancyArrowPatch(
            (STEP * source, 0), (STEP * target, 0), arrowstyle="-|>", mutation_scale=13,
            connectionstyle=f"arc3,rad={-side * BEND}", color="#444", shrinkA=13, shrinkB=14,
            zorder=1))
        height = BEND * span / 2
        text = "\n".join(f"{op} x{ops.count(op)}" if ops.count(op) > 1 else op
                         for op in dict.fromkeys(ops))
        axis.text(STEP * (source + target) / 2, side * height, text, fontsize=7.5, ha="center",
                  va="center", zorder=2, bbox={"boxstyle": "round,pad=0.12", "facecolor": "white",
                                               "edgecolor": "none"})
        top = max(top, height + 0.25 + 0.12 * len(ops))
    for node in range(cell.last_node + 1):
        fill = "#cfe8cf" if node < 2 else "#ffdf94" if node in cell.concat else "#e4e4e4"
        axis.text(STEP * node, 0, f"${INPUTS[node]}$" if node < 2 else str(node - 2), fontsize=10,
                  ha="center", va="center", zorder=3,
                  bbox={"boxstyle": "round,pad=0.35", "facecolor": fill, "edgecolor": "#444"})
    axis.set_xlim(-0.6, STEP * cell.last_node + 0.6)
    axis.set_ylim(-top, top)
    axis.set_aspect("equal")
    axis.axis("off")
