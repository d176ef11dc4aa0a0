"""The shared weights' trainer: the only place that knows precision, backward and the optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from algorithms.strategy import Batch, Gradients
from nasbench.capture import Capture
from nasbench.clock import Clock
from nasbench.precision import Precision
from nasbench.sgd import SGD
from search_spaces import Mixing, SearchNetwork
from search_spaces.full_precision import full_float32


class SupernetWeights:
    """SGD with momentum on the search network, one learning rate for all (see `Weights`).

    Weight decay is L2 in the gradient; the L2 norm of all gradients is clipped at `grad_clip`
    (0: off), network weights only.
    """

    def __init__(self, network: SearchNetwork, *, learning_rate: float, momentum: float,
                 weight_decay: float, grad_clip: float, precision: Precision, clock: Clock,
                 cuda_graphs: bool = True):
        self.network, self.precision, self.clock = network, precision, clock
        self.momentum, self.weight_decay, self.grad_clip = momentum, weight_decay, grad_clip
        self.parameters = list(network.parameters())
        self.optimizer = SGD(self.parameters, rate=learning_rate, momentum=momentum,
                             weight_decay=weight_decay)
        self.capture = Capture(self.parameters[0].device, cuda_graphs)
        self._norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        self._displaced = False

    @property
    def lr(self) -> float:
        """The current learning rate, set by the schedule."""
        return self.optimizer.rate

    @lr.setter
    def lr(self, value: float) -> None:
        self.optimizer.rate = value

    def step(self, batch: Batch, mixing: Mixing | Sequence[Mixing], *,
             mixing_gradient: bool = False) -> dict[str, Tensor]:
        mixings = [mixing] if isinstance(mixing, Mixing) else list(mixing)
        assert not (mixing_gradient and len(mixings) > 1) and not self._displaced
        live = [m.live for m in mixings]

        def run(x: Tensor, y: Tensor, *weights: Tensor) -> list[Tensor]:
            return self._step((x, y), list(map(Mixing, weights, live)), mixing_gradient)

        inputs = [*batch, *(m.weights.detach() for m in mixings)]
        with self.clock("weights"):  # sampled individuals hardly return: not worth recording
            loss, accuracy, *gradient = \
                self.capture(("step", mixing_gradient, _key(live[0])), run, inputs) \
                if isinstance(mixing, Mixing) else run(*inputs)
        out = {"train_loss": loss, "train_accuracy": accuracy}
        return out | {"mixing_gradient": gradient[0]} if mixing_gradient else out

    def _step(self, batch: Batch, mixings: list[Mixing], mixing_gradient: bool) -> list[Tensor]:
        """Mean loss, accuracy and on request the gradient of the one mixing."""
        self.optimizer.zero_grad(set_to_none=True)
        losses, correct, gradients = [], [], []
        for one in mixings:
            leaf = one.weights.detach().requires_grad_(mixing_gradient)
            loss, logits = self._forward(batch, Mixing(leaf, one.live))
            (loss / len(mixings)).backward()
            losses.append(loss.detach())
            correct.append((logits.detach().argmax(dim=1) == batch[1]).float().mean())
            if leaf.grad is not None:
                gradients.append(leaf.grad)
        if self.grad_clip:
            nn.utils.clip_grad_norm_(self.parameters, self.grad_clip)
        self.optimizer.step()
        return [torch.stack(losses).mean(), 100 * torch.stack(correct).mean(), *gradients]

    def gradients(self, batch: Batch, mixing: Mixing, *, weights: bool = False,
                  full_precision: bool = False) -> Gradients:
        def run(x: Tensor, y: Tensor, values: Tensor) -> list[Tensor]:
            return self._gradients((x, y), Mixing(values, mixing.live), weights, full_precision)

        loss, first, *rest = self.capture(
            ("gradients", weights, full_precision, self._displaced, _key(mixing.live)), run,
            [*batch, mixing.weights.detach()])
        return Gradients(loss, first, rest)

    def _gradients(self, batch: Batch, mixing: Mixing, weights: bool, full_precision: bool
                   ) -> list[Tensor]:
        """Loss, gradient of the mixing and on request of every parameter."""
        leaf = mixing.weights.detach().requires_grad_()
        with (full_float32() if full_precision else nullcontext(),
              _frozen([] if weights else self.parameters)):
            loss, _ = self._forward(batch, Mixing(leaf, mixing.live), full_precision)
            found = torch.autograd.grad(loss, [leaf, *(self.parameters if weights else [])],
                                        allow_unused=True, materialize_grads=True)
        return [loss.detach(), *found]

    def _forward(self, batch: Batch, mixing: Mixing, full_precision: bool = False
                 ) -> tuple[Tensor, Tensor]:
        if not self.network.training:  # it takes milliseconds: thousands of modules
            self.network.train()
        with self.precision.context(full=full_precision):
            logits = self.network(batch[0], mixing)
        return cross_entropy(logits.to(mixing.weights.dtype), batch[1]), logits

    @contextmanager
    def at(self, displaced: Sequence[Tensor]) -> Iterator[None]:
        values, momenta = self.values(), [m.momentum for m in self._norms]
        kept = [value.clone() for value in values]
        try:
            torch._foreach_copy_(values, list(displaced))  # in place: a recorded step reads there
            for norm in self._norms:
                norm.momentum = 0.0
            self._displaced = True
            yield
        finally:
            torch._foreach_copy_(values, kept)
            for norm, momentum in zip(self._norms, momenta, strict=True):
                norm.momentum = momentum
            self._displaced = False

    def values(self) -> list[Tensor]:
        return [p.detach() for p in self.parameters]

    def momentum_buffers(self) -> list[Tensor]:
        state = self.optimizer.state
        found = [state[p].get("momentum_buffer") if p in state else None for p in self.parameters]
        return [torch.zeros_like(p) if b is None else b
                for p, b in zip(self.parameters, found, strict=True)]

    def snapshot(self) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in self.network.state_dict().items()}


def _key(live: Tensor | None) -> bytes | None:
    """What a live set (on the CPU) is recognised by."""
    return None if live is None else live.numpy().tobytes()


@contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within, nothing is computed for gradients of these."""
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)
