"""CARS: continuous evolution (Yang, Wang, Chen, Shi, Xu, Xu, Tian, Xu; CVPR 2020, arXiv 1909.04977)

* `search_step`: eqs. 1 to 3, the mean gradient over N_b individuals of the population, each running
  only its own operations (W_i = W * C_i); during warm-up one fresh uniform individual per batch.
* `on_epoch_end`: Algorithm 1; after the warm-up, every I_param epochs, `_evolve` updates the
  population. Weights, optimiser and schedule belong to the trainer and carry on.
* `algorithms.evolution`: encoding, mutation, crossover. `algorithms.pareto`: domination (eq. 4) and
  pNSGA-III: fronts of (error, cost) and of (speed of accuracy increase, larger cost), merged.
  `algorithms.cars_report`: what is recorded and drawn.

Departures from the paper and choices it leaves open
1. `none` is not searched unless `include_none`: the released decoder writes a max pool where `none`
   was chosen, so the exported network is not the evaluated one. Here the decoded one always is.
2. `speed: checkpoint_difference` is acc(W_g) - acc(W_g-1), weights one generation apart; W_0 are
   those at the end of the warm-up (the initial ones without warm-up). Parents were scored under
   W_g-1 when they were selected, so only children are scored twice; in the first generation
   everyone is. `accuracy_proxy` is the released rule: accuracy in place of its speed.
3. Candidates are scored with batch statistics (`batch_norm: batch`), as every individual trains.
   The released code uses running averages, which mix thousands of other networks: on digits after
   25 of 50 epochs of warm-up the ranking of 60 candidates agreed with recalibrated statistics at
   Kendall tau 0.52 to 0.65 for running and 0.94 to 0.96 for batch statistics (smoke settings, three
   seeds), without recalibration's extra passes.
4. Costs are counted at retraining scale; the released code counts the small search network.
5. I_param counts epochs, as in the paper's time analysis (Algorithm 1 words it as mini-batches).
6. The last stage of a selection is cut at random from the seeded generator, without reference
   points, as the authors describe their code; children are distinct from each other, not only from
   the parents; several costs are sorted one by one (two sortings each), as in the released code.
7. The family: the range of the first cost over the merged front is cut into equal bins, of each the
   lowest error; the paper picks sizes near those of earlier work by hand.
8. A search too short for its warm-up and one generation evolves once, after its last epoch, so that
   what it returns has been scored; W_0 are then the initial weights unless the warm-up ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from algorithms import cars_report, pareto
from algorithms.evolution import Encoding, Individual, Operators
from algorithms.strategy import Batch, Derived, Metrics, Problem, Strategy, check
from search_spaces import Genotype, Mixing

COSTS = ("params", "mult_adds", "latency_ms")
SELECTIONS = ("pnsga3", "nsga2", "nsga3")
SPEEDS = ("checkpoint_difference", "accuracy_proxy")
BATCH_NORMS = ("running", "batch", "recalibrated")


class CARS(Strategy):
    """A population evolved under shared weights; `derive` returns a family ordered by size.

    epochs, warmup_epochs, epochs_per_generation (I_param); population N; individuals_per_step N_b;
    mutation, crossover, new: shares of the children; node_probability, shared_coin: `Operators`;
    objectives: `error` and one or more of params, mult_adds, latency_ms; reference_point: one value
    per objective for the hypervolume, null: 100 and the cost of the dearest one-operation network;
    size_bins: of the histogram of the first cost, from 0 to its reference.
    """

    needs_valid = False

    def __init__(self, epochs: int, warmup_epochs: int, epochs_per_generation: int, population: int,
                 individuals_per_step: int, mutation: float, crossover: float, new: float,
                 node_probability: float, shared_coin: bool, include_none: bool,
                 objectives: list[str], latency_device: str | None, selection: str, speed: str,
                 batch_norm: str, family_size: int, reference_point: list[float] | None,
                 size_bins: int):
        check(warmup_epochs >= 0, "warmup_epochs", "at least 0", warmup_epochs)
        check(epochs_per_generation >= 1, "epochs_per_generation", "at least 1",
              epochs_per_generation)
        check(population >= 4, "population", "at least 4", population)
        check(1 <= individuals_per_step <= population, "individuals_per_step",
              f"1 to the population's {population}", individuals_per_step)
        shares = {"mutation": mutation, "crossover": crossover, "new": new}
        for key, share in shares.items():
            check(0 <= share <= 1, key, "a share between 0 and 1", share)
        check(abs(sum(shares.values()) - 1) < 1e-6, "mutation",
              "such that mutation, crossover and new sum to 1", list(shares.values()))
        check(0 < node_probability < 1 or mutation == crossover == 0, "node_probability",
              "between 0 and 1, both excluded", node_probability)
        check(len(objectives) >= 2 and objectives[0] == "error"
              and len(set(objectives)) == len(objectives) and set(objectives[1:]) <= set(COSTS),
              "objectives", f"error followed by one or more of {', '.join(COSTS)}", objectives)
        check("latency_ms" not in objectives or bool(latency_device), "latency_device",
              "a device such as cpu or cuda:0 when objectives hold latency_ms", latency_device)
        for key, value, allowed in (("selection", selection, SELECTIONS), ("speed", speed, SPEEDS),
                                    ("batch_norm", batch_norm, BATCH_NORMS)):
            check(value in allowed, key, f"one of {', '.join(allowed)}", value)
        check(1 <= family_size <= min(population, len(ascii_uppercase)), "family_size",
              f"1 to {min(population, len(ascii_uppercase))}", family_size)
        check(reference_point is None or (len(reference_point) == len(objectives)
                                          and min(reference_point) > 0), "reference_point",
              f"null or {len(objectives)} positive numbers, one per objective", reference_point)
        check(size_bins >= 1, "size_bins", "at least 1", size_bins)
        if selection == "nsga3":
            pareto.require_pymoo()
        self.epochs = epochs
        self.warmup_epochs, self.epochs_per_generation = warmup_epochs, epochs_per_generation
        self.size, self.individuals_per_step = population, individuals_per_step
        self.operators = Operators(mutation, crossover, node_probability, shared_coin)
        self.include_none, self.cost_names = include_none, objectives[1:]
        self.latency_device, self.selection, self.speed = latency_device, selection, speed
        self.batch_norm, self.family_size = batch_norm, family_size
        self.reference_point, self.size_bins = reference_point, size_bins
        self._scores_twice = selection == "pnsga3" and speed == "checkpoint_difference"

    def setup(self, problem: Problem) -> None:
        super().setup(problem)
        space = self.supernet.space
        check(not self.include_none or len(space.real) < len(space.operations), "include_none",
              "false unless search_space.operations has a zero operation", self.include_none)
        self.encoding = Encoding(space, self.include_none)
        check(2 * self.size <= self.encoding.size, "population",
              f"at most half of the space's {self.encoding.size} networks", self.size)
        distinct: dict[Individual, None] = {}
        while len(distinct) < self.size:
            distinct[self.encoding.random(problem.rng)] = None
        self.epochs_done = self.generation = 0
        self.errors: list[float] | None = None  # of the population when it was selected
        self.speeds: list[float] | None = None
        self.costs: dict[Individual, list[float]] = {}  # every measurement: latencies do not repeat
        self.reference = self.reference_point
        self.sampled: Counter[int] = Counter()  # operations in training steps of this generation
        self.population = list(distinct)
        self._ones = self.supernet.place(torch.ones(self.supernet.mixing_shape))
        self.previous = problem.weights.snapshot() \
            if self._scores_twice and not 0 < self.warmup_epochs < self.epochs else None

    def _mixing(self, individual: Individual) -> Mixing:
        """The sparse path: only chosen operations run, each with weight 1, so that the ones on the
        device serve every individual and no step has to wait for a transfer."""
        return Mixing(self._ones, self.encoding.mask(individual)[list(self.supernet.row_types)])

    def search_step(self, train: Batch, valid: Batch | None) -> dict[str, Tensor]:
        """Eq. 3: one SGD step on the mean loss of N_b individuals."""
        rng = self.problem.rng
        if self.epochs_done < self.warmup_epochs:
            chosen = [self.encoding.random(rng)]
        else:
            order = torch.randperm(self.size, generator=rng)[:self.individuals_per_step]
            chosen = [self.population[i] for i in order.tolist()]
        self.sampled.update(o for individual in chosen for node in individual for _, o in node)
        return self.problem.weights.step(train, [self._mixing(i) for i in chosen])

    def on_epoch_end(self, epoch: int) -> Metrics:
        self.epochs_done = epoch + 1
        after = self.epochs_done - self.warmup_epochs
        if after == 0 and self._scores_twice:
            self.previous = self.problem.weights.snapshot()
        due = after > 0 and after % self.epochs_per_generation == 0
        last = self.epochs_done == self.epochs and self.generation == 0
        return self._evolve() if due or last else {}

    def _evolve(self) -> Metrics:
        """One generation: N children, all 2N re-scored, N selected."""
        rng, parents = self.problem.rng, self.population
        children, made = self.operators.offspring(parents, self.encoding, rng)
        everyone = parents + children
        error = self._score(everyone)
        speed, scored_before = self._speed(everyone, error)
        costs = self._measure(everyone)
        kept = self._select(error, speed, costs)
        tau = None if self.errors is None else pareto.kendall_tau(self.errors, error[:len(parents)])
        self.population = [everyone[i] for i in kept]
        self.errors, self.speeds = error[kept].tolist(), speed[kept].tolist()
        self.generation += 1
        if self._scores_twice:
            self.previous = self.problem.weights.snapshot()
        return {"candidates_scored": len(everyone) + scored_before, "candidate_rank_stability": tau,
                "survivors": int((kept < len(parents)).sum()), "children": dict(made),
                **self._describe()}

    def _score(self, individuals: Sequence[Individual], weights: dict[str, Tensor] | None = None
               ) -> pareto.Floats:
        return np.array([self.problem.score(self._mixing(i), weights=weights,
                                            batch_norm=self.batch_norm) for i in individuals])

    def _speed(self, everyone: list[Individual], error: pareto.Floats) -> tuple[pareto.Floats, int]:
        """Accuracy increase per generation (or its stand-in) and how many were scored for it."""
        if not self._scores_twice:
            return 100 - error, 0
        known = self.errors or []  # the parents', under the previous weights
        unknown = everyone[len(known):]
        before = np.concatenate([known, self._score(unknown, self.previous)])
        return np.round(before - error, 9), len(unknown)  # equal differences must compare equal

    def _measure(self, individuals: Sequence[Individual]) -> pareto.Floats:
        """[individuals, costs], each measured once."""
        for individual in individuals:
            if individual not in self.costs:
                self.costs[individual] = self._cost(self.encoding.decode(individual))
        return np.array([self.costs[individual] for individual in individuals])

    def _cost(self, genotype: Genotype) -> list[float]:
        found = self.problem.measure(genotype, self.cost_names)
        return [found[name] for name in self.cost_names]

    def _sortings(self, error: pareto.Floats, speed: pareto.Floats, costs: pareto.Floats
                  ) -> list[pareto.Integers]:
        if self.selection == "pnsga3":
            return pareto.protected_sortings(error, speed, costs)
        return [pareto.ranks(np.column_stack([error, costs]))]

    def _select(self, error: pareto.Floats, speed: pareto.Floats, costs: pareto.Floats
                ) -> pareto.Integers:
        rng, points = self.problem.rng, np.column_stack([error, costs])
        if self.selection == "nsga2":
            return pareto.select_nsga2(points, self.size)
        if self.selection == "nsga3":
            return pareto.select_nsga3(points, self.size, rng)
        return pareto.select_union(self._sortings(error, speed, costs), self.size, rng)

    def _population(self) -> tuple[pareto.Floats, pareto.Floats, pareto.Integers]:
        """(errors, costs, stages) of the scored population."""
        error, speed = np.array(self.errors), np.array(self.speeds)
        costs = self._measure(self.population)
        return error, costs, pareto.stages(self._sortings(error, speed, costs))

    def _describe(self) -> Metrics:
        if self.reference is None:
            dearest = np.max([self._cost(network) for network in self._uniform()], axis=0)
            self.reference = [100.0, *dearest.tolist()]
        exposure = cars_report.exposure(self.sampled, self.supernet.space)
        self.sampled.clear()
        return {"generation": self.generation, **exposure, **cars_report.describe(
            *self._population(), self.cost_names, self.reference, self.size_bins)}

    def _uniform(self) -> list[Genotype]:
        """Per real operation the network that has it on the first two edges of every node."""
        space = self.supernet.space
        return [Genotype(cell, cell) for o in space.real for cell in
                [space.cell([(e, o) for n in space.concat for e in space.incoming(n)[:2]])]]

    def mixing(self) -> Mixing:
        """The most accurate individual."""
        best = 0 if self.errors is None else int(np.argmin(self.errors))
        return self._mixing(self.population[best])

    def architecture_weights(self) -> Tensor:
        """How often the population has each operation on each edge, 0 to 1."""
        mean = torch.stack([self.encoding.mask(i) for i in self.population]).float().mean(dim=0)
        return mean[list(self.supernet.row_types)]

    def derive(self) -> list[Derived]:
        if self.errors is None:
            chosen = sorted(range(self.family_size),
                            key=lambda i: self._measure([self.population[i]])[0, 0])
            rule, front = "not yet scored: first individuals of the initial population", []
        else:
            error, costs, stage = self._population()
            front = np.flatnonzero(stage == 0).tolist()
            reach = np.sort(stage)[self.family_size - 1]  # a front may be smaller than the family
            pool = np.flatnonzero(stage <= reach)
            chosen = pool[pareto.spread(error[pool], costs[pool, 0], self.family_size)].tolist()
            rule = f"merged front of {self.selection}: lowest error in each of " \
                   f"{self.family_size} equal bins of {self.cost_names[0]}"
        family = []
        for letter, i in zip(ascii_uppercase, chosen, strict=False):
            accuracy = None if self.errors is None else 100 - self.errors[i]
            extra: dict[str, Any] = {"objectives": self._objectives(i)}
            if letter == "A":
                extra["front"] = [{"genotype": self.encoding.decode(self.population[j]).to_dict(),
                                   "objectives": self._objectives(j)} for j in front]
            family.append(Derived(f"CARS-{letter}", self.encoding.decode(self.population[i]), rule,
                                  accuracy, extra))
        return family

    def _objectives(self, i: int) -> dict[str, float]:
        error = {} if self.errors is None else {"error": self.errors[i]}
        self._measure([self.population[i]])
        return error | dict(zip(self.cost_names, self.costs[self.population[i]], strict=True))

    def plots(self, history: list[Metrics]) -> list[dict[str, Any]]:
        return cars_report.plots(history, self.cost_names[0])

    def state_dict(self) -> dict[str, Any]:
        known = [{"genotype": self.encoding.decode(i).to_dict(), "costs": list(c)}
                 for i, c in self.costs.items()]
        return {"population": [self.encoding.decode(i).to_dict() for i in self.population],
                "errors": self.errors, "speeds": self.speeds, "costs": known,
                "previous": self.previous, "reference": self.reference,
                "sampled": dict(self.sampled), "epochs_done": self.epochs_done,
                "generation": self.generation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        def encode(genotype: dict[str, Any]) -> Individual:
            return self.encoding.encode(Genotype.from_dict(genotype))

        self.population = [encode(genotype) for genotype in state["population"]]
        self.costs = {encode(known["genotype"]): list(known["costs"]) for known in state["costs"]}
        self.errors, self.speeds = state["errors"], state["speeds"]
        self.reference, self.sampled = state["reference"], Counter(state["sampled"])
        self.epochs_done, self.generation = state["epochs_done"], state["generation"]
        self.previous = state["previous"]
        if self.previous is not None:  # saved tensors may come back on another device
            like = self.problem.weights.snapshot()
            self.previous = {key: value.to(like[key]) for key, value in self.previous.items()}
