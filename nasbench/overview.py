"""A one-line summary of every run below a folder."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

from nasbench.display import error_words


def list_runs(folder: Path) -> list[str]:
    """`run_id status progress result`, oldest first; ValueError when the folder is missing."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of runs")
    found = []
    for path in sorted(folder.rglob("result.json"), key=lambda p: p.stat().st_mtime):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            found.append((result["run_id"], status(path.parent, result),
                          _progress(path.parent, result), _outcome(result)))
        except (ValueError, KeyError, TypeError) as error:
            found.append((path.parent.name, "unreadable", "", f"{path}: {error}"))
    width = max((len(row[0]) for row in found), default=0)
    return [f"{name:{width}}  {state:11}  {progress:22}  {outcome}".rstrip()
            for name, state, progress, outcome in found]


def status(folder: Path, result: dict[str, Any]) -> str:
    """The recorded status; `running` without a process holding the folder is `interrupted`."""
    if result["status"] != "running":
        return result["status"]
    try:
        with (folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "interrupted"
    except OSError:
        return "running"


def _progress(folder: Path, result: dict[str, Any]) -> str:
    journal = folder / "metrics.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    if result["status"] == "done" or not lines:
        return ""
    last = json.loads(lines[-1])
    section = "search" if last["phase"] == "search" else "evaluation"
    total = result["config"].get(section, {}).get("epochs", "?")
    return f"{last['phase']} {last['epoch'] + 1}/{total}"


def _outcome(result: dict[str, Any]) -> str:
    if result["status"] == "failed":
        return str(result.get("error"))
    if result["evaluation"]:
        return "test error " + ", ".join(error_words(e) for e in result["evaluation"])
    return f"searched: {result['search']['stop_reason']}" if result["search"] else ""
