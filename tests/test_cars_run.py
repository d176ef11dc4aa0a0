"""CARS through the runner: one schedule over all generations, and continuing after any of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runs

from nasbench import runner
from nasbench.interrupt import Interrupted
from nasbench.schedules import cosine
from nasbench.session import Session

EPOCHS = 5
SETTINGS = ["algorithm=cars", f"search.epochs={EPOCHS}", "algorithm.warmup_epochs=1",
            "algorithm.epochs_per_generation=1", "algorithm.population=4",
            "algorithm.family_size=2", "stage=search"]


@pytest.fixture(scope="module", autouse=True)
def no_drawings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_report_search", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cars") / "whole"
    runs.run(folder, *SETTINGS)
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in found if line["phase"] == "search"]


def test_one_cosine_and_generations_whose_scoring_is_search_cost(whole: Path) -> None:
    found = lines(whole)
    rates = [line["learning_rate"] for line in found]
    assert rates == [cosine(epoch, EPOCHS, 0.05, 0.001) for epoch in range(EPOCHS)]
    assert [line.get("generation") for line in found] == [None, 1, 2, 3, 4]
    assert [line.get("candidates_scored", 0) for line in found] == [0, 16, 12, 12, 12]
    scoring = [line["seconds"]["evaluation"] for line in found]
    assert scoring[0] == 0 and min(scoring[1:]) > 0
    result = json.loads((whole / "result.json").read_text())
    assert result["search"]["seconds_by_section"]["evaluation"] == pytest.approx(
        sum(scoring), abs=0.01)


@pytest.mark.parametrize(("generation", "steps"), [(1, 0), (2, 1)])
def test_continued_after_a_generation_is_equal(whole: Path, tmp_path: Path, generation: int,
                                               steps: int, monkeypatch: pytest.MonkeyPatch
                                               ) -> None:
    """`steps` into the training that follows the generation."""
    original = Session.step_done

    def stop(self: Session, state: Any, healthy: Any) -> None:
        now = state()
        if now["phase"] == "search" and now["strategy"]["generation"] == generation \
                and now["step"] == steps:
            self.interrupt.received = 15
        original(self, state, healthy)

    monkeypatch.setattr(Session, "step_done", stop)
    with pytest.raises(Interrupted):
        runs.run(tmp_path / "cut", *SETTINGS)
    assert lines(tmp_path / "cut")[-1]["generation"] == generation
    monkeypatch.setattr(Session, "step_done", original)
    runs.run(tmp_path / "cut", *SETTINGS)
    runs.assert_same_run(whole, tmp_path / "cut")
