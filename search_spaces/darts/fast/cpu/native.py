"""Building and calling the CPU kernels (`kernels/`): one compiler call per number type, cached.

The library depends on the sources, the compiler and the processor only, never on shapes or live
sets, so nothing is compiled during a search.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch

log = logging.getLogger(__name__)

KERNELS = Path(__file__).with_name("kernels")  # kernels.cpp includes the headers
FLAGS = ("-O3", "-march=native", "-fopenmp", "-std=c++17", "-shared", "-fPIC")
NAMES = {torch.float32: "float", torch.float64: "double"}


class Shape(ctypes.Structure):
    """Input [N,H,W,C], output [N,h,w,C], kernel, stride, dilation, threads."""

    _fields_ = [(name, ctypes.c_long) for name in "NHWChw"] + [
        (name, ctypes.c_int) for name in ("kernel", "stride", "dilation", "threads")]


_P, _L, _D = ctypes.c_void_p, ctypes.c_long, ctypes.c_double
SIGNATURES = {
    "conv_forward": (Shape, _P, _P, _P, _P, _P, _D, _P),
    "conv_backward": (Shape, _P, _P, _P, _P, _P, _P, _P, _P, _D, _P, _P, _P, _P),
    "point_forward": (Shape, _P, _P, _L, _P, _D, _P),
    "point_backward": (Shape, _P, _P, _L, _P, _P, _P, _P, _D, _P, ctypes.c_int, _P),
    "combine": (Shape, _L, _P, _P, _P, _P),
    "node_sums": (Shape, _L, _P, _P, _P, _P, _P),
    "pool_forward": (Shape, _P, _P, _P, _D, _P, _P),
    "shared_gradient": (Shape, _L, _P, _P, _P, _P, _P, _P),
    "pool_backward": (Shape, _P, _P, _P, _P),
    "update_running": (Shape, _L, _P, _P, _P, _P),
}


def compiler() -> list[str] | None:
    """The C++ compiler's command (`CXX`, else g++, c++, clang++), or None."""
    named = shlex.split(os.environ.get("CXX", ""))
    commands = [named] if named else [["g++"], ["c++"], ["clang++"]]
    return next(([found, *rest] for name, *rest in commands if (found := shutil.which(name))), None)


def cache_folder() -> Path:
    """`NASBENCH_CACHE`, else the user's cache folder."""
    base = os.environ.get("NASBENCH_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "nasbench")
    return Path(base)


@functools.cache
def library(dtype: torch.dtype) -> ctypes.CDLL:
    """The kernels for float32 or float64. Raises OSError where they cannot be built."""
    path = _path(dtype)
    if not path.exists():
        path = _compile(dtype, path)
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError:  # not a library
        loaded = ctypes.CDLL(str(_compile(dtype, path)))
    for name, arguments in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, None
    return loaded


def _path(dtype: torch.dtype) -> Path:
    found = compiler()
    if found is None:
        raise OSError("no C++ compiler found (CXX, g++, c++, clang++)")
    version = subprocess.run([*found, "--version"], capture_output=True, text=True).stdout
    try:  # -march=native: a cache on a shared disk must not serve another processor
        processor = [line for line in Path("/proc/cpuinfo").read_text().splitlines()
                     if line.startswith(("model name", "flags", "Features"))][:2]
    except OSError:
        processor = [platform.machine(), platform.processor()]
    sources = [p.read_text() for p in sorted(KERNELS.iterdir()) if p.suffix in (".h", ".cpp")]
    parts = [*sources, *found, version, *FLAGS, *processor, torch.__version__]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_folder() / f"search_kernels_{NAMES[dtype]}_{key}.so"


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory:
    """Of this process, removed with it."""
    return tempfile.TemporaryDirectory(prefix="nasbench-")


def _writable(folder: Path) -> Path:
    """The folder, or one of this process where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        log.warning("NASBENCH_CACHE: %s cannot be written (%s), so the search kernels are compiled "
                    "in every run", folder, error.strerror)
        return Path(_own_folder().name)


def _compile(dtype: torch.dtype, path: Path) -> Path:
    """Where it was built: there, if possible."""
    start = time.perf_counter()
    path = _writable(path.parent) / path.name
    log.info("compiling the search kernels (%s), once per machine", NAMES[dtype])
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        target = Path(folder) / path.name
        command = [*(compiler() or ()), *FLAGS, f"-DREAL={NAMES[dtype]}",
                   str(KERNELS / "kernels.cpp"), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            line = next((line for line in lines if "error" in line), lines[0])  # not "included by"
            raise OSError(f"the C++ compiler failed: {line}")
        target.replace(path)  # atomic: two runs may start together
    log.info("compiled the search kernels (%s) in %.1f s, kept in %s", NAMES[dtype],
             time.perf_counter() - start, path.parent)
    return path
