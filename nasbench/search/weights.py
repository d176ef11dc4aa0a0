"""The shared weights' trainer: the only place that knows precision, backward and the optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from algorithms.strategy import Batch, Gradients
from nasbench.clock import Clock
from nasbench.precision import Precision
from search_spaces import Mixing, SearchNetwork


class SupernetWeights:
    """SGD with momentum on the search network, one learning rate for all (see `Weights`).

    Weight decay is L2 in the gradient; the L2 norm of all gradients is clipped at `grad_clip`
    (0: off), network weights only.
    """

    def __init__(self, network: SearchNetwork, *, learning_rate: float, momentum: float,
                 weight_decay: float, grad_clip: float, precision: Precision, clock: Clock):
        self.network, self.precision, self.clock = network, precision, clock
        self.momentum, self.weight_decay, self.grad_clip = momentum, weight_decay, grad_clip
        self.parameters = list(network.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=learning_rate, momentum=momentum,
                                         weight_decay=weight_decay)
        self._norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]

    @property
    def lr(self) -> float:
        """The current learning rate, set by the schedule."""
        return self.optimizer.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def step(self, batch: Batch, mixing: Mixing | Sequence[Mixing], *,
             mixing_gradient: bool = False) -> dict[str, Tensor]:
        with self.clock("weights"):
            mixings = [mixing] if isinstance(mixing, Mixing) else list(mixing)
            assert not mixing_gradient or len(mixings) == 1
            self.optimizer.zero_grad(set_to_none=True)
            losses, correct = [], []
            for one in mixings:
                leaf = one.weights.detach().requires_grad_(mixing_gradient)
                loss, logits = self._forward(batch, Mixing(leaf, one.live))
                (loss / len(mixings)).backward()
                losses.append(loss.detach())
                correct.append((logits.detach().argmax(dim=1) == batch[1]).float().mean())
            if self.grad_clip:
                nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)
            self.optimizer.step()
            out = {"train_loss": torch.stack(losses).mean(),
                   "train_accuracy": 100 * torch.stack(correct).mean()}
            if mixing_gradient:
                assert leaf.grad is not None
                out["mixing_gradient"] = leaf.grad
            return out

    def gradients(self, batch: Batch, mixing: Mixing, *, weights: bool = False,
                  full_precision: bool = False) -> Gradients:
        leaf = mixing.weights.detach().requires_grad_()
        loss, _ = self._forward(batch, Mixing(leaf, mixing.live), full_precision)
        inputs = [leaf, *(self.parameters if weights else [])]
        first, *rest = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        return Gradients(loss.detach(), first, rest)

    def _forward(self, batch: Batch, mixing: Mixing, full_precision: bool = False
                 ) -> tuple[Tensor, Tensor]:
        self.network.train()
        with self.precision.context(full=full_precision):
            logits = self.network(batch[0], mixing)
        return cross_entropy(logits.to(mixing.weights.dtype), batch[1]), logits

    @contextmanager
    def at(self, displaced: Sequence[Tensor]) -> Iterator[None]:
        kept = [p.data for p in self.parameters]
        momenta = [m.momentum for m in self._norms]
        try:
            for p, value in zip(self.parameters, displaced, strict=True):
                p.data = value
            for norm in self._norms:
                norm.momentum = 0.0
            yield
        finally:
            for p, value in zip(self.parameters, kept, strict=True):
                p.data = value
            for norm, momentum in zip(self._norms, momenta, strict=True):
                norm.momentum = momentum

    def values(self) -> list[Tensor]:
        return [p.detach() for p in self.parameters]

    def momentum_buffers(self) -> list[Tensor]:
        state = self.optimizer.state
        found = [state[p].get("momentum_buffer") if p in state else None for p in self.parameters]
        return [torch.zeros_like(p) if b is None else b
                for p, b in zip(self.parameters, found, strict=True)]

    def snapshot(self) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in self.network.state_dict().items()}
