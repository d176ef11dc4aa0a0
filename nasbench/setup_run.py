"""From a resolved configuration to typed settings and built parts; every check before any file."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from algorithms.early_stop import EarlyStop
from algorithms.strategy import Strategy
from nasbench.build import component, construct, locate
from nasbench.data import DataInfo, DatasetSettings
from nasbench.data import describe as describe_data
from nasbench.machine import is_device, pick_device
from nasbench.precision import Precision
from nasbench.settings import (
    EvaluationSettings,
    HardwareSettings,
    SearchSettings,
    SpaceSettings,
    require,
)
from search_spaces import Cell, CellSpace, Genotype, SearchNetwork, load_genotype

STAGES = ("search", "evaluate", "all")


@dataclass(frozen=True)
class Parts:
    """Everything a run is built from."""

    stage: str
    seed: int
    hardware: HardwareSettings
    device: torch.device
    precision: Precision
    dataset: DatasetSettings
    info: DataInfo
    search: SearchSettings
    evaluation: EvaluationSettings
    space: CellSpace
    space_settings: SpaceSettings
    strategy: Strategy
    early_stop: EarlyStop
    given: tuple[str, Genotype] | None

    @property
    def plain_only(self) -> bool:
        """Whether only the plain search network computes in this precision on this device."""
        return self.device.type == "cpu" and self.precision.name != "float32"

    def search_network(self, kind: type[SearchNetwork]) -> SearchNetwork:
        """A fresh search network of this class, drawn from torch's global generator."""
        return kind(
            self.space, self.search.channels, self.search.cells, self.info.classes,
            image_size=self.info.image_size, in_channels=self.info.channels,
            stem=self.space_settings.stem, share_cells=self.space_settings.share_cells)

    def final_network(self, genotype: Genotype, *, training: bool = False) -> nn.Module:
        """A fresh final network; `training` adds the auxiliary head and drop-path."""
        e = self.evaluation
        extra = {"squeeze_excitation": True} if e.squeeze_excitation else {}
        return locate(e.network)(
            genotype, e.channels, e.cells, self.info.classes, image_size=self.info.image_size,
            in_channels=self.info.channels, stem=self.space_settings.stem,
            auxiliary=training and e.auxiliary_weight > 0,
            drop_path=training and e.drop_path > 0, **extra)


def hardware(config: dict[str, Any]) -> tuple[HardwareSettings, torch.device, Precision]:
    """Settings, device and precision; ValueError when a GPU is asked for and there is none."""
    settings = construct(HardwareSettings, config["hardware"], "hardware")
    device = pick_device(settings.device)
    return settings, device, Precision.choose(device, settings.precision, settings.tf32)


def prepare(config: dict[str, Any]) -> Parts:
    """Validate the whole configuration. Raises ValueError or FileNotFoundError, one line each."""
    require(config["stage"] in STAGES, "stage", ", ".join(STAGES), config["stage"])
    check_seed(config["seed"])
    settings, device, precision = hardware(config)
    space_settings = construct(SpaceSettings, config["search_space"], "search_space")
    for module in space_settings.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"search_space.modules: {module}: {error}") from None
    space = CellSpace(tuple(space_settings.operations), space_settings.nodes)
    search = construct(SearchSettings, config["search"], "search")
    evaluation = construct(EvaluationSettings, config["evaluation"], "evaluation")
    strategy = component(config["algorithm"], "algorithm", ("paper", "smoke", "share_cells"))
    require(strategy.latency_device is None or is_device(strategy.latency_device),
            "algorithm.latency_device", "a device of this machine", strategy.latency_device)
    early_stop = component(config["early_stop"], "early_stop")
    given = None
    if evaluation.genotype is not None:
        given = load_genotype(evaluation.genotype)
        require(config["stage"] == "evaluate", "stage",
                "evaluate when evaluation.genotype is given (there is nothing to search)",
                config["stage"])
    dataset = construct(DatasetSettings, config["dataset"], "dataset")
    for section, settings_of, policy in (("search", search, None),
                                         ("evaluation", evaluation, evaluation.policy)):
        try:
            dataset.augmentation(cutout=settings_of.cutout, policy=policy)
        except ValueError as error:
            raise ValueError(f"{section}.{error}") from None
    info = describe_data(dataset, test=config["stage"] != "search" and not evaluation.holdout)
    parts = Parts(config["stage"], config["seed"], settings, device, precision, dataset, info,
                  search, evaluation, space, space_settings, strategy, early_stop, given)
    require(not (parts.plain_only and space_settings.implementation == "fast"),
            "search_space.implementation", "auto or plain with bfloat16 on a CPU", "fast")
    _check_networks(parts)
    return parts


def check_seed(seed: object) -> None:
    require(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**31, "seed",
            "an integer from 0 to 2147483647", seed)


def _check_networks(parts: Parts) -> None:
    """Build both networks without memory, so that an impossible size is refused at once."""
    with torch.device("meta"):
        if parts.stage != "evaluate":
            _named("search, search_space or dataset",
                   lambda: parts.search_network(SearchNetwork))
        if parts.stage != "search":
            probe = parts.given[1] if parts.given else _any_genotype(parts.space)
            _named("evaluation or dataset",
                   lambda: parts.final_network(probe, training=True))


def _any_genotype(space: CellSpace) -> Genotype:
    cell = Cell(((space.operations[space.real[0]], 0, 2),), (2,))
    return Genotype(cell, cell)


def _named(sections: str, build: Callable[[], nn.Module]) -> None:
    try:
        build()
    except ValueError as error:
        text = str(error)
        key = text.split(" ", 1)[0].rstrip(":")
        raise ValueError(text if "." in key else f"{sections}: {text}") from None
