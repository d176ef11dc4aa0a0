"""Retraining a genotype from scratch; the result is the last epoch's test error."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from nasbench.data import Augmentation, EvaluationData, derive_seed
from nasbench.machine import memory_in_use, peak_memory
from nasbench.measure import count_mult_adds, count_params
from nasbench.pace import Pace
from nasbench.retrain.compiled import compiled_cells
from nasbench.retrain.step import RetrainStep
from nasbench.schedules import learning_rate
from nasbench.session import Averages, Session
from nasbench.settings import EvaluationSettings
from search_spaces.upload import upload

CHECK_EVERY = 50


def mixed_up(x: Tensor, y: Tensor, classes: int, alpha: float, rng: torch.Generator
             ) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): one Beta(alpha, alpha) weight per batch, labels mixed alike."""
    gammas = torch._standard_gamma(torch.full((2,), alpha), generator=rng)
    weight = float(gammas[0] / gammas.sum())
    order = upload(torch.randperm(len(x), generator=rng), x.device)
    targets = one_hot(y, classes).to(x.dtype)
    return (weight * x + (1 - weight) * x[order],
            weight * targets + (1 - weight) * targets[order])


class RetrainLoop:
    """Trains one final network; `run()` returns one entry of the result's `evaluation`."""

    def __init__(self, session: Session, settings: EvaluationSettings, network: nn.Module,
                 data: EvaluationData, augmentation: Augmentation, seed: int,
                 labels: dict[str, Any]):
        self.session, self.settings, self.network, self.data = session, settings, network, data
        self.augmentation, self.seed, self.labels = augmentation, seed, labels
        self.steps = data.train.steps_per_epoch(settings.batch_size)
        self.train_step = RetrainStep(network, settings, session.precision,
                                      session.hardware.cuda_graphs)
        self.rng = torch.Generator().manual_seed(derive_seed(seed, "mixup"))
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.last: float | None = None
        self.best: float | None = None
        self.averages = Averages()

    def run(self) -> dict[str, Any]:
        """Train to the last epoch; raises Interrupted after saving."""
        settings, session = self.settings, self.session
        session.display.begin(f"retrain {self.labels['genotype']['name']}", settings.epochs,
                              self.steps, self.epoch)
        compiled = session.hardware.compile
        if compiled is None:
            compiled = session.device.type == "cuda"
        if compiled:
            session.display.say("compiling the cells (minutes the first time, kept for later runs)")
        with compiled_cells(self.network) if compiled else nullcontext():
            while self.epoch < settings.epochs:
                self._train_epoch()
                self._end_epoch()
        self.train_step.capture.forget()
        info = self.data.info
        tested = {"test_error_percent": self.last, "best_epoch_test_error_percent": self.best}
        if settings.holdout:  # these images were search_valid, not test
            tested = dict.fromkeys(tested) | {"valid_error_percent": self.last}
        return {**self.labels, "protocol": settings.protocol, "epochs": settings.epochs,
                "channels": settings.channels, "cells": settings.cells,
                "auxiliary": settings.auxiliary_weight > 0, "params": count_params(self.network),
                "mult_adds": count_mult_adds(self.network, info.channels, info.image_size),
                **tested,
                "train_seconds": round(self.seconds, 3),
                "peak_memory_bytes": peak_memory(session.device)}

    def _train_epoch(self) -> None:
        settings, clock = self.settings, self.session.clock
        self.train_step.optimizer.rate = learning_rate(
            self.epoch, schedule=settings.schedule, epochs=settings.epochs,
            start=settings.learning_rate, end=settings.learning_rate_min,
            warmup_epochs=settings.warmup_epochs, decay=settings.schedule_decay,
            cycles=settings.schedule_cycles, power=settings.schedule_power)
        drop_rate = settings.drop_path * self.epoch / settings.epochs
        self.network.get_buffer("drop_rate").fill_(drop_rate)
        stream = self.data.train.batches(settings.batch_size, seed=derive_seed(self.seed, "train"),
                                         augmentation=self.augmentation,
                                         start=self.epoch * self.steps + self.step)
        pace = Pace(self.session.device, self.step, self.steps)
        for _ in range(self.step, self.steps):
            with clock("data"):
                x, y = next(stream)
            with clock("weights"):
                self.averages.add(self._train_step(x, y), len(y))
            self.step += 1
            self._look(pace)

    def _train_step(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        target = y
        if self.settings.mixup:
            x, target = mixed_up(x, y, self.data.info.classes, self.settings.mixup, self.rng)
        # The last, smaller batch of an epoch is not worth compiling every cell a second time.
        whole = len(y) == self.settings.batch_size
        with nullcontext() if whole else torch.compiler.set_stance("force_eager"):
            return self.train_step(x, y, target)

    def _look(self, pace: Pace) -> None:
        if self.session.device.type == "cpu" or self.step % CHECK_EVERY == 0:
            self._healthy()
        per_step = pace(self.step) if self.epoch == 0 and self.settings.epochs > 1 else None
        if per_step is not None:
            self.session.display.estimate(
                "retraining", per_step * self.steps * self.settings.epochs,
                memory_in_use(self.session.device))
        self.session.display.step(self.step)
        self.session.step_done(self.state_dict, self._healthy)

    def _healthy(self) -> None:
        if self.averages.count:
            self.averages.check(f"evaluation, epoch {self.epoch}, step {self.step}",
                                "a lower evaluation.learning_rate or hardware.precision=float32")

    def _end_epoch(self) -> None:
        self._healthy()
        settings, epoch = self.settings, self.epoch
        metrics: dict[str, Any] = {"phase": "evaluate", "epoch": epoch, **self.averages.read(),
                                   "learning_rate": self.train_step.optimizer.rate,
                                   "genotype": self.labels["genotype"]["name"],
                                   "repeat": self.labels["repeat"]}
        if epoch + 1 == settings.epochs or epoch % settings.test_every == 0:
            with self.session.clock("evaluation"):
                loss, self.last = self._test()
            self.best = self.last if self.best is None else min(self.best, self.last)
            split = "valid" if settings.holdout else "test"
            metrics |= {f"{split}_loss": loss, f"{split}_error_percent": self.last}
        seconds = self.session.clock.read()
        self.seconds += sum(seconds.values())
        metrics["seconds"] = {key: round(value, 4) for key, value in seconds.items()}
        self.session.record(metrics)
        self.epoch, self.step, self.averages = epoch + 1, 0, Averages()
        if self.epoch < settings.epochs:
            self.session.step_done(self.state_dict, lambda: None)

    def _test(self) -> tuple[float, float]:
        """Mean cross entropy and error in percent on the test split."""
        self.network.eval()
        loss = correct = torch.zeros((), dtype=torch.float64, device=self.session.device)
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
            for x, y in self.data.test.once(self.settings.test_batch_size):
                with self.session.precision.context():
                    logits = self.network(x)[0].float()
                loss = loss + cross_entropy(logits, y, reduction="sum")
                correct = correct + (logits.argmax(dim=1) == y).sum()
        n = len(self.data.test)
        return float(loss) / n, 100 - 100 * float(correct) / n

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit-equal."""
        self.seconds += sum(self.session.clock.read().values())
        return {"phase": "evaluate", "epoch": self.epoch, "step": self.step,
                "seconds": self.seconds, "last": self.last, "best": self.best,
                "averages": self.averages.state_dict(), "network": self.network.state_dict(),
                "optimizer": self.train_step.optimizer.state_dict(), "rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key in ("epoch", "step", "seconds", "last", "best"):
            setattr(self, key, state[key])
        self.averages.load_state_dict(state["averages"], self.session.device)
        self.network.load_state_dict(state["network"])
        self.train_step.optimizer.load_state_dict(state["optimizer"])
        self.rng.set_state(state["rng"])
