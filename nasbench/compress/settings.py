"""What can be configured about a compression; the values live in `conf/compress/`."""

from __future__ import annotations

from dataclasses import dataclass

from algorithms.bayes_priors import REDUCTIONS
from algorithms.weight_priors import PATTERNS
from nasbench.settings import require

NETWORKS = {"mlp": 2, "lenet": 3, "resnet18": 4}  # how many widths each takes


@dataclass(frozen=True)
class CompressSettings:
    """network: mlp (two hidden layers), lenet (two convolutions, one hidden layer) or resnet18
    (four stages) of the given widths; patterns: see `algorithms.weight_priors`; lam: larger is
    sparser; rounds: of `epochs_per_round` epochs, with an update after each but the last;
    thresholds: below them a weight is pruned; curvature_batches: of batch_size; augment: crop and
    flip as the data set says. Learning rate: cosine to zero in every round."""

    name: str
    network: str
    widths: list[int]
    patterns: list[str]
    lam: float
    group_reduce: str
    rounds: int
    epochs_per_round: int
    variance_threshold: float
    weight_threshold: float
    curvature_batches: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    augment: bool
    repeats: int

    def __post_init__(self) -> None:
        require(self.network in NETWORKS, "compress.network", f"one of {', '.join(NETWORKS)}",
                self.network)
        count = NETWORKS[self.network]
        require(len(self.widths) == count and all(w >= 1 for w in self.widths), "compress.widths",
                f"{count} positive integers for {self.network}", self.widths)
        require(bool(self.patterns) and len(set(self.patterns)) == len(self.patterns)
                and all(p in PATTERNS for p in self.patterns), "compress.patterns",
                f"some of {', '.join(PATTERNS)}, each once", self.patterns)
        require(0 < self.lam < float("inf"), "compress.lam", "positive", self.lam)
        require(self.group_reduce in REDUCTIONS, "compress.group_reduce", " or ".join(REDUCTIONS),
                self.group_reduce)
        require(self.rounds >= 2, "compress.rounds", "at least 2 (pruning is between rounds)",
                self.rounds)
        for key in ("epochs_per_round", "curvature_batches", "batch_size", "repeats"):
            require(getattr(self, key) >= 1, f"compress.{key}", "at least 1", getattr(self, key))
        for key in ("variance_threshold", "weight_threshold", "weight_decay"):
            require(getattr(self, key) >= 0, f"compress.{key}", "at least 0", getattr(self, key))
        require(self.learning_rate > 0, "compress.learning_rate", "positive", self.learning_rate)
        require(0 <= self.momentum < 1, "compress.momentum", "in [0, 1)", self.momentum)
