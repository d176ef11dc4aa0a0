"""The fast search network: the plain one's parameters and state, other arithmetic."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.darts.fast.cpu import cell as cpu_cell
from search_spaces.darts.fast.cpu.native import NAMES
from search_spaces.darts.fast.cpu.preprocess import preprocess
from search_spaces.darts.fast.terms import Point, Term, all_terms, make_point
from search_spaces.darts.search_network import ImageNetStem, SearchCell, SearchNetwork
from search_spaces.mixing import Mixing

CACHED = ("_terms", "_inputs", "_modes", "_halved")  # what a copy of the network finds out anew


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

    @functools.cached_property
    def _modes(self) -> list[nn.Module]:
        """What the kernels take to be in the network's own mode."""
        return [m for i in range(self.cells) for m in self.cell(i).modules()
                if isinstance(m, (nn.BatchNorm2d, SearchCell))]

    @functools.cached_property
    def _halved(self) -> tuple[int, int]:
        """How much the stem divides an edge (rounding up), and by what the rest must be divisible:
        the kernels know no odd sizes behind a stride."""
        count = sum(self.reduction)
        if isinstance(self.stem, ImageNetStem):  # the first cell halves one of its inputs
            return 4, 2 ** (count + 1)
        return 2 if hasattr(self.stem, "conv0") else 1, 2 ** count

    def forward(self, x: Tensor, mixing: Mixing | Tensor) -> Tensor:
        if isinstance(mixing, Tensor):
            mixing = Mixing(mixing)
        if not self._kernels_apply(x, mixing):
            return super().forward(x, mixing)
        live = mixing.live_mask().tolist()
        rows = mixing.weights.unbind(0)
        plans = [self._plan(i, live[row]) for i, row in enumerate(self.rows)]
        parameters = [[*(_weights(point) for point in points), cpu_cell.live_parameters(plan)]
                      for points, plan in zip(self._inputs, plans, strict=True)]
        if torch.is_grad_enabled():
            parameters = _behind_gate(parameters)
        stem = self.stem(x.contiguous(memory_format=torch.channels_last))
        before, previous = stem if isinstance(stem, tuple) else (stem, stem)
        for i, row in enumerate(self.rows):
            cell, (of_first, of_second, own) = self.cell(i), parameters[i]
            first = self._input(cell.pre0, self._inputs[i][0], before, of_first)
            second = self._input(cell.pre1, self._inputs[i][1], previous, of_second)
            before, previous = previous, cpu_cell.run_cell(
                cell, plans[i], first, second, rows[row], own)
        return self.classifier(previous.mean(dim=(2, 3)))

    def _input(self, module: nn.Module, point: Point | None, x: Tensor, weights: list[Tensor]
               ) -> Tensor:
        return preprocess(point, self.training, x, weights) if point else module(x)

    def _plan(self, cell: int, live: list[list[bool]]) -> list[list[Term]]:
        """The live terms of a cell, per node."""
        terms = self._terms[cell]
        return [[terms[e, o] for e in self.space.incoming(node) for o in self.space.real
                 if live[e][o]] for node in self.space.concat]

    def _kernels_apply(self, x: Tensor, mixing: Mixing) -> bool:
        return (x.device.type == "cpu" and x.dtype == self.classifier.weight.dtype
                and x.dtype in NAMES and tuple(mixing.weights.shape) == self.mixing_shape
                and (self.training or not torch.is_grad_enabled())
                and not torch.is_autocast_enabled("cpu")
                and all(module.training == self.training for module in self._modes)
                and self._fits(x.shape))

    def _fits(self, shape: torch.Size) -> bool:
        """A batch of images whose edges can be halved as often as they will be."""
        stride, whole = self._halved
        return len(shape) == 4 and 0 not in shape and not any(
            -(-edge // stride) % whole for edge in shape[2:])

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in CACHED}


def _weights(point: Point | None) -> list[Tensor]:
    return [c.weight for c in point.convolutions] if point else []


def _behind_gate(groups: list[list[list[Tensor]]]) -> list[list[list[Tensor]]]:
    """The parameters per cell and part, handed through one `_Gate`."""
    flat = [p for parts in groups for part in parts for p in part]
    gate = iter(_Gate.apply(*flat) if flat else ())
    return [[[next(gate) for _ in part] for part in parts] for parts in groups]


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
