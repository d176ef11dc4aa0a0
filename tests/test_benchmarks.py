"""Every benchmark runs from its command line and reports what it says it does, at toy sizes."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
import torch

from benchmarks import launches
from benchmarks.breakdown import floors
from benchmarks.forms import LIVE, live_mask, networks
from search_spaces import CellSpace, SearchNetwork
from search_spaces.darts.fast import BatchedSearchNetwork
from search_spaces.darts.fast.cpu import native
from tests.harness import DARTS_OPERATIONS

pytestmark = [
    pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler"),
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Profiler")]

SMALL = ["--device", "cpu", "--precision", "float32", "--threads", "1", "--repeats", "1"]
COMMANDS = {
    "search_step": ["--batch", "2", "--live", "genotype", "half", "--channels", "4", "--cells", "2",
                    "--image-size", "8"],
    "algorithms": ["--batch", "2", "--channels", "2", "--algorithm", "darts_2nd", "cars"],
    "scaling": ["--axis", "cells"],
    "retrain_step": ["--batch", "2", "--channels", "4", "--cells", "2"],
    "cars_evaluation": ["--batch", "2", "3", "--channels", "4", "--cells", "2", "--image-size", "8",
                        "--images", "20", "--score-batch", "10", "--candidates", "1"],
}


def report(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    monkeypatch.setattr("sys.argv", [name, *SMALL, *arguments])
    importlib.import_module(f"benchmarks.{name}").main()
    return str(capsys.readouterr().out)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_reports(name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    record = json.loads(report(name, ["--json", *COMMANDS[name]], monkeypatch, capsys))
    assert record["benchmark"] == name and record["device_type"] == "cpu"
    assert record["dtype"] == "float32" and record["threads"] == 1
    assert record["torch"] == torch.__version__ and record["device"]
    cases = record.get("cases") or [p for curve in record["curves"].values() for p in curve]
    assert record["ratio"] == min(case["ratio"] for case in cases) > 0
    for case in cases:
        times = {k: v for k, v in case.items() if k.endswith("_ms")}
        assert len(times) >= 2 and all(v > 0 for v in times.values())
        assert all(v > 0 for v in case.get("peak_memory_bytes", {}).values())


def test_the_search_step_names_algorithms_and_breaks_the_cost_down(
        monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    sizes = ["--batch", "2", "--channels", "4", "--cells", "2", "--image-size", "8"]
    record = json.loads(report("search_step", ["--json", *sizes], monkeypatch, capsys))
    assert [(c["batch"], c["live"]) for c in record["cases"]] == [(2, live) for live in LIVE]
    for case in record["cases"]:
        assert case["algorithms"] == LIVE[case["live"]]
        assert case["ratio"] == case["plain_nchw_ms"] / case["fast_ms"]
        assert ("breakdown" in case) == (case["live"] == "dense")
    parts = record["cases"][0]["breakdown"]
    assert [p["part"] for p in parts] == ["fixed", *DARTS_OPERATIONS[1:]]
    # the parts' arithmetic is the whole's (but for the two kept skips, counted in `fixed`)
    whole = record["cases"][0]["floors"]["forward_gflop_per_image"]
    assert sum(p["forward_gflop_per_image"] for p in parts) == pytest.approx(whole, rel=1e-6)
    table = report("search_step", [*sizes, "--live", "dense"], monkeypatch, capsys)
    assert "what each kind costs" in table and "dil_conv_5x5" in table


@pytest.mark.parametrize(("name", "arguments", "words"), [
    ("search_step", ["--batch", "0"], "--batch: must be a positive integer, got '0'"),
    ("search_step", ["--batch", "2", "--channels", "3"], "channels must be even"),
    ("search_step", ["--device", "abacus"], "abacus"),
    ("search_step", ["--batch", "2", "--precision", "bfloat16"], "computes in float32 on a CPU"),
    ("retrain_step", ["--genotype", "NOPE"], "NOPE: neither a published cell"),
    ("algorithms", ["--repeats", "none"], "--repeats: must be a positive integer")])
def test_a_mistake_is_one_line(name: str, arguments: list[str], words: str,
                               monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.argv", [name, *SMALL, *arguments])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(f"benchmarks.{name}").main()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and words in line


def test_the_floor_counts_what_is_live() -> None:
    """By hand: a dilated 3x3 convolution of C channels is 9 + C multiply-adds per output value; two
    reduction cells of an 8x8 image have 8 channels of 4x4 and 16 of 2x2."""
    space = CellSpace(DARTS_OPERATIONS)
    network = networks(space, 4, 2, 8, torch.device("cpu"))["plain_nchw"]
    rates, nothing = (1e9, 1e9), torch.zeros_like(live_mask(space, "dense"))
    live = nothing.clone()
    live[1, 0, DARTS_OPERATIONS.index("dil_conv_3x3")] = True
    base, more = (floors(network, 3, 8, mask, rates, "float32") for mask in (nothing, live))
    macs, values = 128 * (9 + 8) + 64 * (9 + 16), 128 + 64
    assert more["forward_gflop_per_image"] - base["forward_gflop_per_image"] == \
        pytest.approx(2e-9 * macs)
    assert more["operations_ms"] - base["operations_ms"] == pytest.approx(1e3 * 10 * 3 * macs / 1e9)
    assert more["bytes_ms"] - base["bytes_ms"] == pytest.approx(1e3 * 8 * 4 * 3 * values / 1e9)
    half = floors(network, 3, 8, live, rates, "bfloat16")
    assert half["bytes_ms"] == pytest.approx(more["bytes_ms"] / 2)


def test_the_batched_network_launches_less() -> None:
    plain, batched = (launches.count(kind, "dense") for kind in (SearchNetwork,
                                                                 BatchedSearchNetwork))
    assert plain["step"] > 5 * batched["step"]
    for counted in (plain, batched):
        assert counted["mixing_backward"] < counted["backward"]
