"""The README's second example: every algorithm, two seeds, then tables, comparison and report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nasbench.__main__ import main as command
from nasbench.configuration import config_folder, main

ALGORITHMS = {p.stem for p in (config_folder() / "algorithm").glob("*.yaml")}


def test_sweep_tables_compare_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    """As in the README, with two seeds, one epoch, four channels and some of the images."""
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "algorithm=glob(*)", "seed=range(2)", "dataset=digits", "search.epochs=1",
                 "search.channels=4", "evaluation.epochs=1", "evaluation.channels=4",
                 "dataset.limit_train=256", "hardware=cpu",
                 "hardware.threads=1"]) == 0
    results = [json.loads(p.read_text()) for p in Path("results/runs").glob("*/result.json")]
    assert {(r["algorithm"], r["seed"]) for r in results} == {
        (name, seed) for name in ALGORITHMS for seed in (0, 1)}
    assert {r["status"] for r in results} == {"done"}
    capsys.readouterr()
    assert command(["compare", "--dataset", "digits"]) == 0
    compared = capsys.readouterr().out
    assert "Random search (N=1)" in compared and "reference" in compared
    assert command(["tables"]) == 0
    assert "digits" in capsys.readouterr().out
    assert command(["report"]) == 0
    page = Path("results/report/index.html").read_text(encoding="utf-8")
    assert all(r["run_id"] in page for r in results)
    one = next(r for r in results if r["algorithm"] == "darts" and r["seed"] == 0)
    assert command(["record", f"results/runs/{one['run_id']}"]) == 0
    assert Path(f"results/records/{one['run_id']}.json").is_file()
