"""Where the program's log lines go while a run lasts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nasbench.display import Display

LOGGERS = ("nasbench", "search_spaces")


class _OnScreen(logging.Handler):
    """Warnings, and what the search network says of its start-up, beside the display's lines."""

    def __init__(self, display: Display):
        super().__init__(logging.INFO)
        self.display = display

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING or record.name.startswith("search_spaces"):
            prefix = "warning: " if record.levelno == logging.WARNING else ""
            self.display.show(prefix + record.getMessage())


@contextmanager
def logging_to(path: Path, display: Display) -> Iterator[None]:
    """The program's log lines, with times, go to the run's log file; some to the display too."""
    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers, loggers = (to_file, _OnScreen(display)), [*map(logging.getLogger, LOGGERS)]
    before = [(logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        for handler in handlers:
            logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (propagate, level) in zip(loggers, before, strict=True):
            logger.propagate = propagate
            logger.setLevel(level)
            for handler in handlers:
                logger.removeHandler(handler)
        to_file.close()
