"""Mirrors of a run for trackers. The run folder holds everything; deleting a mirror loses nothing.

The trackers' libraries are imported only when they are switched on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KINDS = ("none", "wandb", "tensorboard")


class Logger:
    """The interface, and `logger=none`: nothing happens."""

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """One epoch's numbers, with their `phase` and `epoch` if they carry them. Numbers of nested
        objects become `outer/inner`; what is not a number is left out."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A small table, such as the final one."""

    def artifact(self, path: str | Path) -> None:
        """A file of the run: drawings appear as images, everything else as a file. A folder is
        taken file by file. Missing paths are ignored."""

    def close(self, failed: bool = False) -> None:
        """Finish; under a sweep the next job opens its own."""


def open_logger(name: str, run_dir: str | Path, config: Mapping[str, Any]) -> Logger:
    """The mirror `logger.name` for one run; `config` is the whole resolved configuration, whose
    `logger` group holds the mirror's own settings. ValueError for an unknown name or a library that
    is not installed."""
    if name not in KINDS:
        raise ValueError(f"logger.name: must be one of {', '.join(KINDS)}, got {name!r}")
    if name == "none":
        return Logger()
    try:
        return {"wandb": Wandb, "tensorboard": TensorBoard}[name](Path(run_dir), config)
    except ImportError as error:
        raise ValueError(f"logger.name: {name} is not installed ({error}); "
                         f"pip install {name}, or logger=none") from None


class Wandb(Logger):
    """Weights & Biases; `logger.mode=offline` writes RUN_DIR/wandb, to be synced later."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]):
        import wandb

        settings = config["logger"]
        if settings["mode"] not in ("offline", "online"):
            raise ValueError(f"logger.mode: must be offline or online, got {settings['mode']!r}")
        self._wandb = wandb
        run_dir.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=settings["project"], entity=settings["entity"], mode=settings["mode"],
            dir=str(run_dir), name=run_dir.name, config=dict(config), reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", disable_git=True,
                                    x_disable_stats=True))

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        # No step of wandb's own: search and retraining both count epochs from 0.
        self.run.log(numbers(metrics, step))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        cells = [[None if v is None else str(v) for v in row] for row in rows]
        self.run.log({name: self._wandb.Table(columns=list(columns), data=cells)})

    def artifact(self, path: str | Path) -> None:
        files = _files(Path(path))
        images = [file for file in files if file.suffix == ".png"]
        if images:
            self.run.log({f"drawings/{file.stem}": self._wandb.Image(str(file))
                          for file in images})
        if files:
            name = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(path).name)
            bundle = self._wandb.Artifact(f"{self.run.id}-{name}", type="run-output")
            for file in files:
                root = Path(path) if Path(path).is_dir() else file.parent
                bundle.add_file(str(file), name=file.relative_to(root).as_posix())
            self.run.log_artifact(bundle)

    def close(self, failed: bool = False) -> None:
        self.run.finish(exit_code=1 if failed else 0)


class TensorBoard(Logger):
    """Event files in RUN_DIR/tensorboard."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run_dir / "tensorboard"))
        self.writer.add_text("config", _listing(config))

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        values = numbers(metrics, step)
        at = int(values.get("epoch", 0))
        for key, value in values.items():
            if key != "epoch":
                self.writer.add_scalar(key, value, at)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        self.writer.add_text(name, "\n".join(
            "| " + " | ".join("" if v is None else str(v) for v in line) + " |" for line in lines))

    def artifact(self, path: str | Path) -> None:
        for file in _files(Path(path)):
            if file.suffix == ".png":
                from matplotlib.image import imread

                self.writer.add_image(f"drawings/{file.stem}", imread(file), dataformats="HWC")
            elif file.suffix in (".json", ".jsonl", ".md", ".txt", ".log"):
                text = file.read_text(encoding="utf-8", errors="replace")[:100_000]
                self.writer.add_text(f"files/{file.name}", f"    {text}".replace("\n", "\n    "))

    def close(self, failed: bool = False) -> None:
        self.writer.close()


def numbers(metrics: Mapping[str, Any], step: int | None = None) -> dict[str, float]:
    """Flat numbers, prefixed by the phase: {"search/seconds/weights": 1.2, ..., "epoch": 3}."""
    phase = metrics.get("phase")
    epoch = metrics.get("epoch", step)
    flat: dict[str, float] = {}
    _flatten({k: v for k, v in metrics.items() if k not in ("phase", "epoch")},
             f"{phase}/" if phase else "", flat)
    return flat if epoch is None else {**flat, "epoch": epoch}


def _flatten(values: Mapping[str, Any], prefix: str, out: dict[str, float]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _flatten(value, f"{prefix}{key}/", out)
        elif isinstance(value, int | float):
            out[f"{prefix}{key}"] = value


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    return [path] if path.is_file() else []


def _listing(config: Mapping[str, Any], indent: int = 4) -> str:
    lines = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            lines += [" " * indent + f"{key}:", _listing(value, indent + 2)]
        else:
            lines.append(" " * indent + f"{key}: {value}")
    return "\n".join(lines)
