"""The tidy frame as a file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def save(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write CSV or Parquet, by the file's ending. ValueError for another ending or when Parquet's
    library is not installed; OSError when the place cannot be written."""
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: the ending must be .csv or .parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = frame.copy(deep=False)
    plain.attrs = {}
    if path.suffix == ".csv":
        plain.to_csv(path, index=False)
        return path
    try:
        import pyarrow  # noqa: F401  (optional extra, imported only here)
    except ImportError:
        raise ValueError(f"{path}: Parquet needs pyarrow: pip install pyarrow, or write .csv"
                         ) from None
    plain.to_parquet(path, index=False)
    return path
