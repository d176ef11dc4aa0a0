"""The benchmark: search, retraining, measurement, records and tables.

`run`, `load_model` and `results` are the Python entry points; they are imported on first use, so
that a small command does not wait for PyTorch.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load_model", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from nasbench.configuration import run
        return run
    if name == "load_model":
        from nasbench.export import load_model
        return load_model
    raise AttributeError(f"module 'nasbench' has no attribute {name!r}")
