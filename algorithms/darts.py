"""DARTS (Liu, Simonyan, Yang, ICLR 2019, arXiv 1806.09055).

* `mixing`: continuous relaxation, softmax over operations of each edge (eq. 2).
* `_first_order`: grad_alpha L_val(w, alpha), i.e. xi = 0 in eq. 6.
* `_second_order`: eq. 7 with the finite difference of eq. 8; w' includes momentum and weight decay
  of the weight optimiser, as in the original code.
* `derive`: section 2.4, the two strongest non-zero edges per node.

Departures from the paper and the original code
1. Architecture parameters start at 1e-3 * N(0, 1) as in the code (`initial_scale`); the paper
   starts at zero: set 0.
2. The validation batch of a step comes from one shuffled pass after another (without replacement);
   the original draws a fresh random batch per step. Same distribution per batch.
3. After the finite difference the weights are restored exactly (the original adds back and keeps a
   float32 residue), and the two displaced passes and the virtual step leave the batch-norm
   statistics alone; the original's main network sees the displaced passes too.
4. With separate parameters per cell (`search_space.share_cells=false`) the derived genotype uses
   the mean weights over the cells of a type; what each cell would choose is in `extra`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from algorithms.strategy import Batch, Derived, Problem, Strategy, check
from search_spaces import Mixing, derive_top_two, top_two


class DARTS(Strategy):
    """Differentiable architecture search, first order or `second_order`.

    label: the name of what it derives; learning_rate, betas, weight_decay: Adam on alpha (decay is
    L2 in the gradient, not decoupled); initial_scale: standard deviation of the initial alpha;
    finite_difference: the 0.01 of eq. 8.
    """

    def __init__(self, label: str, second_order: bool, learning_rate: float, betas: list[float],
                 weight_decay: float, initial_scale: float, finite_difference: float):
        check(learning_rate > 0, "learning_rate", "positive", learning_rate)
        check(len(betas) == 2 and all(0 <= b < 1 for b in betas), "betas", "two numbers in [0, 1)",
              betas)
        check(weight_decay >= 0, "weight_decay", "at least 0", weight_decay)
        check(initial_scale >= 0, "initial_scale", "at least 0", initial_scale)
        check(finite_difference > 0, "finite_difference", "positive", finite_difference)
        self.label, self.second_order = label, second_order
        self.learning_rate, self.betas, self.weight_decay = learning_rate, betas, weight_decay
        self.initial_scale, self.finite_difference = initial_scale, finite_difference

    def setup(self, problem: Problem) -> None:
        super().setup(problem)
        shape = self.supernet.mixing_shape
        alpha = self.initial_scale * torch.randn(shape, generator=problem.rng)
        self.alpha = self.supernet.place(alpha).requires_grad_()
        self.optimizer = torch.optim.Adam([self.alpha], lr=self.learning_rate,
                                          betas=(self.betas[0], self.betas[1]),
                                          weight_decay=self.weight_decay)

    def _mixing(self) -> Mixing:
        return Mixing(self.alpha.softmax(dim=-1))

    def mixing(self) -> Mixing:
        return self._mixing().detach()

    def search_step(self, train: Batch, valid: Batch | None) -> dict[str, Tensor]:
        assert valid is not None
        mixing = self._mixing()
        loss, gradient = (self._second_order(train, valid, mixing) if self.second_order
                          else self._first_order(valid, mixing))
        self.optimizer.zero_grad()
        mixing.weights.backward(gradient)
        self.optimizer.step()
        return {"architecture_loss": loss, **self.problem.weights.step(train, self.mixing())}

    def _first_order(self, valid: Batch, mixing: Mixing) -> tuple[Tensor, Tensor]:
        at_weights = self.problem.weights.gradients(valid, mixing.detach())
        return at_weights.loss, at_weights.mixing

    def _second_order(self, train: Batch, valid: Batch, mixing: Mixing) -> tuple[Tensor, Tensor]:
        weights, mixing = self.problem.weights, mixing.detach()
        xi = weights.lr
        w = [value.clone() for value in weights.values()]
        g = weights.gradients(train, mixing, weights=True, full_precision=True).weights
        direction = torch._foreach_add(g, w, alpha=weights.weight_decay)
        torch._foreach_add_(direction, weights.momentum_buffers(), alpha=weights.momentum)
        with weights.at(torch._foreach_add(w, direction, alpha=-xi)):  # w' of eq. 7
            ahead = weights.gradients(valid, mixing, weights=True, full_precision=True)
        norm = torch.stack(torch._foreach_norm(ahead.weights)).norm()
        epsilon = self.finite_difference / norm
        shift = torch._foreach_mul(ahead.weights, epsilon)
        with weights.at(torch._foreach_add(w, shift)):
            plus = weights.gradients(train, mixing, full_precision=True).mixing
        with weights.at(torch._foreach_sub(w, shift)):
            minus = weights.gradients(train, mixing, full_precision=True).mixing
        return ahead.loss, ahead.mixing - xi * (plus - minus) / (2 * epsilon)

    def derive(self) -> list[Derived]:
        network = self.supernet
        weights = self.mixing().weights
        genotype = derive_top_two(weights, network.space, network.row_types)
        rule = "two strongest inputs per node by softmax(alpha), none excluded (DARTS 2.4)"
        extra: dict[str, Any] = {}
        if tuple(network.row_types) != (0, 1):  # what every cell would choose on its own
            extra["cells"] = [top_two(row, network.space).to_dict() for row in weights]
        return [Derived(self.label, genotype, rule, extra=extra)]

    def architecture_weights(self) -> Tensor:
        return self.mixing().weights.cpu()

    def state_dict(self) -> dict[str, Any]:
        return {"alpha": self.alpha.detach(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.alpha.copy_(state["alpha"])
        self.optimizer.load_state_dict(state["optimizer"])
