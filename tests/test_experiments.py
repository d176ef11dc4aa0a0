"""Every preset of conf/experiment composes and has the hyper-parameters its paper published."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nasbench import published
from nasbench.configuration import compose, config_folder

FOLDER = config_folder() / "experiment"
HYPERPARAMETERS = published.hyperparameters()


def preset_name(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix().removesuffix(".yaml")


PRESETS = sorted(preset_name(path) for path in FOLDER.rglob("*.yaml"))


@cache
def composed(preset: str) -> dict[str, Any]:
    return compose([f"experiment={preset}"])


def value(config: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_has_the_published_hyperparameters(preset: str) -> None:
    config = composed(preset)
    wanted = [row for row in HYPERPARAMETERS if fnmatchcase(preset, row["experiment"])]
    found = {row["key"]: value(config, row["key"]) for row in wanted}
    assert found == {row["key"]: json.loads(row["value"]) for row in wanted}


def test_every_hyperparameter_is_held_by_some_preset() -> None:
    for pattern in {row["experiment"] for row in HYPERPARAMETERS}:
        assert any(fnmatchcase(preset, pattern) for preset in PRESETS), pattern


def test_no_preset_is_held_against_two_values() -> None:
    for preset in PRESETS:
        wanted: dict[str, set[str]] = {}
        for row in HYPERPARAMETERS:
            if fnmatchcase(preset, row["experiment"]):
                wanted.setdefault(row["key"], set()).add(row["value"])
        assert all(len(values) == 1 for values in wanted.values()), (preset, wanted)


def test_every_own_row_of_a_paper_has_a_preset() -> None:
    for paper in published.index()["papers"].values():
        for row in paper["rows"]:
            if paper["algorithms"]:
                assert row["experiment"] in PRESETS, row


def test_presets_compare_under_the_protocol_of_their_row() -> None:
    for paper in published.index()["papers"].values():
        for row in paper["rows"]:
            if "experiment" in row and row["protocol"] != "darts600":
                assert value(composed(row["experiment"]), "evaluation.protocol") == row["protocol"]


def test_every_published_cell_a_preset_retrains_exists() -> None:
    from search_spaces.zoo import zoo

    for preset in PRESETS:
        name = value(composed(preset), "evaluation.genotype")
        assert name is None or name in zoo(), preset
        assert name is None or value(composed(preset), "stage") == "evaluate", preset


def test_sources_are_stated() -> None:
    for row in HYPERPARAMETERS:
        assert row["source"] and row["how_known"] in ("read", "derived", "inferred", "recalled")
