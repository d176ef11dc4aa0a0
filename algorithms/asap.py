"""ASAP: Architecture Search, Anneal and Prune (Noy et al., AISTATS 2020, arXiv 1904.04123).

* `phi`: Gibbs-Boltzmann weights of the live operations, softmax(alpha / T): the relaxation.
* `temperature`: exponential annealing T_t = T_0 beta^t, t the epoch (the schedule of theorem 2 that
  is used in practice). While T_t >= tau, the grace epochs, only weights are trained.
* `prune`: after an epoch, operations below the threshold leave the edge for good: they are no
  longer computed, their alpha is frozen, the softmax is over the survivors.
* `thresholds`: c / N, or theta_t = max phi * exp(-gamma_t) of theorem 1 (`pac_radius` is gamma_t).
* The search ends when every edge has one operation; `derive` then chooses each node's two inputs.

Departures, and what the paper leaves open
1. `none` is not a candidate (`include_none: false`): dropping edges between nodes already says
   "nothing". With true, an edge left with only `none` is dead and never an input.
2. N is the first number of candidates of an edge (`threshold_base: initial`); `alive` recounts it,
   which halves the logit gap that the last duel needs.
3. In the PAC threshold t counts the updates of alpha so far, one noisy gradient each.
4. Which two inputs a node keeps is not described. DARTS' rule is degenerate on finished edges,
   where the one weight is 1. `input_selection: documented` ranks by the largest real entry of
   softmax(alpha) at T = 1 over all candidates, pruned ones with the alpha they were frozen at; ties
   go to the edge decided earlier, then to the lower source. `raw_alpha` ranks by the largest real
   alpha instead, `time_of_decision` by the epoch first.
5. Edges still undecided when the budget ends take their strongest operation, counted in
   `undecided_edges`.
6. With separate parameters per cell every cell prunes on its own; the genotype takes the mean over
   the cells of a type.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from algorithms.strategy import Batch, Derived, Metrics, Problem, Strategy, check
from search_spaces import CELL_TYPES, Cell, Genotype, Mixing

INPUT_SELECTIONS = ("documented", "raw_alpha", "time_of_decision")
UNDECIDED = -1


def pac_radius(temperature: float, updates: int, operations: int, gradient_bound: float,
               delta: float) -> float:
    """gamma_t = (L / T) sqrt(8 / t ln(pi^2 |O| t^2 / (3 delta))) of theorem 1, t >= 1 updates."""
    log = math.log(math.pi**2 * operations * updates**2 / (3 * delta))
    return gradient_bound / temperature * math.sqrt(8 / updates * log)


class ASAP(Strategy):
    """Annealed and pruned search.

    learning_rate, betas, weight_decay: Adam on alpha; initial_temperature T_0, temperature_decay
    beta in (0, 1) per epoch, grace_temperature tau; threshold: c in [0, 1), so that the strongest
    operation always stays; threshold_rule: constant or pac (then gradient_bound L and delta);
    threshold_base: initial or alive; include_none; input_selection: see departure 4.
    """

    def __init__(self, learning_rate: float, betas: list[float], weight_decay: float,
                 initial_temperature: float, temperature_decay: float, grace_temperature: float,
                 threshold: float, threshold_base: str, threshold_rule: str, gradient_bound: float,
                 delta: float, include_none: bool, input_selection: str):
        check(learning_rate > 0, "learning_rate", "positive", learning_rate)
        check(len(betas) == 2 and all(0 <= b < 1 for b in betas), "betas", "two numbers in [0, 1)",
              betas)
        check(weight_decay >= 0, "weight_decay", "at least 0", weight_decay)
        check(initial_temperature > 0, "initial_temperature", "positive", initial_temperature)
        check(0 < temperature_decay < 1, "temperature_decay", "strictly between 0 and 1",
              temperature_decay)
        check(grace_temperature > 0, "grace_temperature", "positive", grace_temperature)
        check(0 <= threshold < 1, "threshold",
              "at least 0 and below 1 (it is divided by the number of operations)", threshold)
        check(threshold_base in ("initial", "alive"), "threshold_base", "initial or alive",
              threshold_base)
        check(threshold_rule in ("constant", "pac"), "threshold_rule", "constant or pac",
              threshold_rule)
        check(gradient_bound > 0, "gradient_bound", "positive", gradient_bound)
        check(0 < delta < 1, "delta", "strictly between 0 and 1", delta)
        check(input_selection in INPUT_SELECTIONS, "input_selection", ", ".join(INPUT_SELECTIONS),
              input_selection)
        self.learning_rate, self.betas, self.weight_decay = learning_rate, betas, weight_decay
        self.initial_temperature, self.temperature_decay = initial_temperature, temperature_decay
        self.grace_temperature, self.threshold = grace_temperature, threshold
        self.threshold_base, self.threshold_rule = threshold_base, threshold_rule
        self.gradient_bound, self.delta = gradient_bound, delta
        self.include_none, self.input_selection = include_none, input_selection

    def setup(self, problem: Problem) -> None:
        super().setup(problem)
        shape, real = self.supernet.mixing_shape, self.supernet.space.real
        candidates = torch.ones(shape, dtype=torch.bool) if self.include_none else \
            torch.zeros(shape, dtype=torch.bool)
        candidates[..., real] = True
        self.candidates = candidates
        self.alpha = self.supernet.place(torch.zeros(shape)).requires_grad_()
        self.optimizer = torch.optim.Adam([self.alpha], lr=self.learning_rate,
                                          betas=(self.betas[0], self.betas[1]),
                                          weight_decay=self.weight_decay)
        self.epoch = self.updates = 0
        self._set_live(candidates)
        self.decided_at = torch.where(self.decided, 0, UNDECIDED)  # int64 [rows, edges], epochs

    def _set_live(self, live: Tensor) -> None:
        """The live operations, on the CPU for the network and on the device for the softmax."""
        self.live = live
        self.decided = live.sum(dim=-1) == 1  # bool [rows, edges]
        self._dead = ~self.supernet.place(live.float()).bool()
        self._trainable = self.supernet.place((live & ~self.decided[..., None]).float()).bool()

    @property
    def temperature(self) -> float:
        return self.initial_temperature * self.temperature_decay**self.epoch

    @property
    def in_grace(self) -> bool:
        return self.temperature >= self.grace_temperature

    def phi(self) -> Tensor:
        """[rows, edges, operations]: softmax(alpha / T) over live operations, zero elsewhere."""
        logits = self.alpha / self.temperature
        return logits.masked_fill(self._dead, -math.inf).softmax(dim=-1)

    def mixing(self) -> Mixing:
        return Mixing(self.phi().detach(), self.live)

    def search_step(self, train: Batch, valid: Batch | None) -> dict[str, Tensor]:
        metrics = {}
        if not self.in_grace and not self.decided.all():
            assert valid is not None
            metrics["architecture_loss"] = self._architecture_step(valid)
        return {**metrics, **self.problem.weights.step(train, self.mixing())}

    def _architecture_step(self, valid: Batch) -> Tensor:
        """One Adam step along the first-order gradient of L_val; frozen entries do not move."""
        phi = self.phi()
        at_weights = self.problem.weights.gradients(valid, Mixing(phi.detach(), self.live))
        self.optimizer.zero_grad()
        phi.backward(at_weights.mixing)
        state = self.optimizer.state[self.alpha]
        tensors = [self.alpha.detach(), *(state[k] for k in ("exp_avg", "exp_avg_sq") if state)]
        before = [t.clone() for t in tensors]
        self.optimizer.step()  # would drift by momentum and decay where the gradient is zero
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(torch.where(self._trainable, tensor, old))
        self.updates += 1
        return at_weights.loss

    def thresholds(self, phi: Tensor) -> Tensor:
        """phi [rows, edges, operations] -> [rows, edges, 1]; below it an operation is pruned."""
        alive = self.live if self.threshold_base == "alive" else self.candidates
        count = alive.sum(dim=-1, keepdim=True)
        if self.threshold_rule == "constant":
            return self.threshold / count.to(phi.dtype)
        gamma = torch.tensor([pac_radius(self.temperature, max(self.updates, 1), n,
                                         self.gradient_bound, self.delta)
                              for n in count.flatten().tolist()], dtype=phi.dtype)
        return phi.amax(dim=-1, keepdim=True) * (-gamma).exp().view(count.shape)

    def prune(self) -> list[dict[str, Any]]:
        """Drop every live operation below the threshold; one record per edge that lost some, with
        the weights of all its operations just before."""
        phi = self.phi().detach().cpu()
        thresholds = self.thresholds(phi)
        removed = self.live & (phi < thresholds)
        space, events = self.supernet.space, []
        for row, edge in removed.any(dim=-1).nonzero().tolist():
            names = [space.operations[o] for o in self.live[row, edge].nonzero().flatten().tolist()]
            events.append({
                "epoch": self.epoch, "row": row, "edge": list(space.edges[edge]),
                "threshold": float(thresholds[row, edge]),
                "weights": {name: float(phi[row, edge, space.operations.index(name)])
                            for name in names},
                "removed": [name for name in names
                            if removed[row, edge, space.operations.index(name)]]})
        self._set_live(self.live & ~removed)
        newly = self.decided & (self.decided_at == UNDECIDED)
        self.decided_at = torch.where(newly, self.epoch, self.decided_at)
        return events

    def on_epoch_end(self, epoch: int) -> Metrics:
        self.epoch = epoch
        temperature, events = self.temperature, [] if self.in_grace else self.prune()
        live = self.live.sum(dim=(1, 2))
        types = torch.tensor(self.supernet.row_types)
        self.epoch = epoch + 1
        return {"temperature": temperature,
                **{f"live_operations_{kind}": int(live[types == t].sum())
                   for t, kind in enumerate(CELL_TYPES)},
                "pruned_operations": sum(len(event["removed"]) for event in events),
                "decided_edges": int(self.decided.sum()), "prune_events": events}

    def should_stop(self) -> str | None:
        if not self.decided.all():
            return None
        return (f"every edge has one operation left after epoch {max(self.epoch - 1, 0)} "
                f"({self.decided.numel()} edges)")

    def derive(self) -> list[Derived]:
        genotype = Genotype(*(self._cell(self._rows(t)) for t in range(len(CELL_TYPES))))
        undecided = int((~self.decided).sum())
        rule = f"the survivor of each edge, two inputs per node by {self.input_selection}"
        if undecided:
            rule += f"; {undecided} of {self.decided.numel()} edges undecided, resolved by arg max"
        extra: dict[str, Any] = {"undecided_edges": undecided, "edges": self.decided.numel(),
                                 "input_selection": self.input_selection}
        if tuple(self.supernet.row_types) != (0, 1):
            extra["cells"] = [self._cell([r]).to_dict() for r in range(len(self.live))]
        return [Derived("ASAP", genotype, rule, extra=extra)]

    def _rows(self, cell_type: int) -> list[int]:
        """Rows of a cell type; a shallow network without one leaves the choice to all rows."""
        rows = [r for r, t in enumerate(self.supernet.row_types) if t == cell_type]
        return rows or list(range(len(self.supernet.row_types)))

    def _cell(self, rows: list[int]) -> Cell:
        space, real = self.supernet.space, list(self.supernet.space.real)
        phi = self.phi().detach().cpu()[rows].mean(dim=0)
        weights = phi.masked_fill(~self.live[rows].any(dim=0), -1.0)[:, real].tolist()
        best = [max(range(len(real)), key=row.__getitem__) for row in weights]
        strength = self._strength(rows)
        chosen, fed = [], {0, 1}
        for node in space.concat:
            inputs = [e for e in space.incoming(node)
                      if weights[e][best[e]] >= 0 and space.edges[e][0] in fed]
            kept = sorted(inputs, key=strength.__getitem__)[:2]
            chosen += [(e, real[best[e]]) for e in kept]
            fed |= {node} if kept else set()
        if not chosen:
            raise ValueError("algorithm.include_none: every edge of a cell ended with a zero "
                             "operation, nothing can be derived; use false")
        return space.cell(chosen)

    def _strength(self, rows: list[int]) -> list[tuple[float, ...]]:
        """Per edge a sort key, strongest first (departure 4)."""
        alpha, real = self.alpha.detach().cpu().double()[rows], list(self.supernet.space.real)
        softmax = alpha.masked_fill(~self.candidates[rows], -math.inf).softmax(dim=-1)
        score = softmax[..., real].amax(dim=-1).mean(dim=0).tolist()
        largest = alpha[..., real].amax(dim=-1).mean(dim=0).tolist()
        never = torch.iinfo(torch.int64).max
        at = self.decided_at[rows]
        decided = torch.where(at == UNDECIDED, never, at).amax(dim=0).tolist()
        if self.input_selection == "raw_alpha":
            return [(-a, d) for a, d in zip(largest, decided, strict=True)]
        if self.input_selection == "time_of_decision":
            return [(d, -s) for d, s in zip(decided, score, strict=True)]
        return [(-s, d) for s, d in zip(score, decided, strict=True)]

    def architecture_weights(self) -> Tensor:
        return self.phi().detach().cpu()

    def plots(self, history: list[Metrics]) -> list[dict[str, Any]]:
        epochs = [(h["epoch"], h) for h in history if "temperature" in h]  # not those of retraining
        live = {kind: [(e, h[f"live_operations_{kind}"]) for e, h in epochs] for kind in CELL_TYPES}
        return [{"name": "live_operations", "title": "Operations still computed",
                 "x_label": "epoch", "y_label": "live operations", "series": live},
                {"name": "temperature", "title": "Annealing", "x_label": "epoch",
                 "y_label": "temperature",
                 "series": {"T": [(e, h["temperature"]) for e, h in epochs],
                            "grace ends below": [(e, self.grace_temperature) for e, _ in epochs]}}]

    def state_dict(self) -> dict[str, Any]:
        return {"alpha": self.alpha.detach(), "optimizer": self.optimizer.state_dict(),
                "live": self.live, "decided_at": self.decided_at, "epoch": self.epoch,
                "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.alpha.copy_(state["alpha"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.updates = state["epoch"], state["updates"]
        self._set_live(state["live"].cpu())
        self.decided_at = state["decided_at"].cpu()
