"""Which search network a run takes, and what it says of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from rich.console import Console

from nasbench.configuration import compose
from nasbench.display import Display
from nasbench.interrupt import Interrupted
from nasbench.runner import execute
from nasbench.session import Session
from search_spaces.darts.fast.cpu import native

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C++ compiler")
SHORT = ["stage=search", "search.epochs=1"]


def run(folder: Path, *overrides: str) -> str:
    """What the user saw."""
    screen = io.StringIO()
    config = compose([*runs.TINY, *SHORT, *overrides, f"run_dir={folder}"])
    execute(config, Display(Console(file=screen, width=500)))
    return screen.getvalue()


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Any:
    def hide() -> None:
        monkeypatch.setenv("CXX", "no-such-compiler")
        native.library.cache_clear()

    yield hide
    native.library.cache_clear()


@pytest.fixture
def built_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No library is loaded yet, and to build one takes seconds less."""
    monkeypatch.setattr(native, "FLAGS", ("-O0", *native.FLAGS[1:]))
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def test_the_choice_is_in_the_log(tmp_path: Path) -> None:
    for wanted, found in (("auto", "fast"), ("plain", "plain")):
        screen = run(tmp_path / wanted, f"search_space.implementation={wanted}")
        assert "warning" not in screen
        assert f"INFO search network: {found}\n" in (tmp_path / wanted / "log.txt").read_text()


def test_without_a_compiler_one_line_says_so(tmp_path: Path, no_compiler: Any) -> None:
    no_compiler()
    screen = run(tmp_path / "run")
    lines = [line for line in screen.splitlines() if "plain network" in line]
    assert len(lines) == 1 and lines[0].startswith("warning: search_space.implementation=auto")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("WARNING") == 1 and "INFO search network: plain\n" in log


@pytest.mark.usefixtures("built_anew")
def test_compiling_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASBENCH_CACHE", str(tmp_path / "cache"))
    screen = run(tmp_path / "run")
    assert "compiling the search kernels" in screen and str(tmp_path / "cache") in screen
    assert "search kernels" not in run(tmp_path / "again")


def test_bfloat16_on_a_cpu_is_the_plain_network(tmp_path: Path) -> None:
    screen = run(tmp_path / "run", "hardware.precision=bfloat16")
    assert screen.count("warning: hardware.precision=bfloat16 runs the plain search network") == 1
    with pytest.raises(ValueError, match=r"^search_space\.implementation: must be auto or plain "):
        run(tmp_path / "fast", "hardware.precision=bfloat16", "search_space.implementation=fast")
    assert not (tmp_path / "fast").exists()


def test_a_search_goes_on_with_the_network_it_began_with(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_compiler: Any) -> None:
    steps, done = [0], Session.step_done

    def cut(self: Session, *arguments: Any) -> None:
        steps[0] += 1
        if steps[0] == 2:
            self.interrupt.received = 15
        done(self, *arguments)

    monkeypatch.setattr(Session, "step_done", cut)
    with pytest.raises(Interrupted):
        run(tmp_path / "run")
    no_compiler()
    with pytest.raises(ValueError, match=r"^this search began with the fast network .*compiler"):
        run(tmp_path / "run")
    monkeypatch.undo()
    native.library.cache_clear()
    run(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "done"



@pytest.mark.usefixtures("built_anew")
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                 ) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NASBENCH_CACHE", str(tmp_path / "file" / "cache"))
    screen = run(tmp_path / "run")
    assert screen.count("warning: NASBENCH_CACHE: ") == 1 and "plain network" not in screen


@pytest.mark.usefixtures("built_anew")
def test_a_broken_cache_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASBENCH_CACHE", str(tmp_path))
    native._path(torch.float32).write_bytes(b"")
    native.library(torch.float32)
    assert native._path(torch.float32).stat().st_size > 10_000


def test_the_compiler_may_be_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    path, *_ = native.compiler() or [""]
    monkeypatch.setenv("CXX", f"'{path}' -w")
    assert native.compiler() == [path, "-w"]
