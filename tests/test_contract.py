"""What every algorithm in conf/algorithm must do, whatever it is: search a small space of three
operations, derive valid cells, survive an interruption bit-equal, repeat under the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import runs

from nasbench.configuration import compose, config_folder
from nasbench.interrupt import Interrupted
from nasbench.session import Session
from search_spaces import Genotype

ALGORITHMS = sorted(p.stem for p in (config_folder() / "algorithm").glob("*.yaml"))
EPOCHS = 3


def overrides(algorithm: str) -> list[str]:
    """Few epochs; an algorithm whose smoke schedule needs more keeps its own."""
    smoke = compose([f"algorithm={algorithm}", *runs.TINY])["search"]["epochs"]
    return [f"algorithm={algorithm}", f"search.epochs={min(smoke, MINIMUM.get(algorithm, EPOCHS))}"]


MINIMUM = {"cars": 12}  # a few generations


@pytest.fixture(scope="module", params=ALGORITHMS)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
             ) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param) / "whole"
    runs.run(folder, *overrides(request.param))
    return request.param, folder


def test_result(finished: tuple[str, Path]) -> None:
    algorithm, folder = finished
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "done" and result["algorithm"] == algorithm
    assert result["search"]["genotypes"] and result["search"]["stop_reason"]
    assert len(result["evaluation"]) == len(result["search"]["genotypes"])
    for found in result["search"]["genotypes"]:
        genotype = Genotype.from_dict(found["genotype"])
        names = {op for cell in (genotype.normal, genotype.reduce) for op, _, _ in cell.edges}
        assert names <= {"skip_connect", "sep_conv_3x3"}
        assert isinstance(found["params"], int) and isinstance(found["mult_adds"], int)
        assert found["derivation"]
    for entry in result["evaluation"]:
        assert 0 <= entry["test_error_percent"] <= 100
    if result["search"]["epochs"] == 0:  # nothing to train
        return
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert {"phase", "epoch", "train_loss", "valid_loss", "supernet_valid_accuracy",
            "learning_rate", "live_operations", "skip_connects", "seconds"} <= first.keys()
    assert {"data", "architecture", "weights", "evaluation"} <= first["seconds"].keys()
    assert sum(result["search"]["seconds_by_section"].values()) == pytest.approx(
        result["search"]["seconds"], abs=0.01)


@pytest.mark.parametrize("after", [3, 9])
def test_interrupted_and_continued_is_equal(finished: tuple[str, Path], tmp_path: Path, after: int,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, whole = finished
    original, calls = Session.step_done, 0

    def stop(self: Session, state, healthy) -> None:  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls == after:
            self.interrupt.received = 15
        original(self, state, healthy)

    monkeypatch.setattr(Session, "step_done", stop)
    with pytest.raises(Interrupted):
        runs.run(tmp_path / "cut", *overrides(algorithm))
    monkeypatch.setattr(Session, "step_done", original)
    assert json.loads((tmp_path / "cut" / "result.json").read_text())["status"] == "interrupted"
    runs.run(tmp_path / "cut", *overrides(algorithm))
    runs.assert_same_run(whole, tmp_path / "cut")
