"""Which measured rows answer a published row, and when the two numbers may be compared."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from nasbench import published
from nasbench.published import Published
from nasbench.results.frame import genotype_id
from nasbench.tables.groups import REPEATS, SEARCHES, Group
from search_spaces.genotype import Genotype
from search_spaces.zoo import zoo

_NAMES = ("dataset.name", "evaluation.genotype", "evaluation.repeats", "early_stop.name")
_BASIS = {"searches": SEARCHES, "repeats": REPEATS}


def specification(paper: dict[str, Any], table: str, row: Published) -> dict[str, Any] | None:
    """The entry of papers.json for one of the paper's own rows; None for rows it cites."""
    for spec in paper["rows"]:
        if spec["table"] == table and spec["architecture"] == row.architecture \
                and spec.get("dataset", row.dataset) == row.dataset \
                and spec.get("search_dataset", row.search_dataset) == row.search_dataset \
                and row.architecture == spec["architecture"]:
            return spec
    return None


def answers(spec: dict[str, Any], row: Published, group: Group) -> bool:
    """Whether a measured row belongs under a published one."""
    if group.dataset != row.dataset:
        return False
    settings = spec.get("settings", {})
    fits = all(group.settings.get(key) == value for key, value in settings.items())
    if group.basis == REPEATS and group.genotype_id in {_zoo_id(c) for c in spec.get("cells", ())}:
        # A cell's own search settings are not known; what retraining can show must still fit.
        return all(group.settings.get(key) == value for key, value in settings.items()
                   if key.startswith("evaluation."))
    here = row.search_dataset in ("", row.dataset, row.dataset.replace("_", "-") + "-200")
    return "algorithm" in spec and group.algorithm == spec["algorithm"] and fits and here


def differences(spec: dict[str, Any], group: Group) -> list[str]:
    """What keeps the two numbers from being comparable, in words; empty when they are."""
    found = []
    if group.basis != _BASIS[spec["basis"]]:
        found.append(f"published: {_BASIS[spec['basis']]}")
    if group.protocol != spec["protocol"]:
        found.append(f"published protocol: {spec['protocol']}")
    if group.basis == SEARCHES and group.search_protocol != "paper":
        found.append(f"search {group.search_protocol}")
    if found:
        return found
    given = group.basis == REPEATS and group.algorithm is None
    for key, value in requirements(spec.get("experiment")).items():
        if key in _NAMES or key.endswith(".protocol"):
            continue
        if given and not key.startswith("evaluation."):
            continue
        if group.settings.get(key) != value:
            found.append(f"{key.split('.', 1)[1]} is {group.settings.get(key)}, published {value}")
    return found


@cache
def requirements(experiment: str | None) -> dict[str, Any]:
    """The published hyper-parameters of a preset, {"group.key": value}."""
    return {} if experiment is None else {
        row["key"]: json.loads(row["value"]) for row in published.hyperparameters()
        if fnmatchcase(experiment, row["experiment"])}


def counted_mult_adds(spec: dict[str, Any] | None, dataset: str) -> int | None:
    """Our own count of a published cell at the scale of its row, where it has been made."""
    needs = requirements((spec or {}).get("experiment"))
    scale = (needs.get("evaluation.channels"), needs.get("evaluation.cells"))
    for cell in (spec or {}).get("cells", ()):
        counted = zoo().get(cell, {}).get("counted", {})
        if dataset == "cifar10" and scale == (36, 20):
            return counted.get("cifar10_32px_macs_conv_linear")
        if dataset == "imagenet" and scale == (48, 14):
            return counted.get("imagenet_224px_macs_conv_linear")
    return None


@cache
def _zoo_id(name: str) -> str | None:
    record = zoo().get(name)
    return None if record is None else genotype_id(Genotype.from_dict(record).to_dict())
