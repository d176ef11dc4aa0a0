"""Figures with matplotlib, as SVG and PNG; nothing here knows an algorithm by name.

A run's figures come from its metrics, its architecture weights and the dicts of `Strategy.plots`;
those across runs from measured groups and published tables.
"""

from nasbench.plots.canvas import draw, inline_svg, save
from nasbench.plots.run import add_retrained, run_figures, save_run_plots
from nasbench.plots.tradeoff import anytime, error_against_cost, error_against_params

__all__ = ["add_retrained", "anytime", "draw", "error_against_cost", "error_against_params",
           "inline_svg", "run_figures", "save", "save_run_plots"]
