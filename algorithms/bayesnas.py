"""BayesNAS (Zhou, Yang, Wang, Pan, ICML 2019, arXiv 1905.04919): prune by a Bayesian entropy rule.

Every operation of every cell has a switch s_op, every edge a switch s_edge; the output of an edge
is sum_o s_edge s_op f_o(x), no softmax, all switches start at 1. One iteration of the paper's
Algorithm 1 is

* `search_step`: weights and switches for one epoch on E_D + lam * sum_g omega_g ||s_g||; a group g
  holds the switches of one operation (or edge) in all cells of one type, so cells of a type stay
  equal in structure while their switch values differ;
* `_curvature`: the diagonal Hessian of the switches (exact, or the recursive fast form);
* `_update`: gamma, hierarchical combination, posterior C, alpha, omega (`bayes_priors`), then the
  entropy rule and the removal of what is disconnected (`cell_priors`).

The search ends when an update prunes nothing and moves the variances by no more than `tolerance` on
average, or with the epochs. Why 10 epochs in the paper's setting: the released code does one update
and a person reads the cell off it; the authors' later code for weights does 10 rounds. At rate 0.1,
lam 0.01 and 2,500 steps a useless switch (omega = 1) walks from 1 to 0 in 0.4 epochs, so each
update sees settled switches, and the re-weighting from l1 towards log needs a handful of updates.

Where it settles: at a fixed scale (10a) the penalty widens differences between switches, the loss
narrows them and wins where H exceeds roughly lam omega. On digits H averages 0.01 to 0.07 with all
196 operations live and mostly 0.05 to 1.5 when a few carry the function. So, given epochs, the
search (seed 0, smoke setting otherwise) ended itself with 1 normal + 1 reduction operations at lam
0.2 (18 epochs, H / lam 7), 1 + 4 at 0.05 and switch_rate 4 (21; 4), 2 + 6 at 0.02 and 8 (26; 2.5).
With 0.01 and 10, batches of 8 at learning rate 0.02 and 8 of them for H, 11 + 6 stayed from epoch
13 to 18, at 13 times the steps; but the variances followed the noise of weights and of 64 samples'
curvature, 17 to 37 % an update, and a tolerance of 0.2 stopped a slower search in its first epoch.
The smoke setting does not settle: its 6 epochs are part of the result.

Departures from the paper [P] and from the authors' code [C]
1. omega = gamma = 1 at the start (P); C draws them, C and H at random. C then updates once.
2. gamma uses the omega under which the switches were trained (derivation, later code); C uses the
   new one, and a stale cell index in it.
3. Parent term: 1/g_eff = 1/g_op + 1/g_edge + 1/G_j (`cell_priors`), our reading of P. C has the
   edge's own switch only: `own_edge_only=true`.
4. The edge switch scales the edge's output; on the input (C) the next batch norm cancels it.
5. All 14 edges of a cell (P); C selects 8 and feeds one of them from different inputs in search
   and in evaluation. No zero operation: an edge that is off is zero.
6. Curvature over all classes with batch norm in evaluation mode, over `curvature_batches` batches.
   C uses the target class and one batch of 18; its recursion averages over positions before it goes
   on, is near zero before dilated convolutions, takes 1/k^2 for average pooling and 0.5 for global
   pooling, and divides by the switch. Exact by default, P and C know only the recursion.
7. Switches take plain SGD steps at `switch_rate` times the weights' learning rate, then a group
   soft-threshold: zeros are zeros. C steps along the subgradient with momentum 0.9, which is 10
   times this pace and never reaches zero. No weight decay on switches in either.
8. One lam for operations and edges (C has two, both set alike).
9. No warm-up epoch on 10 % of the images: they are `search_valid` here, which is only watched. C
   watches the test images.
10. Guards. (a) `normalise`: the loss depends neither on the common scale of a cell's coefficients
    (batch norm follows) nor on how an edge splits its scale between edge and operation switches;
    the penalty does, and would shrink everything together until the entropy rule empties the cell
    (on digits, in the third epoch). So after each step operation switches have root mean square 1
    within their edge and edge switches within their cell, zeros not counted: operations compete
    with those beside them, edges with edges. (b) Variances are capped at `variance_ceiling`.
    (c) Groups whose curvature is at most `curvature_floor` of the largest in their cell type are
    pruned: their gamma would grow forever although the output does not depend on them.
11. If an update would leave a cell without a path from input to output, its single largest variance
    on an input edge stays and the search ends, saying so.
12. Switches are pruned for good during the search (P) and nothing is chosen by hand; C prunes
    nothing. `projection` adds a two-inputs-one-operation cell, labelled as such.
13. The search network is the common one of this package (ReLU-convolution-BN, separable dilated
    convolutions, reductions at one and two thirds); C's has BN-ReLU-convolution, full dilated ones
    and n n r n n r n n. The authors' network is used to retrain (`search_spaces`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from algorithms.bayes_priors import (
    REDUCTIONS,
    alpha,
    bounded,
    entropy,
    omega,
    shrinkage,
    variance,
)
from algorithms.cell_priors import effective, prune
from algorithms.curvature import Curvature, coefficients, exact_curvature
from algorithms.curvature_recursion import recursive_curvature
from algorithms.strategy import Batch, Derived, Metrics, Problem, Strategy, check
from search_spaces import CELL_TYPES, Cell, Genotype, Mixing

CURVATURES = {"exact": exact_curvature, "recursive": recursive_curvature}


class BayesNAS(Strategy):
    """lam: noise variance and weight of the penalty (larger is sparser); switch_rate: learning rate
    of the switches over that of the weights; group_reduce: sum or mean; own_edge_only: without the
    predecessor's variance; curvature: exact or recursive; curvature_batches: of search_train;
    normalise, curvature_floor, variance_ceiling: the guards; tolerance: of ln(gamma); projection:
    see departure 12."""

    needs_valid = False

    def __init__(self, lam: float, switch_rate: float, normalise: bool, group_reduce: str,
                 own_edge_only: bool, curvature: str, curvature_batches: int,
                 curvature_floor: float, variance_ceiling: float, tolerance: float,
                 projection: bool):
        check(0 < lam < float("inf"), "lam", "positive", lam)
        check(switch_rate > 0, "switch_rate", "positive", switch_rate)
        check(group_reduce in REDUCTIONS, "group_reduce", " or ".join(REDUCTIONS), group_reduce)
        check(curvature in CURVATURES, "curvature", " or ".join(CURVATURES), curvature)
        check(curvature_batches >= 1, "curvature_batches", "at least 1", curvature_batches)
        check(0 <= curvature_floor < 1, "curvature_floor", "in [0, 1)", curvature_floor)
        check(variance_ceiling > 1, "variance_ceiling", "above 1, the initial variance",
              variance_ceiling)
        check(tolerance >= 0, "tolerance", "at least 0", tolerance)
        self.lam, self.switch_rate, self.group_reduce = lam, switch_rate, group_reduce
        self.normalise = normalise
        self.own_edge_only, self.projection = own_edge_only, projection
        self.curvature, self.curvature_batches = CURVATURES[curvature], curvature_batches
        self.curvature_floor, self.variance_ceiling = curvature_floor, variance_ceiling
        self.tolerance = tolerance

    def setup(self, problem: Problem) -> None:
        super().setup(problem)
        network = self.supernet
        if len(network.row_types) != network.cells:
            raise ValueError("search_space.share_cells: must be false for this algorithm, every "
                             "cell has its own switches; got true")
        rows, edges, operations = network.mixing_shape
        self.rows = [torch.tensor([i for i, t in enumerate(network.row_types) if t == kind])
                     for kind in range(len(CELL_TYPES))]
        self.s_op = network.place(torch.ones(rows, edges, operations))
        self.s_edge = network.place(torch.ones(rows, edges))
        self.live = torch.zeros(len(CELL_TYPES), edges, operations, dtype=torch.bool)
        self.live[:, :, list(network.space.real)] = True
        # Per cell type, float64 on the CPU; the penalty's copies on the device.
        self.omega_op = torch.ones(len(CELL_TYPES), edges, operations, dtype=torch.float64)
        self.omega_edge = torch.ones(len(CELL_TYPES), edges, dtype=torch.float64)
        start = [effective(self.omega_op[t], self.omega_edge[t], self.live[t], network.space,
                           self.own_edge_only) for t in range(len(CELL_TYPES))]
        self.g_op = torch.stack([g.operation for g in start])
        self.g_edge = torch.stack([g.edge for g in start])
        self.stopped: str | None = None
        self._place()

    def _place(self) -> None:
        """Device copies of what every step needs, and dead switches to zero."""
        types = list(self.supernet.row_types)
        self.row_live = self.live[types]
        alive = self.supernet.place(self.row_live.float())
        self.s_op *= alive
        self.s_edge *= alive.amax(dim=-1)
        self.penalty_op = [self.supernet.place(w) for w in self.omega_op]
        self.penalty_edge = [self.supernet.place(w) for w in self.omega_edge]
        self.row_index = [rows.to(self.s_op.device) for rows in self.rows]

    def mixing(self) -> Mixing:
        return Mixing(coefficients(self.s_op, self.s_edge), self.row_live)

    def search_step(self, train: Batch, valid: Batch | None) -> dict[str, Tensor]:
        rate = self.switch_rate * self.problem.weights.lr
        out = self.problem.weights.step(train, self.mixing(), mixing_gradient=True)
        gradient = out.pop("mixing_gradient")
        by_op = gradient * self.s_edge.unsqueeze(-1)
        by_edge = (gradient * self.s_op).sum(dim=-1)
        self._proximal_step(self.s_op, by_op, self.penalty_op, rate)
        self._proximal_step(self.s_edge, by_edge, self.penalty_edge, rate)
        if self.normalise:
            self._normalise()
        return out

    def _proximal_step(self, switches: Tensor, gradient: Tensor, penalty: list[Tensor],
                       rate: float) -> None:
        """Gradient step on the loss, then the proximal map of rate * lam * omega * ||group||."""
        switches -= rate * gradient
        for rows, weight in zip(self.row_index, penalty, strict=True):
            group = switches[rows]
            switches[rows] = group * shrinkage(group.norm(dim=0), rate * self.lam * weight)

    def _normalise(self) -> None:
        """Operation switches to root mean square 1 over the non-zero ones of their edge, the edge
        switch taking up the scale; then edge switches to 1 over the non-zero ones of their cell."""
        scale = _root_mean_square(self.s_op)
        self.s_op /= scale.unsqueeze(-1)
        self.s_edge *= scale
        self.s_edge /= _root_mean_square(self.s_edge).unsqueeze(-1)

    def on_epoch_end(self, epoch: int) -> Metrics:
        before = self.live.sum(dim=(1, 2)).tolist()
        curvature = self._curvature()
        change = self._update(curvature)
        after = self.live.sum(dim=(1, 2)).tolist()
        if self.stopped is None and before == after and change <= self.tolerance:
            self.stopped = (f"the update pruned nothing and moved the variances by "
                            f"{100 * change:.1f} % on average")
        g = self.g_op[self.live]
        return {"live_operations_normal": after[0], "live_operations_reduce": after[1],
                "live_edges_normal": int(self.live[0].any(dim=-1).sum()),
                "live_edges_reduce": int(self.live[1].any(dim=-1).sum()),
                "variance_min": float(g.min()), "variance_mean": float(g.mean()),
                "variance_max": float(g.max()), "variance_change": change,
                "entropy_min": float(entropy(g.min())), "entropy_mean": float(entropy(g).mean()),
                "curvature_mean": float(curvature.operation[self.row_live].mean()),
                "curvature_backward_passes": curvature.passes}

    def _curvature(self) -> Curvature:
        seed = int(torch.randint(2**31, (1,), generator=self.problem.rng))
        batches = self.problem.batches("search_train", self.curvature_batches, seed)
        with self.problem.timed("curvature"):
            return self.curvature(self.supernet, self.s_op, self.s_edge, self.row_live, batches)

    def _update(self, curvature: Curvature) -> float:
        """Closed-form updates and pruning; returns the mean |change of ln g_eff| left alive."""
        space, previous = self.supernet.space, self.g_op.clone()
        s_op, s_edge = self.s_op.double().cpu(), self.s_edge.double().cpu()
        for t, rows in enumerate(self.rows):
            h_op, h_edge = curvature.operation[rows] / self.lam, curvature.edge[rows] / self.lam
            ceiling = self.variance_ceiling
            gamma_op = variance(s_op[rows].norm(dim=0), self.omega_op[t], ceiling)
            gamma_edge = variance(s_edge[rows].norm(dim=0), self.omega_edge[t], ceiling)
            live = self.live[t] & self._felt(h_op.sum(dim=0), self.live[t])
            live, g = prune(gamma_op, gamma_edge, live, space, self.own_edge_only)
            if not live.any():
                live = self._survivor(t, previous[t])
                g = effective(gamma_op, gamma_edge, live, space, self.own_edge_only)
            # One group's cells share gamma; each has its own curvature and posterior.
            alpha_op = alpha(gamma_op, bounded(g.operation), h_op)
            alpha_edge = alpha(gamma_edge, bounded(g.edge), h_edge)
            self.omega_op[t] = omega(alpha_op, 0, self.group_reduce)
            self.omega_edge[t] = omega(alpha_edge, 0, self.group_reduce)
            self.live[t], self.g_op[t], self.g_edge[t] = live, g.operation, g.edge
        self._place()
        change = (self.g_op[self.live] / previous[self.live]).log().abs()
        return float(change.mean())  # the largest alone would follow the noise of the switches

    def _felt(self, curvature: Tensor, live: Tensor) -> Tensor:
        """Whether the output depends on a group at all (the zero-curvature guard)."""
        return curvature > self.curvature_floor * curvature[live].max()

    def _survivor(self, t: int, g_op: Tensor) -> Tensor:
        """What stays when everything would go: the largest earlier variance on an input edge."""
        space = self.supernet.space
        candidates = [(e, o) for e, (source, _) in enumerate(space.edges) if source < 2
                      for o in space.real]
        e, o = max(candidates, key=lambda place: float(g_op[place]))
        live = torch.zeros_like(self.live[t])
        live[e, o] = True
        self.stopped = (f"every operation of the {CELL_TYPES[t]} cell lost its entropy; one was "
                        "kept so that the cell is a graph: lower algorithm.lam")
        return live

    def should_stop(self) -> str | None:
        return self.stopped

    def derive(self) -> list[Derived]:
        cells = [self.supernet.space.cell(live.nonzero().tolist()) for live in self.live]
        rule = ("all switches with positive entropy, ln(2 pi e gamma) > 0, as a multi-operation "
                "cell graph")
        if self.stopped is not None and self.stopped.startswith("every"):
            rule += f"; {self.stopped}"
        derived = [Derived("BayesNAS", Genotype(*cells), rule)]
        if self.projection:
            projected = Genotype(*(self._projected(t) for t in range(len(CELL_TYPES))))
            derived.append(Derived(
                "BayesNAS (projection)", projected,
                "projection of the BayesNAS cell, not the paper's result: per node the two live "
                "edges of largest variance, each with its operation of largest variance"))
        return derived

    def _projected(self, t: int) -> Cell:
        space, chosen = self.supernet.space, []
        for node in space.concat:
            edges = [e for e in space.incoming(node) if self.live[t, e].any()]
            for e in sorted(edges, key=lambda e: -float(self.g_edge[t, e]))[:2]:
                chosen.append((e, int(self.g_op[t, e].argmax())))
        return space.cell(chosen)

    def architecture_weights(self) -> Tensor:
        """The effective variances, zero where pruned."""
        return self.g_op[list(self.supernet.row_types)].float()

    def plots(self, history: list[Metrics]) -> list[dict[str, Any]]:
        def lines(labels: dict[str, str]) -> dict[str, list[tuple[float, float]]]:
            return {label: [(i, m[key]) for i, m in enumerate(history) if key in m]
                    for label, key in labels.items()}

        live = {f"{kind} {what}": f"live_{what}_{kind}" for what in ("operations", "edges")
                for kind in CELL_TYPES}
        variances = {name: f"variance_{name}" for name in ("min", "mean", "max")}
        return [{"name": "live_operations", "title": "What is left of the cells",
                 "x_label": "epoch", "y_label": "number", "series": lines(live)},
                {"name": "variances", "title": "Effective prior variances of live operations",
                 "x_label": "epoch", "y_label": "variance", "series": lines(variances)}]

    def state_dict(self) -> dict[str, Any]:
        names = ("s_op", "s_edge", "live", "omega_op", "omega_edge", "g_op", "g_edge")
        return {**{name: getattr(self, name).clone() for name in names}, "stopped": self.stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            if isinstance(value, Tensor):
                getattr(self, name).copy_(value)
        self.stopped = state["stopped"]
        self._place()


def _root_mean_square(values: Tensor) -> Tensor:
    """Over the non-zero values of the last dimension; 1 where there are none."""
    mean = values.square().sum(dim=-1) / (values != 0).sum(dim=-1).clamp_min(1)
    return torch.where(mean > 0, mean, 1).sqrt()
