"""The papers' tables with our measured rows in them, and comparisons across algorithms."""

from nasbench.tables.compare import compare
from nasbench.tables.paper import measured_tables, paper_tables
from nasbench.tables.render import FORMATS, render
from nasbench.tables.table import Column, Row, Table

__all__ = ["FORMATS", "Column", "Row", "Table", "compare", "measured_tables", "paper_tables",
           "render"]
