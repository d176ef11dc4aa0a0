"""From run folders and records to one tidy frame; what must not count is reported."""

from __future__ import annotations

import builtins
import json
import time
from pathlib import Path

import pandas as pd
import pytest
from results_writer import evaluation, graph, result, write_record, write_run

from nasbench import results
from nasbench.cli_results import add_commands
from nasbench.results.frame import COLUMNS, genotype_id
from nasbench.results.record import MAX_POINTS, thinned
from nasbench.results.settings import distinguish, relevant


def kinds(frame: pd.DataFrame) -> dict[str, str]:
    return {Path(p["path"]).parent.name if p["path"].endswith("result.json")
            else Path(p["path"]).name: p["kind"] for p in frame.attrs["problems"]}


def test_one_row_per_run_genotype_and_evaluation(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", result("alpha", 0, 5.0, repeats=2))
    content = result("beta", 1, 6.0)
    content["search"]["genotypes"].append({**content["search"]["genotypes"][0], "name": "beta-2",
                                           "genotype": graph(77)})
    write_run(tmp_path / "runs" / "sweep", content)
    frame = results.load(tmp_path / "records", tmp_path / "runs")
    assert list(frame.columns) == list(COLUMNS)
    assert frame.attrs["problems"] == []
    rows = frame.set_index(["run_id", "cell", "repeat"])["test_error_percent"]
    assert len(frame) == 4
    assert rows["alpha-digits-s0", "alpha", 1] == pytest.approx(5.1)
    not_retrained = frame[frame["cell"] == "beta-2"].iloc[0]
    assert pd.isna(not_retrained["test_error_percent"]) and not_retrained["params"] == 123_456
    assert frame["search_seconds"].tolist()[:2] == [10.0, 10.0]
    assert frame["supernet_valid_accuracy"].iloc[0] == pytest.approx(87.5)
    assert pd.isna(frame["gpu_days"]).all() and frame["params"].dtype == "Int64"


def test_a_given_cell_is_not_a_search(tmp_path: Path) -> None:
    write_run(tmp_path, result("alpha", 0, given=True, cell="PUBLISHED"))
    row = results.load(tmp_path / "none", tmp_path).iloc[0]
    assert not row["searched"] and row["cell"] == "PUBLISHED" and pd.isna(row["search_seconds"])


def test_what_must_not_count_is_reported(tmp_path: Path) -> None:
    runs, records = tmp_path / "runs", tmp_path / "records"
    write_run(runs, result("good", 0))
    write_run(runs, result("failing", 0, status="failed", error="loss is not\nfinite"))
    write_run(runs, result("running", 0, status="running"))
    write_run(runs, result("stopped", 0, status="interrupted"))
    (write_run(runs, result("torn", 0)) / "result.json").write_text('{"schema": "nasb')
    (write_run(runs, result("empty", 0)) / "result.json").unlink()
    (write_run(runs, result("text", 0)) / "result.json").write_bytes(b"\xff\xfe\x00")
    write_record(records, result("foreign", 0, schema="other/3"))
    shrunk = result("shrunk", 0, search=None, evaluation=[])
    shrunk["config"]["task"] = "compress"
    write_record(records, shrunk)
    broken = result("field", 0)
    del broken["evaluation"][0]["params"]
    write_record(records, broken)
    write_record(records, result("percent", 0, evaluate={"test_error_percent": 105.0}))
    write_record(records, result("twice", 0, run_id="twice"))
    (records / "copy.json").write_text(json.dumps(result("twice", 0, run_id="twice")))
    frame = results.load(records, runs)
    assert kinds(frame) == {
        "failing-digits-s0": "failed", "running-digits-s0": "incomplete",
        "stopped-digits-s0": "incomplete", "torn-digits-s0": "broken",
        "empty-digits-s0": "incomplete", "text-digits-s0": "broken",
        "foreign-digits-s0.json": "foreign", "field-digits-s0.json": "broken",
        "percent-digits-s0.json": "broken", "shrunk-digits-s0.json": "other",
        "twice.json": "duplicate"}
    assert sorted(frame["algorithm"]) == ["good", "twice"]
    messages = {p["kind"]: p["message"] for p in frame.attrs["problems"]}
    assert messages["failed"] == "status is failed: loss is not finite"
    assert any("evaluation[0].params: expected int, got missing" in p["message"]
               for p in frame.attrs["problems"])


def test_a_recorded_run_counts_once_and_a_changed_one_is_reported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", result("alpha", 0))
    results.record(run, tmp_path / "records")
    frame = results.load(tmp_path / "records", tmp_path / "runs")
    assert len(frame) == 1 and frame.attrs["problems"] == []
    assert frame["source"].iloc[0].endswith("records/alpha-digits-s0.json")
    (run / "result.json").write_text(json.dumps(result("alpha", 0, finished="2025-01-01")))
    frame = results.load(tmp_path / "records", tmp_path / "runs")
    assert len(frame) == 1 and [p["kind"] for p in frame.attrs["problems"]] == ["duplicate"]


def test_record_keeps_the_result_and_its_curves(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", result("alpha", 3), epochs=400)
    path = results.record(run, tmp_path / "records")
    content = json.loads(path.read_text())
    series = content.pop("series")
    expected = result("alpha", 3)
    assert expected["config"]["dataset"]["root"] and content["config"]["dataset"]["root"] is None
    expected["config"]["dataset"]["root"] = expected["config"]["run_dir"] = None
    assert content == expected
    assert len(series["search"]) == MAX_POINTS and len(series["architecture"]) == MAX_POINTS
    assert series["search"][-1]["epoch"] == 399
    assert series["search"][-1]["elapsed"] == pytest.approx(400 * 3.5)
    assert series["search"][1]["temperature"] < 1.6 and series["plots"][0]["name"] == "temperature"
    assert series["architecture"][0]["weights"] == [[0.2, 0.3, 0.5]] * 2
    assert path.stat().st_size < 200_000
    assert results.record(run, tmp_path / "records") == path  # again: the same file
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("change, words", [
    ({"status": "failed"}, "status is failed; only finished runs are recorded"),
    ({"status": "running"}, "status is running"),
    ({"schema": "x/2"}, "schema is 'x/2'"),
    ({"evaluation": None}, "field evaluation: expected a list"),
    ({"run_id": "../x"}, "cannot be a file name"),
])
def test_record_refuses(tmp_path: Path, change: dict, words: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(result("alpha", 0) | change))
    with pytest.raises(ValueError, match="result.json") as caught:
        results.record(folder, tmp_path / "records")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("records/*"))


def test_record_needs_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no result.json"):
        results.record(tmp_path, tmp_path / "records")


def test_thinned_keeps_the_ends() -> None:
    assert thinned(list(range(5)), 10) == list(range(5))
    assert thinned(list(range(1000)), 5) == [0, 250, 500, 749, 999]


def test_genotype_id_ignores_the_order_of_edges_only() -> None:
    one, other = graph(1), graph(1)
    other["normal"]["edges"].reverse()
    assert genotype_id(one) == genotype_id(other) != genotype_id(graph(2))
    other["normal"]["edges"][0][0] = "none"
    assert genotype_id(one) != genotype_id(other)


def test_settings_leave_out_what_does_not_decide() -> None:
    def text(**changes: object) -> str:
        return relevant({"algorithm": {"name": "a", "lam": 1.0, "paper": {"lam": 2}} | changes},
                        ["algorithm"])

    assert text() == text(paper={"lam": 3}) == text(_target_="x.Y")
    assert text() != text(lam=2.0)
    assert distinguish([text(), text(lam=2.0), text()]) == ["lam=1", "lam=2", "lam=1"]
    assert distinguish([text(), text()]) == ["", ""]


def test_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "runs", result("alpha", 0))
    frame = results.load(tmp_path / "none", tmp_path / "runs")
    back = pd.read_csv(results.save(frame, tmp_path / "out" / "rows.csv"))
    assert back["test_error_percent"].tolist() == [5.0]
    pytest.importorskip("pyarrow")
    again = pd.read_parquet(results.save(frame, tmp_path / "rows.parquet"))
    assert again["genotype_id"].tolist() == frame["genotype_id"].tolist()
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        results.save(frame, tmp_path / "rows.xlsx")
    imports = builtins.__import__

    def without_pyarrow(name: str, *args: object, **kwargs: object) -> object:
        if name == "pyarrow":
            raise ImportError(name)
        return imports(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(ValueError, match="needs pyarrow: pip install pyarrow"):
        results.save(frame, tmp_path / "rows.parquet")


def test_ten_thousand_rows_load_tabulate_and_report_quickly(tmp_path: Path) -> None:
    from nasbench.report import write_report
    from nasbench.tables import compare, measured_tables

    for i in range(2_000):
        algorithm = ("random", "darts", "alpha", "beta")[i % 4]
        content = result(algorithm, i // 4, 4 + (i * 37 % 100) / 50, genotype=graph(i % 500),
                         settings={"algorithm.candidates": 1})
        base = content["evaluation"][0]["genotype"]
        content["evaluation"] = [evaluation(base, algorithm, 4 + (i * 7 + r) % 90 / 45, r)
                                 for r in range(5)]
        write_record(tmp_path / "records", content)
    started = time.process_time()  # of one thread: a busy machine must not fail the test
    frame = results.load(tmp_path / "records", tmp_path / "none")
    assert len(frame) == 10_000 and not frame.attrs["problems"]
    assert measured_tables(frame) and compare(frame, "digits")
    assert write_report(frame, tmp_path / "index.html").stat().st_size > 1_000_000
    assert time.process_time() - started < 10


def parse(words: list[str]):  # noqa: ANN201 - argparse.Namespace
    import argparse

    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    return parser.parse_args(words)


def test_record_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / "runs", result("alpha", seed)) for seed in (0, 1)]
    options = parse(["record", *map(str, runs), "--records", str(tmp_path / "records")])
    assert options.handler(options) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "records" / f"alpha-digits-s{seed}.json") for seed in (0, 1)]


def test_real_runs_are_read_recorded_and_compared(tmp_path: Path) -> None:
    from nasbench.configuration import run
    from nasbench.tables import compare

    for algorithm in ("darts", "random"):
        run([f"algorithm={algorithm}", "dataset=digits", "search.epochs=1", "search.channels=4",
             "evaluation.epochs=1", "evaluation.channels=4", "dataset.limit_train=200",
             f"run_dir={tmp_path / 'runs' / algorithm}"], quiet=True)
    for folder in (tmp_path / "runs").iterdir():
        results.record(folder, tmp_path / "records")
    frame = results.load(tmp_path / "records", tmp_path / "runs")
    assert frame.attrs["problems"] == [] and len(frame) == 2 and frame["searched"].all()
    assert (frame["params"] > 1000).all() and frame["commit"].notna().all()
    row = frame[frame["algorithm"] == "darts"].iloc[0]
    assert 0 < row["supernet_valid_accuracy"] < 100
    table = compare(frame, "digits")[0]
    reference = [row for row in table.rows if row.text.get("difference") == "reference"]
    assert len(table.rows) == 2 and len(reference) == 1
    curves = json.loads((tmp_path / "records" / f"{row['run_id']}.json").read_text())["series"]
    assert curves["search"][0]["elapsed"] == pytest.approx(row["search_seconds"], abs=0.01)
    assert len(curves["architecture"]) == 1 and len(curves["evaluate"]) == 1
