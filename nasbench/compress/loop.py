"""Rounds of training with pruning between them, and the three ways to prune."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from algorithms.curvature_recursion import recursive_weight_curvature
from algorithms.weight_priors import WeightPriors, families
from nasbench.compress.networks import Prunable, build
from nasbench.compress.settings import CompressSettings
from nasbench.compress.shrink import clean, shrink
from nasbench.data import Augmentation, EvaluationData, derive_seed
from nasbench.measure import sizes

Record = Callable[[dict[str, Any]], None]


class Pruner(Protocol):
    """What happens to the weights besides the loss."""

    def after_step(self, rate: float) -> None: ...

    def after_round(self, number: int) -> None: ...


class Keep:
    """The dense control."""

    def after_step(self, rate: float) -> None:
        pass

    def after_round(self, number: int) -> None:
        pass


class Bayesian:
    """Group penalty in every step, closed-form update and pruning after every round; the last round
    trains what is left without the penalty."""

    def __init__(self, network: Prunable, settings: CompressSettings, data: EvaluationData,
                 seed: int, device: torch.device):
        self.network, self.settings, self.data, self.seed = network, settings, data, seed
        self.weights = prunable(network)
        shapes = {name: w.shape for name, w in self.weights.items()}
        groups = families(settings.patterns, shapes, network.junctions(), device)
        self.priors = WeightPriors(self.weights, groups, settings.lam, settings.group_reduce,
                                   settings.variance_threshold, settings.weight_threshold)
        # Batch norm hides the scale of the layers before it from the loss, but not from the
        # penalty, which would shrink all of them together; so their common scale is held.
        self.normalised = [self.weights[f"{name}.weight"] for name in network.norms()]
        self.scale = root_mean_square(self.normalised)
        self.sparsities: list[float] = []  # after each round but the last
        self.passes = 0

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        if len(self.sparsities) + 1 < self.settings.rounds:
            self.priors.proximal_step(rate / (1 - self.settings.momentum))
        self.priors.apply_mask()
        if self.normalised:
            torch._foreach_mul_(self.normalised, self.scale / root_mean_square(self.normalised))

    def after_round(self, number: int) -> None:
        count = self.settings.curvature_batches
        stream = self.data.train.batches(self.settings.batch_size, augmentation=None,
                                         seed=derive_seed(self.seed, "curvature", number))
        batches = [next(stream) for _ in range(count)]
        curvature = recursive_weight_curvature(self.network, list(self.weights), batches)
        self.passes += count
        with torch.no_grad():
            self.priors.update(curvature)
            clean(self.network)
            self.priors.mask_zeros()
        self.sparsities.append(sparsity(self.weights))


class Magnitude:
    """The control: after each round the smallest weights of all layers together go, as many as the
    Bayesian run had pruned by then."""

    def __init__(self, network: Prunable, sparsities: list[float]):
        self.network, self.weights, self.sparsities = network, prunable(network), sparsities
        self.mask = {name: torch.ones_like(w) for name, w in self.weights.items()}

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        for name, weight in self.weights.items():
            weight.mul_(self.mask[name])

    @torch.no_grad()
    def after_round(self, number: int) -> None:
        sizes_ = torch.cat([w.abs().flatten() for w in self.weights.values()])
        drop = round(self.sparsities[number] / 100 * len(sizes_))
        order = sizes_.argsort()
        keep = torch.ones_like(sizes_)
        keep[order[:drop]] = 0
        parts = keep.split([w.numel() for w in self.weights.values()])
        self.mask = {n: part.view_as(w) for (n, w), part
                     in zip(self.weights.items(), parts, strict=True)}
        self.after_step(0.0)


def root_mean_square(tensors: list[Tensor]) -> Tensor:
    """Over all non-zero values; 1 where there are none."""
    if not tensors:
        return torch.ones(())
    total = torch.stack([t.square().sum() for t in tensors]).sum()
    count = torch.stack([(t != 0).sum() for t in tensors]).sum()
    return torch.where(total > 0, total / count.clamp_min(1), 1).sqrt()


def prunable(network: Prunable) -> dict[str, Tensor]:
    """The weights that may be pruned, as views of the parameters."""
    parameters = dict(network.named_parameters())
    return {f"{name}.weight": parameters[f"{name}.weight"].detach() for name in network.layers()}


def sparsity(weights: dict[str, Tensor]) -> float:
    """Percent of zeros among the prunable weights."""
    zeros = sum(int((w == 0).sum()) for w in weights.values())
    return 100 * zeros / sum(w.numel() for w in weights.values())


def train(network: Prunable, pruner: Pruner, settings: CompressSettings, data: EvaluationData,
          augmentation: Augmentation | None, seed: int, record: Record, label: dict[str, Any]
          ) -> None:
    """All rounds; momentum SGD, cosine rate. ValueError when the loss is no longer finite.

    Every round anneals to zero: with one cosine over all of them (the authors' later code) the last
    round would have no rate left to undo the penalty's shrinkage and the pruning before it.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=settings.learning_rate,
                                momentum=settings.momentum, weight_decay=settings.weight_decay)
    steps = data.train.steps_per_epoch(settings.batch_size)
    stream = data.train.batches(settings.batch_size, seed=derive_seed(seed, "compress"),
                                augmentation=augmentation)
    length, done = settings.epochs_per_round * steps, 0
    for number in range(settings.rounds):
        for _ in range(settings.epochs_per_round):
            network.train()
            losses = []
            for _ in range(steps):
                progress = done % length / length
                rate = settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2
                optimizer.param_groups[0]["lr"] = rate
                x, y = next(stream)
                optimizer.zero_grad(set_to_none=True)
                loss = cross_entropy(network(x), y)
                loss.backward()
                optimizer.step()
                pruner.after_step(rate)
                losses.append(loss.detach())
                done += 1
            mean = float(torch.stack(losses).mean())
            if not math.isfinite(mean):
                raise ValueError("compress.learning_rate: training diverged; lower it, got "
                                 f"{settings.learning_rate}")
            record({"phase": "compress", **label, "epoch": done // steps - 1, "round": number,
                    "train_loss": mean, "sparsity_percent": sparsity(prunable(network))})
        if number + 1 < settings.rounds:
            pruner.after_round(number)


@torch.no_grad()
def error_percent(network: nn.Module, data: EvaluationData, batch_size: int) -> float:
    network.eval()
    correct = sum((network(x).argmax(dim=1) == y).sum() for x, y in data.test.once(batch_size))
    return 100 - 100 * float(correct) / len(data.test)


def _result(method: str, network: Prunable, settings: CompressSettings, data: EvaluationData,
            seed: int) -> dict[str, Any]:
    """Measured on the masked network and on the one rebuilt without its dead units.

    pruned_percent is what the method set to zero, sparsity_percent what is zero after the remains
    of dead units are cleared away; shrunk_difference is between logits of the two networks.
    """
    info, pruned = data.info, sparsity(prunable(network))
    with torch.no_grad():
        clean(network)
    small = shrink(network)
    x = next(iter(data.test.once(64)))[0]
    network.eval()
    with torch.no_grad():
        difference = float((network(x) - small.eval()(x)).abs().max())
    cost = sizes(small, info.channels, info.image_size)
    weights = prunable(network)
    return {"method": method, "seed": seed,
            "test_error_percent": error_percent(small, data, 500),
            "pruned_percent": pruned, "sparsity_percent": sparsity(weights),
            "nonzero_weights": sum(int((w != 0).sum()) for w in weights.values()),
            "prunable_weights": sum(w.numel() for w in weights.values()),
            "params": cost["params"], "mult_adds": cost["mult_adds"],
            "structure": small.structure(), "shrunk_difference": difference}


def run(settings: CompressSettings, data: EvaluationData, seed: int, device: torch.device | str,
        augmentation: Augmentation | None = None, record: Record = lambda metrics: None
        ) -> dict[str, Any]:
    """Compress `settings.repeats` times (seed, seed + 1, ...).

    data: on `device`; augmentation is used only under `settings.augment`; record gets one dict per
    epoch. Returns plain Python: `runs`, one dict per seed and method (dense, bayesian, magnitude),
    and `summary`, mean and standard deviation (n - 1; None for one seed) per method.
    """
    device = torch.device(device)
    augmentation = augmentation if settings.augment else None
    runs: list[dict[str, Any]] = []
    for repeat in range(settings.repeats):
        one = seed + repeat
        sparsities: list[float] = []
        for method in ("dense", "bayesian", "magnitude"):
            torch.manual_seed(derive_seed(one, "weights"))
            network = build(settings.network, settings.widths, data.info.classes,
                            data.info.image_size, data.info.channels).to(device)
            pruner: Pruner = Keep()
            if method == "bayesian":
                pruner = bayesian = Bayesian(network, settings, data, one, device)
            elif method == "magnitude":
                pruner = Magnitude(network, sparsities)
            train(network, pruner, settings, data, augmentation, one, record,
                  {"method": method, "seed": one})
            runs.append(_result(method, network, settings, data, one))
            if method == "bayesian":
                sparsities = bayesian.sparsities
                runs[-1]["curvature_backward_passes"] = bayesian.passes
    return {"phase": "compress", "name": settings.name, "dataset": data.info.name,
            "network": settings.network, "runs": runs, "summary": _summary(runs)}


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("test_error_percent", "pruned_percent", "sparsity_percent", "params", "mult_adds")
    out: dict[str, Any] = {}
    for method in dict.fromkeys(r["method"] for r in runs):
        mine = [r for r in runs if r["method"] == method]
        out[method] = {"n": len(mine)}
        for key in keys:
            values = [float(r[key]) for r in mine]
            out[method][key] = statistics.mean(values)
            out[method][f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return out
