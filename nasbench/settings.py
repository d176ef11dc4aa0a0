"""What can be configured, typed and range-checked; the values themselves live in `conf/`."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.darts.fast import IMPLEMENTATIONS

SCHEDULES = ("cosine", "linear", "exponential", "power_cosine")


def require(condition: bool, key: str, allowed: str, got: object) -> None:
    """ValueError `KEY: must be ALLOWED, got GOT` unless the condition holds."""
    if not condition:
        raise ValueError(f"{key}: must be {allowed}, got {got!r}")


@dataclass(frozen=True)
class SearchSettings:
    """The supernet's training; see conf/search/paper.yaml."""

    protocol: str
    epochs: int
    batch_size: int
    channels: int
    cells: int
    learning_rate: float
    learning_rate_min: float
    momentum: float
    weight_decay: float
    grad_clip: float
    valid_fraction: float
    train_fraction: float | None
    batch_norm: str
    score_batch_size: int
    cutout: int

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "cells", "score_batch_size"):
            require(getattr(self, key) >= 1, f"search.{key}", "at least 1", getattr(self, key))
        require(self.channels >= 2 and self.channels % 2 == 0, "search.channels",
                "even and at least 2", self.channels)
        require(0 < self.learning_rate <= 1e30, "search.learning_rate", "positive, at most 1e30",
                self.learning_rate)
        require(0 <= self.learning_rate_min <= self.learning_rate, "search.learning_rate_min",
                "between 0 and search.learning_rate", self.learning_rate_min)
        require(0 <= self.momentum < 1, "search.momentum", "in [0, 1)", self.momentum)
        for key in ("weight_decay", "grad_clip", "cutout"):
            require(getattr(self, key) >= 0, f"search.{key}", "at least 0", getattr(self, key))
        require(0 < self.valid_fraction < 1, "search.valid_fraction",
                "strictly between 0 and 1", self.valid_fraction)
        rest = 1 - self.valid_fraction
        require(self.train_fraction is None or 0 < self.train_fraction <= rest + 1e-9,
                "search.train_fraction", f"null or in (0, {rest:g}]", self.train_fraction)
        require(self.batch_norm in ("running", "batch", "recalibrated"), "search.batch_norm",
                "running, batch or recalibrated", self.batch_norm)


@dataclass(frozen=True)
class EvaluationSettings:
    """Retraining from scratch; see conf/evaluation/darts600.yaml."""

    protocol: str
    genotype: str | None
    repeats: int
    epochs: int
    batch_size: int
    channels: int
    cells: int
    learning_rate: float
    learning_rate_min: float
    schedule: str
    schedule_decay: float | None
    schedule_cycles: int | None
    schedule_power: float | None
    warmup_epochs: int
    momentum: float
    nesterov: bool
    weight_decay: float
    grad_clip: float
    auxiliary_weight: float
    drop_path: float
    cutout: int
    label_smoothing: float
    policy: str | None
    mixup: float
    squeeze_excitation: bool
    network: str
    holdout: bool
    test_batch_size: int
    test_every: int
    export_onnx: bool

    def __post_init__(self) -> None:
        for key in ("repeats", "epochs", "batch_size", "cells", "test_batch_size", "test_every"):
            require(getattr(self, key) >= 1, f"evaluation.{key}", "at least 1", getattr(self, key))
        require(self.channels >= 2 and self.channels % 2 == 0, "evaluation.channels",
                "even and at least 2", self.channels)
        require(0 < self.learning_rate <= 1e30, "evaluation.learning_rate",
                "positive, at most 1e30", self.learning_rate)
        require(0 <= self.learning_rate_min <= self.learning_rate, "evaluation.learning_rate_min",
                "between 0 and evaluation.learning_rate", self.learning_rate_min)
        require(self.schedule in SCHEDULES, "evaluation.schedule", ", ".join(SCHEDULES),
                self.schedule)
        if self.schedule in ("exponential", "power_cosine"):
            require(self.schedule_decay is not None and 0 < self.schedule_decay <= 1,
                    "evaluation.schedule_decay", "in (0, 1]", self.schedule_decay)
        if self.schedule == "power_cosine":
            require(self.schedule_cycles is not None and
                    1 <= self.schedule_cycles <= self.epochs, "evaluation.schedule_cycles",
                    "between 1 and evaluation.epochs", self.schedule_cycles)
            require(self.schedule_power is not None and self.schedule_power > 0,
                    "evaluation.schedule_power", "positive", self.schedule_power)
        require(0 <= self.warmup_epochs < self.epochs, "evaluation.warmup_epochs",
                "at least 0 and below evaluation.epochs", self.warmup_epochs)
        require(0 <= self.momentum < 1, "evaluation.momentum", "in [0, 1)", self.momentum)
        require(not self.nesterov or self.momentum > 0, "evaluation.nesterov",
                "false without momentum", self.nesterov)
        for key in ("weight_decay", "grad_clip", "auxiliary_weight", "cutout", "mixup"):
            require(getattr(self, key) >= 0, f"evaluation.{key}", "at least 0", getattr(self, key))
        for key in ("drop_path", "label_smoothing"):
            require(0 <= getattr(self, key) < 1, f"evaluation.{key}", "in [0, 1)",
                    getattr(self, key))


@dataclass(frozen=True)
class SpaceSettings:
    """The cell search space; see conf/search_space/darts.yaml."""

    operations: list[str]
    modules: list[str]
    nodes: int
    share_cells: bool
    stem: str
    implementation: str

    def __post_init__(self) -> None:
        require(self.implementation in IMPLEMENTATIONS, "search_space.implementation",
                f"one of {', '.join(IMPLEMENTATIONS)}", self.implementation)


@dataclass(frozen=True)
class HardwareSettings:
    """Where and how to compute; see conf/hardware/auto.yaml."""

    device: str
    precision: str
    tf32: bool | None
    channels_last: bool
    cuda_graphs: bool
    compile: bool | None
    threads: int | None
    workers: int
    checkpoint_seconds: float

    def __post_init__(self) -> None:
        require(self.device in ("auto", "cpu", "gpu"), "hardware.device", "auto, cpu or gpu",
                self.device)
        require(self.threads is None or self.threads >= 1, "hardware.threads",
                "null or at least 1", self.threads)
        require(self.workers >= 0, "hardware.workers", "at least 0", self.workers)
        require(self.checkpoint_seconds >= 0, "hardware.checkpoint_seconds", "at least 0",
                self.checkpoint_seconds)
