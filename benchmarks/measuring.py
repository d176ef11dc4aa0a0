"""What every benchmark needs: its options, the clock, memory, the machine's own rates."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nasbench.capture import WARM_UP


def count(text: str) -> int:
    """An argument that must be a positive integer."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def parser(description: str) -> argparse.ArgumentParser:
    """The options of all benchmarks."""
    out = argparse.ArgumentParser(description=description)
    out.add_argument("--json", action="store_true", help="print one JSON object")
    out.add_argument("--repeats", type=count, default=5)
    out.add_argument("--threads", type=count, default=None, help="CPU threads (default: torch's)")
    out.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    out.add_argument("--precision", choices=("float32", "bfloat16"),
                     default="bfloat16" if torch.cuda.is_available() else "float32",
                     help="of the fast form")
    return out


def run(options: argparse.ArgumentParser,
        measure: Callable[[argparse.Namespace, torch.device], dict[str, Any]],
        table: Callable[[dict[str, Any]], str]) -> None:
    """Parse, measure and print; what cannot be measured ends in one line and exit code 2."""
    a = options.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    try:
        device = torch.device(a.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        options.error(f"--device: {str(error).splitlines()[0]}")
    try:
        result = measure(a, device)
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        options.error(str(error).splitlines()[0])
    print(json.dumps(result, indent=1) if a.json else table(result))


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


def mebibytes(case: dict[str, Any], forms: Sequence[str]) -> str:
    """The peak memory of these forms, for a table."""
    return "/".join(str(round(case["peak_memory_bytes"][form] / 2**20)) for form in forms)


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
