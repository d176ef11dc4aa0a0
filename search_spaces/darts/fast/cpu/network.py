"""The fast search network: the plain one's parameters and state, other arithmetic."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.darts.fast.cpu import cell as cpu_cell
from search_spaces.darts.fast.cpu.native import NAMES
from search_spaces.darts.fast.cpu.preprocess import preprocess
from search_spaces.darts.fast.terms import Point, Term, all_terms, make_point
from search_spaces.darts.search_network import SearchNetwork
from search_spaces.mixing import Mixing


class FastSearchNetwork(SearchNetwork):
    """`SearchNetwork` with the same constructor, parameters, buffers and results.

    On a CPU in float32 or float64 whole cells run in compiled kernels, and only what is live: a
    live set may change at every step without a compilation. Per-sample mixing, autocast and
    gradients in evaluation mode take the plain forward.
    """

    @functools.cached_property
    def _terms(self) -> list[dict[tuple[int, int], Term]]:
        return [all_terms(self.cell(i)) for i in range(self.cells)]

    @functools.cached_property
    def _inputs(self) -> list[tuple[Point | None, Point | None]]:
        cells = [self.cell(i) for i in range(self.cells)]
        return [(make_point(cell.pre0), make_point(cell.pre1)) for cell in cells]

    def forward(self, x: Tensor, mixing: Mixing | Tensor) -> Tensor:
        if isinstance(mixing, Tensor):
            mixing = Mixing(mixing)
        if not self._kernels_apply(x, mixing):
            return super().forward(x, mixing)
        live = mixing.live_mask().tolist()
        rows = mixing.weights.unbind(0)
        plans = [self._plan(i, live[row]) for i, row in enumerate(self.rows)]
        inputs = [p for pair in self._inputs for p in pair]
        parameters = [[c.weight for c in p.convolutions] if p else [] for p in inputs] + \
            [cpu_cell.live_parameters(plan) for plan in plans]
        if torch.is_grad_enabled():
            gate = iter(_Gate.apply(*itertools.chain(*parameters)) if any(parameters) else ())
            parameters = [[next(gate) for _ in part] for part in parameters]
        stem = self.stem(x.contiguous(memory_format=torch.channels_last))
        before, previous = stem if isinstance(stem, tuple) else (stem, stem)
        for i, row in enumerate(self.rows):
            cell, states = self.cell(i), []
            for k, (module, h) in enumerate(((cell.pre0, before), (cell.pre1, previous))):
                point = inputs[2 * i + k]
                states.append(preprocess(point, self.training, h, parameters[2 * i + k])
                              if point else module(h))
            before, previous = previous, cpu_cell.run_cell(
                cell, plans[i], states[0], states[1], rows[row], parameters[2 * self.cells + i])
        return self.classifier(previous.mean(dim=(2, 3)))

    def _plan(self, cell: int, live: list[list[bool]]) -> list[list[Term]]:
        """The live terms of a cell, per node."""
        terms = self._terms[cell]
        return [[terms[e, o] for e in self.space.incoming(node) for o in self.space.real
                 if live[e][o]] for node in self.space.concat]

    def _kernels_apply(self, x: Tensor, mixing: Mixing) -> bool:
        return (x.device.type == "cpu" and x.dtype == self.classifier.weight.dtype
                and x.dtype in NAMES and tuple(mixing.weights.shape) == self.mixing_shape
                and (self.training or not torch.is_grad_enabled())
                and not torch.is_autocast_enabled("cpu"))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_terms", "_inputs")}


class _Gate(torch.autograd.Function):
    """Hands parameters on, so that a cell's backward pass can ask the engine whether this pass
    wants them at all; for leaves under `torch.autograd.grad` the engine cannot say."""

    @staticmethod
    def forward(ctx: Any, *parameters: nn.Parameter) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(p.detach() for p in parameters)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return gradients
