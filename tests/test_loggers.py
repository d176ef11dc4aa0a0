"""Trackers mirror a run, can be read back, and are not imported unless switched on."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nasbench import loggers
from nasbench.loggers import Logger, open_logger
from nasbench.plots import draw, save

METRICS = [{"phase": "search", "epoch": e, "train_loss": 1.0 / (e + 1), "genotype": "text",
            "seconds": {"weights": 2.0}} for e in range(3)]
METRICS.append({"phase": "evaluate", "epoch": 0, "test_error_percent": 5.5})


def config(**settings: Any) -> dict[str, Any]:
    return {"logger": settings, "search": {"epochs": 3}, "seed": 0}


def mirror(logger: Logger, folder: Path) -> None:
    """What a run does with its logger."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"title": "T", "x_label": "x", "y_label": "y", "series": {"s": [(0, 1), (1, 2)]}}
    drawing = save(draw(spec), folder / "cells")
    (folder / "result.json").write_text('{"status": "done"}')
    for metrics in METRICS:
        logger.log(metrics)
    logger.table("result", ["cell", "error"], [["a", 5.5], ["b", None]])
    for path in [*drawing, folder / "result.json", folder / "missing.json"]:
        logger.artifact(path)
    logger.close()


def test_none_does_nothing(tmp_path: Path) -> None:
    logger = open_logger("none", tmp_path / "run", config(name="none"))
    logger.log(METRICS[0])
    logger.table("t", ["a"], [[1]])
    logger.artifact(tmp_path)
    logger.close(failed=True)
    assert not (tmp_path / "run").exists()


def test_unknown_name_and_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="logger.name: must be one of none, wandb, tensorboard"):
        open_logger("mlflow", tmp_path, config())
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="wandb is not installed .*; pip install wandb"):
        open_logger("wandb", tmp_path, config(mode="offline", project="p", entity=None))


def test_trackers_are_not_imported_unless_switched_on() -> None:
    code = ("import sys, nasbench.loggers as l; l.open_logger('none', 'x', {}); "
            "print([m for m in ('wandb', 'tensorboard', 'torch') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=Path(loggers.__file__).parents[1], timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_numbers_are_flat_and_prefixed() -> None:
    assert loggers.numbers(METRICS[1]) == {
        "search/train_loss": 0.5, "search/seconds/weights": 2.0, "epoch": 1}
    assert loggers.numbers({"a": 1}, step=7) == {"a": 1, "epoch": 7}


def wandb_records(path: Path) -> list[Any]:
    """Read a `.wandb` file back: LevelDB's log format after a seven-byte header."""
    from wandb.proto import wandb_internal_pb2

    data, records, part = path.read_bytes(), [], b""
    assert data[:4] == b":W&B"
    at = 7
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at:at + 7])
        part += data[at + 7:at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            records.append(record)
            part = b""
    return records


def finished_records(path: Path) -> list[Any]:
    """The service writes the last records just after `finish` returns."""
    for _ in range(100):
        records = wandb_records(path)
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError(f"{path} never got its exit record")


def test_wandb_offline_run_can_be_read_back(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    settings = config(name="wandb", mode="offline", project="test", entity=None)
    for job in range(2):  # a sweep: every job is a run of its own
        mirror(open_logger("wandb", tmp_path / f"run{job}", settings), tmp_path / f"run{job}")
    files = sorted(tmp_path.glob("run*/wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and len({f.name for f in files}) == 2
    records = finished_records(files[0])
    history = [{(item.key or ".".join(item.nested_key)): json.loads(item.value_json)
                for item in record.history.item}
               for record in records if record.WhichOneof("record_type") == "history"]
    losses = [line["search/train_loss"] for line in history if "search/train_loss" in line]
    assert losses == [1.0, 0.5, 1 / 3]
    assert any(line.get("evaluate/test_error_percent") == 5.5 for line in history)
    kept = {value for line in history for key, value in line.items() if key.endswith("._type")}
    assert {"table-file", "image-file"} <= kept
    names = {e.path for r in records if r.WhichOneof("record_type") == "artifact"
             for e in r.artifact.manifest.contents}
    assert {"result.json", "cells.svg", "cells.png"} <= names
    assert any(r.run.config for r in records if r.WhichOneof("record_type") == "run")


def test_wandb_mode_is_checked(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    with pytest.raises(ValueError, match="logger.mode: must be offline or online, got 'x'"):
        open_logger("wandb", tmp_path, config(mode="x", project="p", entity=None))


def test_tensorboard_can_be_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    mirror(open_logger("tensorboard", tmp_path / "run", config(name="tensorboard")),
           tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    values = [(e.step, round(e.value, 5)) for e in events.Scalars("search/train_loss")]
    assert values == [(0, 1.0), (1, 0.5), (2, 0.33333)]
    assert events.Tags()["images"] == ["drawings/cells"]
    assert {"result/text_summary", "files/result.json/text_summary", "config/text_summary"} <= set(
        events.Tags()["tensors"])


def test_configurations_name_known_loggers() -> None:
    from nasbench.configuration import compose

    for name in loggers.KINDS:
        assert compose([f"logger={name}"])["logger"]["name"] == name
