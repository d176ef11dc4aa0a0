"""Checkpoints: atomic, the previous one kept, loaded without unpickling code."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

SCHEMA = "nasbench.checkpoint/1"
NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def write(path: Path, value: dict[str, Any]) -> None:
    """Write tensors and plain Python to a new file, complete on the disk when this returns; OSError
    naming the file when it cannot be, with nothing left behind."""
    try:
        with path.open("wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # a full disk comes out of torch.save as either
        path.unlink(missing_ok=True)
        raise OSError(f"{path}: could not be written, is the disk full? ({error})") from None


def save(folder: Path, identity: str, state: dict[str, Any]) -> None:
    """Write `checkpoint.pt`, keeping the last one as `checkpoint.previous.pt`.

    A crash at any moment leaves a complete file under one of the two names.
    """
    temporary, target = folder / (NAME + ".tmp"), folder / NAME
    write(temporary, {"schema": SCHEMA, "identity": identity, **state})
    if target.exists():
        previous = folder / (PREVIOUS + ".tmp")
        previous.unlink(missing_ok=True)
        os.link(target, previous)  # never a moment without `checkpoint.pt`
        os.replace(previous, folder / PREVIOUS)
    os.replace(temporary, target)


def load(folder: Path, identity: str) -> dict[str, Any] | None:
    """The state saved last, or None. ValueError for a truncated or foreign file."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError,
            zipfile.BadZipFile) as error:
        hint = f"; {PREVIOUS} holds the save before: rename it to continue from there" \
            if (folder / PREVIOUS).is_file() else "; remove it to start again"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: truncated or not a checkpoint ({reason[:80]}){hint}") from None
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise ValueError(f"{path}: not a checkpoint of this program ({SCHEMA})")
    if state["identity"] != identity:
        raise ValueError(f"{path}: belongs to another configuration; use another run_dir")
    return state
