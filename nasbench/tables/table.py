"""A table before it is written: titled columns, rows of (text, value) cells, notes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    key: str
    title: str
    numeric: bool = True


@dataclass
class Row:
    """`text` is shown, `value` (a plain number) is what sorting and CSV use. kind: published,
    measured or absent. `runs` are the run ids behind a measured row, in order."""

    kind: str
    text: dict[str, str]
    value: dict[str, float] = field(default_factory=dict)
    runs: tuple[str, ...] = ()


@dataclass
class Table:
    title: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
