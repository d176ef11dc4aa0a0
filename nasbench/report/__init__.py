"""One self-contained HTML page of everything measured."""

from nasbench.report.build import write_report

__all__ = ["write_report"]
