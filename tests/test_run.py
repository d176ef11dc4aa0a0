"""One run, one folder: stages, continuation, sweeps, signals, export, overview."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import runs
import torch

import nasbench
from nasbench import data
from nasbench.__main__ import main as command
from nasbench.configuration import compose, main
from nasbench.identity import fingerprint, run_name
from nasbench.runner import execute
from nasbench.setup_run import prepare

ROOT = Path(__file__).parent.parent
SHORT = ["search.epochs=1"]


def test_defaults_follow_the_data_set() -> None:
    plain = compose([])
    assert (plain["algorithm"]["name"], plain["dataset"]["name"]) == ("darts", "digits")
    assert plain["search"]["protocol"] == plain["evaluation"]["protocol"] == "smoke"
    cifar = compose(["dataset=cifar10"])
    assert (cifar["search"]["protocol"], cifar["evaluation"]["protocol"]) == ("paper", "darts600")
    assert {k: cifar["search"][k] for k in ("epochs", "batch_size", "channels", "cells",
                                            "learning_rate", "learning_rate_min", "weight_decay")} \
        == {"epochs": 50, "batch_size": 64, "channels": 16, "cells": 8, "learning_rate": 0.025,
            "learning_rate_min": 0.001, "weight_decay": 3e-4}
    assert cifar["algorithm"]["learning_rate"] == 3e-4
    both = compose(["dataset=cifar10", "search=smoke", "evaluation=smoke"])
    assert both["search"]["protocol"] == both["evaluation"]["protocol"] == "smoke"
    assert compose(["dataset=digits", "search=paper"])["search"]["protocol"] == "paper"


def test_identity_covers_results_and_nothing_else() -> None:
    base = fingerprint(compose([]))
    for same in ("run_dir=x", "stage=search", "hardware.workers=1", "hardware.threads=2",
                 "dataset.root=y", "dataset.download=true", "hardware.device=cpu"):
        assert fingerprint(compose([same])) == base, same
    for other in ("seed=1", "search.epochs=2", "algorithm.learning_rate=0.5",
                  "dataset.split_seed=3", "evaluation.test_every=2",
                  "hardware.precision=bfloat16", "evaluation.channels=8"):
        assert fingerprint(compose([other])) != base, other


def test_identity_takes_a_genotype_by_content(tmp_path: Path) -> None:
    from search_spaces import load_genotype
    path = tmp_path / "copy.json"
    path.write_text(json.dumps(load_genotype("DARTS_V2")[1].to_dict()))
    given = [fingerprint(compose(["stage=evaluate", f"evaluation.genotype={g}"]))
             for g in ("DARTS_V2", path, "DARTS_V1")]
    assert given[0] == given[1] != given[2]


def test_stages_share_a_folder_and_a_finished_run_says_so(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = f"run_dir={tmp_path / 'run'}"
    assert main([*runs.TINY, *SHORT, "stage=search", folder]) == 0
    searched = json.loads((tmp_path / "run" / "result.json").read_text())
    assert searched["status"] == "done" and searched["evaluation"] == []
    assert main([*runs.TINY, *SHORT, "stage=evaluate", folder]) == 0
    whole = json.loads((tmp_path / "run" / "result.json").read_text())
    assert whole["search"] == searched["search"] and len(whole["evaluation"]) == 1
    before = (tmp_path / "run" / "result.json").read_bytes()
    capsys.readouterr()
    assert main([*runs.TINY, *SHORT, folder]) == 0
    assert "already finished" in capsys.readouterr().out
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    direct = runs.run(tmp_path / "direct", *SHORT)
    assert runs.lasting(direct)["evaluation"] == runs.lasting(whole)["evaluation"]
    for name in ("cells-0.svg", "cells-0.png", "genotype-0.json", "config.json", "log.txt",
                 "model-0.pt", "supernet.pt"):
        assert (tmp_path / "run" / name).stat().st_size > 0


def test_same_seed_same_result_other_seed_other(tmp_path: Path) -> None:
    runs.run(tmp_path / "a", *SHORT)
    runs.run(tmp_path / "b", *SHORT)
    runs.assert_same_run(tmp_path / "a", tmp_path / "b")
    other = runs.run(tmp_path / "c", *SHORT, "seed=1")
    first = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[0])
    third = json.loads((tmp_path / "c" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["train_loss"] != third["train_loss"] and other["seed"] == 1


def test_published_cell_retrained_several_times(tmp_path: Path) -> None:
    result = runs.run(tmp_path / "run", "stage=evaluate", "evaluation.genotype=DARTS_V2",
                      "evaluation.repeats=2", "evaluation.epochs=1")
    assert result["search"] is None
    assert [e["repeat"] for e in result["evaluation"]] == [0, 1]
    assert {e["genotype"]["name"] for e in result["evaluation"]} == {"DARTS_V2"}
    a, b = (torch.load(tmp_path / "run" / f"model-{i}.pt", weights_only=True)["weights"]
            for i in (0, 1))
    assert not torch.equal(a["classifier.weight"], b["classifier.weight"])


def test_holdout_measures_on_the_search_splits(tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell is chosen without the test images (DARTS 3.2): they are never opened."""
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("the selection opened the test images")

    monkeypatch.setattr(data, "evaluation_data", opened)
    result = runs.run(tmp_path / "run", *SHORT, "evaluation.holdout=true")
    (entry,) = result["evaluation"]
    assert entry["test_error_percent"] is None and 0 <= entry["valid_error_percent"] <= 100
    from nasbench.results import load
    frame = load(tmp_path / "no-records", tmp_path)
    assert frame.attrs["problems"] == [] or "missing" in str(frame.attrs["problems"])
    assert frame["test_error_percent"].isna().all() and len(frame) == 1


def test_saved_model_reloads_to_the_same_error(tmp_path: Path) -> None:
    result = runs.run(tmp_path / "run", *SHORT)
    network, genotype = nasbench.load_model(tmp_path / "run" / "model-0.pt")
    assert genotype.to_dict() == result["search"]["genotypes"][0]["genotype"]
    parts = prepare(compose([*runs.TINY, *SHORT]))
    split = data.evaluation_data(parts.dataset, device="cpu", workers=0).test
    wrong = sum(int((network(x)[0].argmax(1) != y).sum()) for x, y in split.once(64))
    assert 100 * wrong / len(split) == pytest.approx(result["evaluation"][0]["test_error_percent"])


def test_a_failing_job_does_not_end_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(["-m", *runs.TINY, *SHORT, "stage=search", "search.learning_rate=0.05,1e30",
                 "search.grad_clip=0", "seed=0,1", "hydra.sweep.dir=sweep", "run_dir=all"])
    out = capsys.readouterr().out
    assert code == 1
    assert "sweep: 2 done, 2 failed" in out
    results = [json.loads(p.read_text()) for p in (tmp_path / "all").glob("*/result.json")]
    assert sorted(r["status"] for r in results) == ["done", "done", "failed", "failed"]
    assert all("not finite" in r["error"] for r in results if r["status"] == "failed")


def test_a_job_refused_before_it_began_is_recorded_too(tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(["-m", *runs.TINY, *SHORT, "stage=search", "search.valid_fraction=0.5,0",
                 "hydra.sweep.dir=sweep", "run_dir=all"])
    captured = capsys.readouterr()
    assert code == 1 and "Traceback" not in captured.err
    results = [json.loads(p.read_text()) for p in (tmp_path / "all").glob("*/result.json")]
    assert sorted(r["status"] for r in results) == ["done", "failed"]
    assert any("search.valid_fraction" in str(r["error"]) for r in results)


def test_sigterm_saves_and_the_command_continues(tmp_path: Path) -> None:
    arguments = [sys.executable, str(ROOT / "run.py"), *runs.TINY, "search.epochs=200",
                 "stage=search", f"run_dir={tmp_path / 'run'}", "hardware.checkpoint_seconds=3600"]
    process = subprocess.Popen(arguments, cwd=tmp_path, text=True, stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or not metrics.read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, words = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "saved" in words and "Traceback" not in words
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "interrupted"
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["epoch"] >= 1
    done = len(metrics.read_text().splitlines())
    assert state["epoch"] == done


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    from nasbench.run_folder import RunFolder

    folder = RunFolder(tmp_path / "run", "x")
    with folder.locked(), pytest.raises(ValueError, match="in use"), \
            RunFolder(tmp_path / "run", "x").locked():
        pass


def test_runs_lists_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = compose([*runs.TINY, *SHORT])
    runs.run(tmp_path / run_name(config), *SHORT)
    assert command(["runs", str(tmp_path)]) == 0
    line = capsys.readouterr().out.strip()
    assert run_name(config) in line and "done" in line and "test error" in line
    assert command(["runs", str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err


def test_real_cifar10_from_search_to_result(tmp_path: Path) -> None:
    root = os.environ.get("NASBENCH_DATA")
    if not root or not (Path(root) / "cifar-10-batches-py").is_dir():
        pytest.skip("set NASBENCH_DATA to a folder with cifar-10-batches-py")
    config = compose(["experiment=smoke/cifar10", "dataset.limit_train=256",
                      "dataset.limit_test=128", "search.epochs=1", "evaluation.epochs=1",
                      "hardware=cpu", "hardware.threads=1", f"run_dir={tmp_path / 'run'}"])
    result = execute(config, runs.quiet())
    assert result["dataset"] == "cifar10" and result["search"]["protocol"] == "smoke"
    assert 0 < result["evaluation"][0]["test_error_percent"] <= 100


def test_cells_of_their_own_are_drawn(tmp_path: Path) -> None:
    """The DARTS+ experiment: what early and late cells choose."""
    result = runs.run(tmp_path / "run", *SHORT, "stage=search", "search_space.share_cells=false")
    assert len(result["search"]["genotypes"][0]["cells"]) == 3
    text = (tmp_path / "run" / "cells-0-each.svg").read_text()
    assert all(f"cell {i}" in text for i in range(3))


def test_a_data_set_of_the_users_own(tmp_path: Path) -> None:
    """Folders of pictures: three classes, 12 pixels, found out from the files."""
    image = pytest.importorskip("PIL.Image")
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 24), ("test", 8)):
        for label in ("ash", "birch", "cedar"):
            folder = tmp_path / "trees" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(256, (12, 12, 3), generator=generator, dtype=torch.uint8)
                image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    small = [o for o in runs.TINY if not o.startswith("dataset")]
    config = compose(["dataset=image_folder", f"dataset.root={tmp_path / 'trees'}", *small, *SHORT,
                      "search=smoke", "evaluation=smoke", "evaluation.epochs=1",
                      f"run_dir={tmp_path / 'run'}"])
    result = execute(config, runs.quiet())
    assert result["status"] == "done" and result["dataset"] == "image_folder"
    network, _ = nasbench.load_model(tmp_path / "run" / "model-0.pt")
    assert network(torch.zeros(1, 3, 12, 12))[0].shape == (1, 3)


def test_draw_writes_the_picture_asked_for(tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["draw", "DARTS_V2", "-o", str(tmp_path / "cell.svg")]) == 0
    text = (tmp_path / "cell.svg").read_text()
    assert text.count("sep_conv_3x3") == 5 and text.count("dil_conv_3x3") == 1
    assert command(["draw", "DARTS_V2", "-o", str(tmp_path / "cell.gif")]) == 2
    assert "cell.gif" in capsys.readouterr().err
    assert command(["draw", "NOT_A_CELL", "-o", str(tmp_path / "cell.png")]) == 2


def test_the_search_never_opens_the_test_images(tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("the search opened the test images")

    monkeypatch.setattr(data, "evaluation_data", opened)
    runs.run(tmp_path / "run", *SHORT, "stage=search")


def test_onnx_export_gives_the_same_logits(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        runs.run(tmp_path / "run", *SHORT, "evaluation.epochs=1", "evaluation.export_onnx=true")
    network, _ = nasbench.load_model(tmp_path / "run" / "model-0.pt")
    x = torch.randn(3, 1, 8, 8)
    (logits,) = runtime.InferenceSession(tmp_path / "run" / "model-0.onnx").run(
        None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), network(x)[0].detach(), rtol=1e-3,
                               atol=1e-4)


def test_start_to_the_first_step(tmp_path: Path) -> None:
    """The whole process of a one-step search; a generous bound, CI machines are shared."""
    start = time.monotonic()
    subprocess.run([sys.executable, str(ROOT / "run.py"), *runs.TINY, *SHORT, "stage=search",
                    "dataset.limit_train=64", f"run_dir={tmp_path / 'run'}"], check=True,
                   cwd=tmp_path, stdout=subprocess.DEVNULL, env=os.environ)
    assert time.monotonic() - start < 60
