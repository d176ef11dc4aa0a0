"""A run killed with SIGKILL anywhere and continued ends bit-equal to an uninterrupted one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import runs

ROOT = Path(__file__).parent.parent
SETTINGS = ["search.epochs=2", "hardware.checkpoint_seconds=0"]

# The child dies at its n-th save: before anything is written, between the temporary file and the
# renaming, or right after.
CHILD = """
import os, signal, sys
from pathlib import Path
import torch
import runs
from nasbench import checkpoint
n, moment, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
count, save, replace = 0, checkpoint.save, os.replace
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def dying(*arguments):
    global count
    count += 1
    if count == n and moment == "before": die()
    if count == n and moment == "during": os.replace = die
    save(*arguments)
    if count == n: die()
checkpoint.save = dying
runs.run(Path(folder), *sys.argv[4:])
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    runs.run(folder, *SETTINGS)
    return folder


@pytest.mark.parametrize("n, moment", [(1, "before"), (2, "during"), (3, "after"), (6, "during"),
                                       (11, "after")])
def test_killed_and_continued(whole: Path, tmp_path: Path, n: int, moment: str) -> None:
    folder = tmp_path / "run"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    child = subprocess.run([sys.executable, "-c", CHILD, str(n), moment, str(folder), *SETTINGS],
                           env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, timeout=300)
    assert child.returncode == -signal.SIGKILL
    runs.run(folder, *SETTINGS)
    runs.assert_same_run(whole, folder)
