"""The search loop: the same for every strategy."""

from __future__ import annotations

import math
from typing import Any

import torch

from algorithms.early_stop import EarlyStop
from algorithms.strategy import Batch, Derived, Problem, Strategy
from nasbench.data import Augmentation, SearchData, derive_seed
from nasbench.machine import memory_in_use, peak_memory
from nasbench.measure import FinalMeasures
from nasbench.pace import Pace
from nasbench.schedules import cosine
from nasbench.search.score import Scorer
from nasbench.search.weights import SupernetWeights
from nasbench.session import Averages, Session
from nasbench.settings import SearchSettings
from search_spaces import SearchNetwork
from search_spaces.darts.fast import implementation_of

CHECK_EVERY = 50  # steps between looks at the loss on a GPU, each of which waits for the device
CALIBRATION_BATCHES = 20
SECTIONS = ("data", "architecture", "weights", "evaluation")


class SearchLoop:
    """Runs a strategy on a search network; `run()` returns the result's `search` section."""

    def __init__(self, session: Session, settings: SearchSettings, network: SearchNetwork,
                 strategy: Strategy, early_stop: EarlyStop, data: SearchData,
                 augmentation: Augmentation, measures: FinalMeasures, seed: int):
        self.session, self.settings, self.network = session, settings, network
        self.strategy, self.early_stop, self.data = strategy, early_stop, data
        self.augmentation, self.seed = augmentation, seed
        s, clock = settings, session.clock
        self.steps = data.search_train.steps_per_epoch(s.batch_size)
        if strategy.needs_valid:
            data.search_valid.steps_per_epoch(s.batch_size)
        self.weights = SupernetWeights(
            network, learning_rate=s.learning_rate, momentum=s.momentum,
            weight_decay=s.weight_decay, grad_clip=s.grad_clip, precision=session.precision,
            clock=clock, cuda_graphs=session.hardware.cuda_graphs)
        self.scorer = Scorer(network, lambda: data.search_valid.once(s.score_batch_size),
                             self._calibration, batch_norm=s.batch_norm,
                             precision=session.precision, clock=clock)
        self.rng = torch.Generator().manual_seed(derive_seed(seed, "strategy"))
        strategy.setup(Problem(network, self.weights, self.scorer, self._batches, measures,
                               self.rng, clock))
        early_stop.prepare(strategy.architecture_weights(), network.space)
        self.epoch, self.step, self.images = 0, 0, 0
        self.seconds = 0.0
        self.best: dict[str, float | None] = {"supernet_valid_accuracy": None}
        self.epoch_seconds: dict[str, float] = {}  # of the running epoch, by section
        self.sections: dict[str, float] = {}  # of the whole search
        self.averages = Averages()

    def _batches(self, split: str, n: int, seed: int) -> list[Batch]:
        source = {"search_train": self.data.search_train,
                  "search_valid": self.data.search_valid}[split]
        images = min(n * self.settings.batch_size, len(source))
        return source.sample(images, seed=derive_seed(self.seed, "extra", seed),
                             batch_size=self.settings.batch_size)

    def _calibration(self) -> list[Batch]:
        return self._batches("search_train", CALIBRATION_BATCHES, 0)

    # -- running ---------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Search until the budget or a reason to stop; raises Interrupted after saving."""
        settings, session = self.settings, self.session
        session.display.begin("search", settings.epochs, self.steps, self.epoch)
        reason = self.strategy.should_stop()
        while reason is None and self.epoch < settings.epochs:
            self._train_epoch()
            reason = self._end_epoch()
        self.weights.capture.forget()
        self.weights.optimizer.zero_grad(set_to_none=True)
        return self._result(reason or f"budget of {settings.epochs} epochs used")

    def _train_epoch(self) -> None:
        settings, clock = self.settings, self.session.clock
        self.weights.lr = cosine(self.epoch, settings.epochs, settings.learning_rate,
                                 settings.learning_rate_min)
        position = self.epoch * self.steps + self.step
        train = self._stream(self.data.search_train, position)
        valid = None
        if self.strategy.needs_valid:
            valid = self._stream(self.data.search_valid, position)
        pace = Pace(self.session.device, self.step, self.steps)
        for _ in range(self.step, self.steps):
            with clock("data"):
                batch = next(train)
                other = next(valid) if valid is not None else None
            with clock("architecture"):
                metrics = self.strategy.search_step(batch, other)
            self.averages.add(metrics, len(batch[1]))
            self.images += len(batch[1]) + (len(other[1]) if other is not None else 0)
            self.step += 1
            self._look(pace)

    def _stream(self, split: Any, start: int) -> Any:
        return split.batches(self.settings.batch_size, seed=derive_seed(self.seed, "search"),
                             augmentation=self.augmentation, start=start)

    def _look(self, pace: Pace) -> None:
        display = self.session.display
        if self.session.device.type == "cpu" or self.step % CHECK_EVERY == 0:
            self._healthy()
        per_step = pace(self.step) if self.epoch == 0 and self.settings.epochs > 1 else None
        if per_step is not None:
            display.estimate("search", per_step * self.steps * self.settings.epochs,
                             memory_in_use(self.session.device))
        display.step(self.step)
        self.session.step_done(self.state_dict, self._healthy)

    def _healthy(self) -> None:
        if self.averages.count:
            self.averages.check(f"search, epoch {self.epoch}, step {self.step}",
                                "a lower search.learning_rate or hardware.precision=float32")

    def _end_epoch(self) -> str | None:
        clock, strategy, epoch = self.session.clock, self.strategy, self.epoch
        self._healthy()
        with clock("architecture"):
            extra = strategy.on_epoch_end(epoch)
            derived = strategy.derive()[0]
            weights = strategy.architecture_weights()
        reason = strategy.should_stop() or self.early_stop.check(
            epoch, derived.genotype, weights, self.network.space, self.network.row_types)
        extra = {**extra, **self.early_stop.metrics()}
        seconds = self._read_clock()
        mixing = strategy.mixing()
        loss, error = self.scorer.loss_and_error(mixing)
        clock.read()  # this validation is not a search cost
        self.best = {"supernet_valid_accuracy": 100 - error}
        means = self.averages.read()
        self.session.folder.append("genotypes.jsonl", {"epoch": epoch,
                                                       "genotype": derived.genotype.to_dict()})
        if weights is not None:
            self.session.folder.append("architecture.jsonl",
                                       {"epoch": epoch, "weights": weights.tolist()})
        self.session.record({
            "phase": "search", "epoch": epoch, "train_loss": means.pop("train_loss"),
            "valid_loss": loss, "supernet_valid_accuracy": 100 - error,
            "learning_rate": self.weights.lr,
            "live_operations": int(mixing.live_mask().sum()),
            "skip_connects": derived.genotype.normal.skip_connects(),
            "skip_connects_reduce": derived.genotype.reduce.skip_connects(),
            "seconds": seconds, **means, **extra})
        self.epoch, self.step, self.averages = epoch + 1, 0, Averages()
        self.epoch_seconds = {}
        if not math.isfinite(loss):
            raise ValueError(f"search, epoch {epoch}: valid_loss is not finite; the last "
                             "checkpoint is kept; try a lower search.learning_rate")
        if reason is None and self.epoch < self.settings.epochs:
            self.session.step_done(self.state_dict, lambda: None)
        return reason

    def _read_clock(self) -> dict[str, float]:
        """This epoch's seconds by section, earlier parts of a resumed epoch included."""
        for section, value in self.session.clock.read().items():
            self.epoch_seconds[section] = self.epoch_seconds.get(section, 0.0) + value
            self.sections[section] = self.sections.get(section, 0.0) + value
            self.seconds += value
        return {name: round(self.epoch_seconds.get(name, 0.0), 4)
                for name in (*SECTIONS, *sorted(self.epoch_seconds.keys() - set(SECTIONS)))}

    def _result(self, reason: str) -> dict[str, Any]:
        device, measures = self.session.device, self.strategy.problem.measure
        return {
            "protocol": self.settings.protocol, "epochs": self.epoch,
            "seconds": round(self.seconds, 3),
            "seconds_by_section": {name: round(value, 3) for name, value in self.sections.items()},
            "gpu_days": self.seconds / 86400 if device.type == "cuda" else None,
            "stop_reason": reason, "peak_memory_bytes": peak_memory(device),
            "images_per_second": round(self.images / max(self.seconds, 1e-9), 2),
            "genotypes": [self._describe(d, measures) for d in self.strategy.derive()]}

    def _describe(self, derived: Derived, measures: Any) -> dict[str, Any]:
        accuracy = derived.supernet_valid_accuracy
        sizes = measures(derived.genotype, ("params", "mult_adds"))
        return {"name": derived.name, "genotype": derived.genotype.to_dict(),
                "derivation": derived.derivation,
                "supernet_valid_accuracy": self.best["supernet_valid_accuracy"]
                if accuracy is None else accuracy,
                **{key: int(value) for key, value in sizes.items()}, **derived.extra}

    # -- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue bit-equal."""
        self._read_clock()
        return {"phase": "search", "implementation": implementation_of(self.network),
                "epoch": self.epoch, "step": self.step, "images": self.images,
                "seconds": self.seconds, "epoch_seconds": dict(self.epoch_seconds),
                "sections": dict(self.sections),
                "best": dict(self.best), "averages": self.averages.state_dict(),
                "network": self.network.state_dict(),
                "optimizer": self.weights.optimizer.state_dict(),
                "strategy": self.strategy.state_dict(), "early_stop": self.early_stop.state_dict(),
                "rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key in ("epoch", "step", "images", "seconds"):
            setattr(self, key, state[key])
        self.epoch_seconds, self.best = dict(state["epoch_seconds"]), dict(state["best"])
        self.sections = dict(state["sections"])
        self.averages.load_state_dict(state["averages"], self.session.device)
        self.network.load_state_dict(state["network"])
        self.weights.optimizer.load_state_dict(state["optimizer"])
        self.strategy.load_state_dict(state["strategy"])
        self.early_stop.load_state_dict(state["early_stop"])
        self.rng.set_state(state["rng"])
