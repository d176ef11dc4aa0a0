"""One run, one folder: its files, its lock, and what survives an interruption."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nasbench import checkpoint

RESULT_SCHEMA = "nasbench.result/1"
JOURNALS = ("metrics.jsonl", "genotypes.jsonl", "architecture.jsonl")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_json(path: Path, value: Any) -> None:
    """Atomically write readable JSON."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


class RunFolder:
    """The files of one run; `identity` is the configuration's fingerprint."""

    def __init__(self, path: Path, identity: str):
        self.path, self.identity = path, identity

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and hold it; ValueError when another process does, or when it belongs
        to another configuration or holds foreign files."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"run_dir: {self.path} cannot be made a folder: {error.strerror}"
                             ) from None
        own = self.path / "identity"
        if own.is_file():
            found = own.read_text(encoding="utf-8").strip()
            begun = (self.path / checkpoint.NAME).exists()
            if found != self.identity and begun:  # what failed before its first save is no loss
                raise ValueError(f"run_dir: {self.path} holds a run of another configuration "
                                 f"({self.path / 'config.json'}); choose another folder")
        elif any(self.path.iterdir()):
            raise ValueError(f"run_dir: {self.path} is not empty and not a run folder; choose "
                             "another")
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(f"run_dir: {self.path} is in use by another process") from None
            own.write_text(self.identity + "\n", encoding="utf-8")
            yield

    @property
    def result_path(self) -> Path:
        return self.path / "result.json"

    def read_result(self) -> dict[str, Any] | None:
        """The result so far, or None."""
        if not self.result_path.is_file():
            return None
        try:
            return json.loads(self.result_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.result_path}: not readable JSON ({error})") from None

    def write_result(self, result: dict[str, Any]) -> None:
        write_json(self.result_path, result)

    def append(self, journal: str, record: dict[str, Any]) -> None:
        """Add one line to a journal."""
        with (self.path / journal).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read(self, journal: str) -> list[dict[str, Any]]:
        path = self.path / journal
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def save(self, state: dict[str, Any]) -> None:
        """Checkpoint the state together with the journals' present lengths in bytes."""
        sizes = {name: (self.path / name).stat().st_size if (self.path / name).exists() else 0
                 for name in JOURNALS}
        checkpoint.save(self.path, self.identity, {"journals": sizes, **state})

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None; journal lines written after it are dropped."""
        state = checkpoint.load(self.path, self.identity)
        sizes = state["journals"] if state else dict.fromkeys(JOURNALS, 0)
        for name, size in sizes.items():
            path = self.path / name
            if path.exists() and path.stat().st_size > size:
                os.truncate(path, size)
        return state
