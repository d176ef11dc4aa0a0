"""One first-order DARTS search step: plain eager NCHW, plain channels-last, fast.

    python -m benchmarks.search_step [--json] [--batch 16 64] [--live dense half genotype]
                                     [--repeats 5] [--channels 16] [--cells 8] [--threads N]
                                     [--precision float32|bfloat16]

A step is the gradient of one batch's loss with respect to the mixing coefficients, and the
gradient of another's with respect to the weights, with the SGD update, through the trainer that
searches use. All three networks hold the same weights, see the same batches and take turns in one
process; times are medians. The plain forms are eager float32; on a GPU the fast form also has the
precision of `--precision` (bfloat16 unless told) and recorded steps, except for `genotype`, whose
live set changes at every step of a search. `ratio` is the smallest plain NCHW / fast of all cases.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasbench.capture import WARM_UP
from nasbench.clock import Clock
from nasbench.precision import Precision
from nasbench.search.weights import SupernetWeights
from search_spaces import CellSpace, Mixing, SearchNetwork
from search_spaces.darts.fast import choose

OPERATIONS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3",
              "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
LIVE = {"dense": "all operations: DARTS, DARTS+, the start of ASAP and BayesNAS",
        "half": "a random half: ASAP and BayesNAS midway",
        "genotype": "two edges per node, one operation each: CARS, random search"}
FORMS = ("plain_nchw", "plain_channels_last", "fast")


def live_mask(space: CellSpace, kind: str, seed: int = 0) -> Tensor:
    """bool [2, edges, operations]."""
    g = torch.Generator().manual_seed(seed)
    shape = (2, len(space.edges), len(space.operations))
    if kind == "dense":
        return torch.ones(shape, dtype=torch.bool)
    if kind == "half":
        return torch.rand(shape, generator=g) < 0.5
    mask = torch.zeros(shape, dtype=torch.bool)
    for row in mask:
        for node in space.concat:
            edges = space.incoming(node)
            for e in torch.randperm(len(edges), generator=g)[:2].tolist():
                pick = int(torch.randint(len(space.real), (), generator=g))
                row[edges[e], space.real[pick]] = True
    return mask


def networks(space: CellSpace, channels: int, cells: int, size: int, device: torch.device
             ) -> dict[str, SearchNetwork]:
    """The three forms with the same weights."""
    torch.manual_seed(0)
    out: dict[str, SearchNetwork] = {}
    for form in FORMS:
        kind = choose("fast", device) if form == "fast" else SearchNetwork
        network = kind(space, channels, cells, 10, image_size=size).to(device)
        if out:
            network.load_state_dict(out["plain_nchw"].state_dict())
        out[form] = network
    out["plain_channels_last"].to(memory_format=torch.channels_last)
    return out


def make_step(network: SearchNetwork, form: str, batch: int, size: int, live: Tensor,
              precision: str = "float32", cuda_graphs: bool = False) -> Callable[[], None]:
    """The step as a function without arguments; precision and graphs are the fast form's."""
    device = network.classifier.weight.device
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, batch, 3, size, size, generator=g).to(device)
    y = torch.randint(10, (2, batch), generator=g).to(device)
    alpha = 1e-3 * torch.randn(network.mixing_shape, generator=g)
    weights = network.place(alpha.masked_fill(~live, -torch.inf).softmax(-1).nan_to_num(0.0))
    images = [b.contiguous(memory_format=torch.channels_last) if form == "plain_channels_last"
              else b for b in x]
    fast = form == "fast"
    chosen = Precision.choose(device, precision if fast else "float32", None)
    trainer = SupernetWeights(
        network, learning_rate=1e-3, momentum=0.9, weight_decay=3e-4, grad_clip=5.0, clock=Clock(),
        precision=chosen, cuda_graphs=fast and cuda_graphs)

    def step() -> None:
        chosen.apply()  # TF32 with bfloat16 only, so plain is float32 indeed
        trainer.gradients((images[0], y[0]), Mixing(weights, live))
        trainer.step((images[1], y[1]), Mixing(weights, live))

    return step


def seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def alternate(steps: dict[str, Callable[[], None]], repeats: int, device: torch.device
              ) -> dict[str, float]:
    """Median milliseconds per form, in turns, after warming up (on a GPU until it is recorded)."""
    for step in steps.values():
        for _ in range(WARM_UP + 2 if device.type == "cuda" else 1):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            times[name].append(seconds(step, device))
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def peak_memory(step: Callable[[], None], device: torch.device) -> int:
    """Most bytes a step holds at once beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU],
                                profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def floors(network: SearchNetwork, batch: int, size: int, live: Tensor,
           rates: tuple[float, float], bytes_per_value: int = 4) -> dict[str, float]:
    """Estimated milliseconds that a step's arithmetic and its memory traffic need at full rate.

    Operations: convolution multiply-adds, twice forward, twice to the inputs, once to the weights.
    Bytes: the output of every live convolution is written once and read three times (forward, sums
    and gradient of its normalisation), in both passes; nothing else need leave the cache.
    """
    counted = {"macs": 0, "values": 0}

    def hook(module: nn.Conv2d, _: Any, out: Tensor) -> None:
        per_output = module.weight[0].numel()
        counted["macs"] += out.numel() * per_output
        counted["values"] += out.numel() if module.groups == 1 else 0

    hooks = [m.register_forward_hook(hook) for m in network.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        weights = network.place(live.float())
        network(torch.zeros(1, 3, size, size).to(weights), Mixing(weights, live))
    for h in hooks:
        h.remove()
    operations, bandwidth = rates
    return {"operations_ms": 1e3 * 2 * 5 * batch * counted["macs"] / operations,
            "bytes_ms": 1e3 * 2 * 4 * bytes_per_value * batch * counted["values"] / bandwidth,
            "forward_gflop_per_image": 2e-9 * counted["macs"]}


def machine_rates(device: torch.device, precision: str = "float32") -> tuple[float, float]:
    """Measured operations per second (a square product) and bytes per second (a copy)."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, size, size, device=device, dtype=getattr(torch, precision)).unbind()
    big = torch.randn(1 << (28 if device.type == "cuda" else 25), device=device)
    out, target = torch.empty_like(a), torch.empty_like(big)
    product = min(seconds(lambda: torch.mm(a, b, out=out), device) for _ in range(5))
    copy = min(seconds(lambda: target.copy_(big), device) for _ in range(5))
    return 2 * size**3 / product, 2 * big.nbytes / copy


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def environment(device: torch.device, precision: str = "float32") -> dict[str, Any]:
    return {"device": device_name(device), "device_type": device.type, "dtype": precision,
            "threads": torch.get_num_threads(), "torch": torch.__version__,
            "python": platform.python_version()}


def measure(batch: int, kind: str, *, channels: int, cells: int, size: int, repeats: int,
            device: torch.device, precision: str, rates: tuple[float, float]) -> dict[str, Any]:
    space = CellSpace(OPERATIONS)
    live = live_mask(space, kind)
    forms = networks(space, channels, cells, size, device)
    steps = {form: make_step(network, form, batch, size, live, precision, kind != "genotype")
             for form, network in forms.items()}
    ms = alternate(steps, repeats, device)
    print(f"batch {batch}, {kind}: " + ", ".join(f"{k} {v:.1f} ms" for k, v in ms.items()),
          file=sys.stderr, flush=True)
    eager = {form: make_step(network, form, batch, size, live, precision)
             for form, network in forms.items()}  # a recorded step allocates when it is recorded
    memory = {form: peak_memory(step, device) for form, step in eager.items()}
    return {"batch": batch, "live": kind, "live_operations": int(live.sum()), "channels": channels,
            "cells": cells, "image_size": size, **{f"{form}_ms": ms[form] for form in FORMS},
            "ratio": ms["plain_nchw"] / ms["fast"],
            "ratio_to_channels_last": ms["plain_channels_last"] / ms["fast"],
            "images_per_second": {form: 2e3 * batch / ms[form] for form in FORMS},
            "peak_memory_bytes": memory, "repeats": repeats,
            "floors": floors(forms["plain_nchw"], batch, size, live, rates,
                             2 if precision == "bfloat16" else 4)}


def parser(description: str) -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=description)
    out.add_argument("--json", action="store_true", help="print one JSON object")
    out.add_argument("--repeats", type=int, default=5)
    out.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's)")
    out.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    out.add_argument("--precision", choices=("float32", "bfloat16"),
                     default="bfloat16" if torch.cuda.is_available() else "float32",
                     help="of the fast form")
    return out


def main() -> None:
    p = parser("A first-order DARTS search step: plain against fast.")
    p.add_argument("--batch", type=int, nargs="+", default=[16, 64])
    p.add_argument("--live", nargs="+", choices=list(LIVE), default=list(LIVE))
    p.add_argument("--channels", type=int, default=16)
    p.add_argument("--cells", type=int, default=8)
    p.add_argument("--image-size", type=int, default=32)
    a = p.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    device = torch.device(a.device)
    rates = machine_rates(device, a.precision)
    cases = [measure(b, kind, channels=a.channels, cells=a.cells, size=a.image_size,
                     repeats=a.repeats, device=device, precision=a.precision, rates=rates)
             for b in a.batch for kind in a.live]
    result = {"benchmark": "search_step", "ratio": min(c["ratio"] for c in cases),
              **environment(device, a.precision), "gflops": rates[0] / 1e9,
              "gigabytes_per_second": rates[1] / 1e9, "cases": cases}
    if a.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['device']}, {result['threads']} threads, torch {result['torch']}, "
          f"{a.precision} (plain: float32), "
          f"C={a.channels}, {a.cells} cells, {a.image_size}x{a.image_size}; milliseconds per step")
    print(f"{'batch':>5} {'live':>9} {'NCHW':>8} {'ch.last':>8} {'fast':>8} {'ratio':>6} "
          f"{'(c.l.)':>6} {'floor ops':>9} {'bytes':>6}  peak MiB NCHW/fast")
    for c in cases:
        memory = [round(c["peak_memory_bytes"][k] / 2**20) for k in ("plain_nchw", "fast")]
        print(f"{c['batch']:>5} {c['live']:>9} {c['plain_nchw_ms']:>8.1f} "
              f"{c['plain_channels_last_ms']:>8.1f} {c['fast_ms']:>8.1f} {c['ratio']:>6.2f} "
              f"{c['ratio_to_channels_last']:>6.2f} {c['floors']['operations_ms']:>9.1f} "
              f"{c['floors']['bytes_ms']:>6.1f}  {memory[0]}/{memory[1]}")
    print(f"ratio (worst case): {result['ratio']:.2f}")


if __name__ == "__main__":
    main()
