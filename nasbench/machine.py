"""What this run computes on, and with which versions."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "hydra-core", "omegaconf")


def pick_device(wanted: str) -> torch.device:
    """`auto`, `cpu` or `gpu`; ValueError when a GPU is asked for and there is none."""
    if wanted == "gpu" and not torch.cuda.is_available():
        raise ValueError("hardware.device: no GPU is available to PyTorch here; use hardware=cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def is_device(name: str) -> bool:
    """Whether `cpu`, `cuda:0`, ... is a device of this machine."""
    try:
        return torch.empty(0, device=name).numel() == 0
    except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
        return False


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """device, name, count (GPUs, or CPU threads in use), memory_bytes."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {"device": "gpu", "name": properties.name, "count": 1,
                "memory_bytes": properties.total_memory}
    return {"device": "cpu", "name": _cpu_name(), "count": torch.get_num_threads(),
            "memory_bytes": _memory_bytes()}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def versions() -> dict[str, str | None]:
    """Python, this project and the packages results depend on."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": sys.platform}
    for package in ("nasbench-darts", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    found["cuda"] = torch.version.cuda if torch.cuda.is_available() else None
    return found


def commit() -> str | None:
    """The git commit of the source, with `+changes` if it is modified; None outside a checkout."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, check=True,
                              capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        if not (Path(git("rev-parse", "--show-toplevel")) / "run.py").is_file():
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain",
                                                             "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory(device: torch.device) -> int | None:
    """Peak bytes allocated on the GPU since the last reset; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def memory_in_use(device: torch.device) -> int:
    """Peak bytes so far: on the GPU, or of this process."""
    return peak_memory(device) or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
