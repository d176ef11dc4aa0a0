"""What the user sees: a progress bar in a terminal, plain lines elsewhere, one table at the end."""

from __future__ import annotations

import logging
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

log = logging.getLogger("nasbench")


def duration(seconds: float) -> str:
    """`42 s`, `3.1 min`, `5.2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Display:
    """Writes to the console and to the run's log file."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self._progress: Progress | None = None
        self._task: Any = None
        self._phase, self._epochs, self._steps = "", 0, 0

    def say(self, text: str) -> None:
        """One line for the user, kept in the log."""
        log.info(text)
        self.show(text)

    def show(self, text: str) -> None:
        """One line for the user that is in the log already."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, phase: str, epochs: int, steps: int, epoch: int) -> None:
        """A phase starts (or continues) at `epoch`."""
        self._phase, self._epochs, self._steps = phase, epochs, steps
        where = f", continuing at epoch {epoch}" if epoch else ""
        self.say(f"{phase}: {epochs} epochs of {steps} steps{where}")
        if self.console.is_terminal:
            self.end()
            self._progress = Progress(TextColumn("{task.description}"), BarColumn(),
                                      MofNCompleteColumn(), TimeRemainingColumn(),
                                      console=self.console, transient=True)
            self._task = self._progress.add_task(phase, total=epochs * steps,
                                                 completed=epoch * steps)
            self._progress.start()
        self._epoch = epoch

    def step(self, step: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=self._epoch * self._steps + step)

    def estimate(self, what: str, seconds: float, memory: int) -> None:
        """The one line that says how long this will take and how much memory it has taken."""
        self.say(f"{what}: about {duration(seconds)} judging by the first steps, "
                 f"{memory / 2**30:.1f} GiB of memory")

    def epoch(self, metrics: dict[str, Any]) -> None:
        """One line per epoch."""
        self._epoch = metrics["epoch"] + 1
        words = [f"epoch {metrics['epoch'] + 1}/{self._epochs}"]
        for key, label, unit in (("train_loss", "train loss", ""), ("valid_loss", "valid loss", ""),
                                 ("supernet_valid_accuracy", "supernet", " %"),
                                 ("test_error_percent", "test error", " %"),
                                 ("valid_error_percent", "valid error", " %"),
                                 ("skip_connects", "skips", "")):
            if metrics.get(key) is not None:
                value = metrics[key]
                words.append(f"{label} {value:.2f}{unit}" if isinstance(value, float)
                             else f"{label} {value}{unit}")
        self.say("  ".join(words))

    def end(self) -> None:
        """Close the progress bar, if any."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def summary(self, result: dict[str, Any], folder: str) -> None:
        """The final table: cells, sizes, errors, times and where everything is."""
        self.end()
        columns, rows = summary_rows(result)
        table = Table(title=f"{result['algorithm']} on {result['dataset']}, seed {result['seed']}")
        for column in columns:
            table.add_column(column, justify="left" if column in ("cell", "protocol") else "right")
        for row in rows:
            table.add_row(*row)
        if rows:
            self.console.print(table)
        if result.get("search"):
            self.say(f"search ended: {result['search']['stop_reason']}")
        self.say(f"everything is in {folder}")


def summary_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the final table: cells, sizes, errors and times, in words."""
    search = result.get("search")
    seconds = duration(search["seconds"]) if search else "-"
    cells = result["evaluation"] or [
        {"genotype": {"name": g["name"]}, "params": g["params"], "mult_adds": g["mult_adds"],
         "protocol": "not retrained"} for g in (search or {}).get("genotypes", [])]
    rows = []
    for cell in cells:
        rows.append([cell["genotype"]["name"], f"{cell['params'] / 1e6:.3f} M",
                     f"{cell['mult_adds'] / 1e6:.1f} M", error_words(cell), seconds,
                     cell["protocol"]])
    return ["cell", "parameters", "mult-adds", "test error", "search time", "protocol"], rows


def error_words(evaluation: dict[str, Any]) -> str:
    """The test error, or the held-out one, named so."""
    if evaluation.get("valid_error_percent") is not None:
        return f"{evaluation['valid_error_percent']:.2f} % (valid)"
    error = evaluation.get("test_error_percent")
    return "-" if error is None else f"{error:.2f} %"
