"""Every counted published cell is exact, and every published cell builds."""

from __future__ import annotations

import json

import pytest
import torch

from nasbench.__main__ import main
from nasbench.measure import count_mult_adds, count_params
from search_spaces import FinalNetwork, Genotype, load_genotype, zoo

COUNTED = [name for name, record in zoo().items() if "counted" in record]
SCALES = {"cifar10_C36_L20": (36, 20, 10, 32, "cifar10_32px"),
          "imagenet_C48_L14": (48, 14, 1000, 224, "imagenet_224px")}


def build(name: str, channels: int, cells: int, classes: int, size: int) -> FinalNetwork:
    with torch.device("meta"):
        return FinalNetwork(load_genotype(name)[1], channels, cells, classes, image_size=size,
                            auxiliary=True)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", COUNTED)
def test_counts(name: str, scale: str) -> None:
    counted = zoo()[name]["counted"]
    channels, cells, classes, size, macs = SCALES[scale]
    if f"{scale}_params" not in counted:
        pytest.skip(f"{name} is not counted at {scale}")
    network = build(name, channels, cells, classes, size)
    assert count_params(network) == counted[f"{scale}_params"]
    assert count_params(network, auxiliary=True) == counted[f"{scale}_params_with_aux"]
    assert count_mult_adds(network, 3, size) == counted[f"{macs}_macs_conv_linear"]


@pytest.mark.parametrize("name, millions", [("FairDARTS_a", 2.361), ("FairDARTS_b", 3.408),
                                            ("FairDARTS_d", 3.366), ("DrNAS_cifar10", 4.099),
                                            ("GDAS_V1", 3.369), ("SNAS_moderate", 2.847)])
def test_rounded_counts(name: str, millions: float) -> None:
    assert round(count_params(build(name, 36, 20, 10, 32)) / 1e6, 3) == millions


@pytest.mark.parametrize("name", zoo())
def test_every_cell_trains(name: str) -> None:
    torch.manual_seed(0)
    genotype = load_genotype(name)[1]
    assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype
    network = FinalNetwork(genotype, 4, 3, 10, image_size=8, auxiliary=True, drop_path=True)
    network.drop_rate.fill_(0.2)
    logits, auxiliary = network(torch.randn(2, 3, 8, 8))
    (logits.sum() + auxiliary.sum()).backward()
    assert logits.shape == auxiliary.shape == (2, 10)
    assert torch.isfinite(network.classifier.weight.grad).all()


def test_describe_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "DARTS_V2", "CARS_A", "--auxiliary"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first == {"name": "DARTS_V2", "params": 3349342, "params_with_auxiliary": 3825768,
                     "mult_adds": 528359040, "cells": 20, "channels": 36, "input_size": 32}
    assert second["params"] == 2432206
    assert main(["describe", "DARTS_V2", "--dataset", "imagenet"]) == 0
    (large,) = json.loads(capsys.readouterr().out)
    assert (large["params"], large["mult_adds"]) == (4718752, 529911552)
    assert large["params_with_auxiliary"] is None
