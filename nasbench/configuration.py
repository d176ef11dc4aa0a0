"""Hydra at the edge: the only module that knows it. Everything behind gets plain Python."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nasbench.display import Display
from nasbench.identity import run_name
from nasbench.interrupt import Interrupted
from nasbench.runner import execute, record_failure

log = logging.getLogger("nasbench")


def config_folder() -> Path:
    """`conf/` beside the sources, or inside the installed package."""
    here = Path(__file__).resolve().parent
    return next(p for p in (here / "conf", here.parent / "conf") if (p / "config.yaml").is_file())


def resolve(config: DictConfig) -> dict[str, Any]:
    """Interpolations resolved, as plain Python; the two setting blocks of the algorithm dropped."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    plain.pop("experiment", None)
    for block in ("paper", "smoke"):
        plain["algorithm"].pop(block, None)
    return plain  # type: ignore[return-value]


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration of `python run.py OVERRIDES`. Raises ValueError, one line."""
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
            return resolve(hydra.compose("config", list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(explain(error)) from None


def run(overrides: Sequence[str] = (), *, quiet: bool = False) -> dict[str, Any]:
    """Compose and execute one run, as `python run.py OVERRIDES` would; returns `result.json`.

    Raises ValueError or OSError for a bad configuration or missing data, naming the key or file.
    """
    return execute(compose(overrides), _quiet_display() if quiet else None)


def _quiet_display() -> Display:
    from rich.console import Console
    return Display(Console(quiet=True))


def explain(error: BaseException) -> str:
    """One line for a composition error; an unknown key is answered with the known ones."""
    unknown = re.match(r"Could not override '([\w.]+)'", str(error))
    missing = re.search(r"Could not find '(\w+)/", str(error))
    if missing is not None and "Available" not in str(error):  # Hydra lists one level only
        group = config_folder() / missing.group(1)
        names = sorted(str(p.relative_to(group).with_suffix("")) for p in group.rglob("*.yaml"))
        return f"{one_line(error)}; known: {', '.join(names)}"
    if unknown is None:
        return one_line(error)
    section, _, key = unknown.group(1).rpartition(".")
    known = compose([]) if section else None
    for part in section.split(".") if section else ():
        known = known.get(part) if isinstance(known, dict) else None
    listed = ", ".join(known) if isinstance(known, dict) else "see `python run.py --cfg job`"
    return f"{unknown.group(1)}: unknown key; known in {section or 'the configuration'}: {listed}"


def one_line(error: BaseException) -> str:
    """A library's multi-line message on one line, without its internals."""
    lines = [line.strip() for line in str(error).splitlines()]
    drop = ("full_key:", "object_type=", "reference_type=", "Config search path", "provider=")
    kept = [line for line in lines if line and not line.startswith(drop)]
    text = " ".join(kept) or type(error).__name__
    return text.replace("Key '", "key '").replace("\t", " ")


class Sweep:
    """Runs the jobs Hydra hands over, one or many; a failing one does not end a sweep."""

    def __init__(self) -> None:
        self.done = 0
        self.failed: list[str] = []
        self.error: BaseException | None = None

    def job(self, config: DictConfig) -> None:
        """One job. In a sweep its failure is kept for the summary, else for `main` to report."""
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            try:
                execute(resolve(config))
            except BaseException as error:  # noqa: BLE001 - raised again where Hydra adds no words
                self.error = error
            return
        if self.error is not None:  # interrupted: the jobs left are not begun
            return
        words = ", ".join(HydraConfig.get().overrides.task) or "defaults"
        display = Display()
        display.say(f"--- job {self.done + len(self.failed) + 1}: {words}")
        plain: dict[str, Any] = {}
        try:
            plain = resolve(config)
            if plain["run_dir"] is not None:
                plain["run_dir"] = str(Path(plain["run_dir"]) / run_name(plain))
            execute(plain, display)
            self.done += 1
        except (Interrupted, KeyboardInterrupt) as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - recorded, and the sweep goes on
            log.debug("job failed: %s", words, exc_info=error)
            with contextlib.suppress(ValueError, OSError, KeyError):
                record_failure(plain, one_line(error))
            self.failed.append(f"{words}: {one_line(error)}")
            display.say(f"failed: {one_line(error)}")
        finally:
            gc.collect()

    def summary(self) -> int:
        """Says how a sweep went; the exit code. A single run's error is raised here."""
        if self.error is not None:
            raise self.error
        if self.done or self.failed:
            print(f"sweep: {self.done} done, {len(self.failed)} failed")
        for line in self.failed:
            print(f"  failed: {line}")
        return 1 if self.failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`run.py`: exit code 0, 1 (a job of a sweep failed), 2 (the user's mistake), 128 + signal."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sweep = Sweep()
    program = [sys.argv[0], *(sys.argv[1:] if arguments is None else arguments)]
    kept, sys.argv = sys.argv, program
    try:
        hydra.main(config_path=str(config_folder()), config_name="config",
                   version_base="1.3")(sweep.job)()
        return sweep.summary()
    except Interrupted as error:
        print(f"interrupted ({error}); saved: the same command continues", file=sys.stderr)
        return 128 + error.signal
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last save", file=sys.stderr)
        return 130
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    finally:
        sys.argv = kept
        with contextlib.suppress(OSError):
            sys.stdout.flush()
