"""Measured results: from run folders and committed records to one tidy frame.

    import nasbench.results
    frame = nasbench.results.load()
    frame.attrs["problems"]     # what was left out, and why
"""

from nasbench.results.export import save
from nasbench.results.frame import COLUMNS, load
from nasbench.results.record import record
from nasbench.results.schema import SCHEMA

__all__ = ["COLUMNS", "SCHEMA", "load", "record", "save"]
