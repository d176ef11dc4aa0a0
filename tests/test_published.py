"""The published numbers as data: one schema, sources stated, known values at known places."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nasbench import published
from search_spaces.zoo import zoo

FOLDER = Path(published.__file__).parent
TABLES = sorted(p.name for p in FOLDER.glob("*.csv") if p.name != "hyperparameters.csv")


@pytest.mark.parametrize("name", TABLES)
def test_tables_keep_the_schema(name: str) -> None:
    rows = published.table(name)
    assert rows
    for row in rows:
        assert row.paper and row.table and row.dataset and row.architecture and row.source, row
        assert row.error_percent is None or 0 < row.error_percent < 100
        assert row.params_millions is None or 0 < row.params_millions < 300
        if row.confidence == "missing":
            assert all(getattr(row, number) is None for number in published.NUMBERS)


def test_a_broken_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "_FOLDER", tmp_path)
    published.table.cache_clear()
    header = ",".join(published.COLUMNS)
    line = ["X"] * 5 + ["3.1x"] + [""] * (len(published.COLUMNS) - 6)
    (tmp_path / "a.csv").write_text("paper,table\n")
    (tmp_path / "b.csv").write_text(header + "\n" + ",".join(line) + "\n")
    (tmp_path / "c.csv").write_text(header + "\n" + ",".join([*line[:5], *[""] * 13, "s"]) + "\n")
    for name, words in (("a.csv", "columns are"), ("b.csv", "row 1: error_percent is '3.1x'"),
                        ("c.csv", "confidence is ''")):
        with pytest.raises(ValueError, match=words):
            published.table(name)
    published.table.cache_clear()


def test_every_table_belongs_to_a_paper_and_every_row_entry_to_a_table() -> None:
    papers = published.index()["papers"]
    assert sorted(name for paper in papers.values() for name in paper["tables"]) == TABLES
    for paper in papers.values():
        for spec in paper["rows"]:
            assert spec["basis"] in ("searches", "repeats"), spec
            matching = [row for row in published.table(spec["table"])
                        if row.architecture == spec["architecture"]
                        and spec.get("dataset", row.dataset) == row.dataset
                        and spec.get("search_dataset", row.search_dataset) == row.search_dataset]
            assert len(matching) == 1, spec
            assert all(cell in zoo() for cell in spec.get("cells", ())), spec


def test_algorithms_of_the_index_are_configured() -> None:
    from nasbench.configuration import config_folder

    known = {path.stem for path in (config_folder() / "algorithm").glob("*.yaml")}
    index = published.index()
    assert set(index["algorithms"]) == known
    used = {name for paper in index["papers"].values() for name in paper["algorithms"]}
    assert used | {index["baseline"]["algorithm"]} == known


def test_known_values() -> None:
    """A handful of numbers every reader of the field knows, typed here a second time."""
    def error(table: str, architecture: str) -> tuple[float | None, float | None]:
        row = next(r for r in published.table(table) if r.architecture == architecture)
        return row.error_percent, row.error_std

    assert error("darts_cifar10.csv", "DARTS (second order) + cutout") == (2.76, 0.09)
    assert error("darts_cifar10.csv", "Random search baseline + cutout") == (3.29, 0.15)
    assert error("asap_cifar10.csv", "ASAP-Large") == (1.68, None)
    assert error("bayesnas_cifar10.csv", "BayesNAS + cutout + lambda_w^o=0.005") == (2.81, 0.04)
    assert error("cars_imagenet.csv", "CARS-I") == (24.8, None)
    assert error("pc_darts_cifar10.csv", "PC-DARTS + cutout") == (2.57, 0.07)


def test_rows_under_another_protocol_say_so() -> None:
    own = [r for r in published.table("asap_cifar10.csv") if r.architecture.startswith("ASAP-")]
    assert len(own) == 3 and all("1500" in row.protocol for row in own)


def test_code_names_no_algorithm_and_no_operation() -> None:
    """Names live in data: a new algorithm must not need an edit of what tabulates and draws."""
    names = [*published.index()["algorithms"], "skip_connect", "sep_conv", "max_pool"]
    words = re.compile(r"\b(" + "|".join(n for n in names if n != "random") + r")(?!s)\b")
    package = FOLDER.parent
    for part in ("results", "tables", "plots", "report", "published"):
        for path in (package / part).glob("*.py"):
            code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(encoding="utf-8"),
                          flags=re.DOTALL)
            assert not words.search(code), f"{path}: {words.search(code)}"
