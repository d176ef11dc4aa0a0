"""A search cell as one differentiable function on the CPU kernels.

Against the plain cell (exactly the same sums, other order):

* ReLU and padding happen while a kernel reads its input, never as tensors of their own;
* pools and their batch statistics belong to a node, not to each of its outgoing edges;
* only the pointwise outputs z are kept: normalisation and weighting are one pass per node, and the
  backward pass recomputes what lies between;
* the batch-norm gradient's sum(dy * z) is also the gradient of the mixing weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from search_spaces.darts.fast.cpu.backward import CellBackward
from search_spaces.darts.fast.cpu.calls import reached
from search_spaces.darts.fast.cpu.forward import CellForward, own_parameters
from search_spaces.darts.fast.terms import Term
from search_spaces.darts.search_network import SearchCell


def run_cell(cell: SearchCell, terms: Sequence[Sequence[Term]], before: Tensor, previous: Tensor,
             weights: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """terms per node; before, previous: cell inputs behind the preprocessing, [N,C,H,W];
    weights [edges, operations]; parameters of the live terms (`live_parameters`), possibly views.
    -> [N, nodes*C, h, w], channels last."""
    keep = torch.is_grad_enabled()
    return _Cell.apply(cell, terms, keep, weights, before, previous, *parameters)


def live_parameters(terms: Sequence[Sequence[Term]]) -> list[Tensor]:
    """In term order."""
    return [p for node in terms for term in node for p in own_parameters(term)]


class _Cell(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cell: SearchCell, terms: Sequence[Sequence[Term]], keep: bool,
                weights: Tensor, before: Tensor, previous: Tensor, *parameters: Tensor) -> Tensor:
        states = [v.permute(0, 2, 3, 1).contiguous() for v in (before, previous)]
        ctx.set_materialize_grads(False)
        run = CellForward(cell, terms, weights, states, keep)
        out = run.forward(parameters)
        if keep:
            ctx.run = run
            ctx.save_for_backward(*parameters)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * (3 + len(ctx.needs_input_grad[3:]))
        wanted = [needed and reached(ctx, i) for i, needed in enumerate(ctx.needs_input_grad[3:])]
        run: CellForward = ctx.run
        done = CellBackward(run, ctx.saved_tensors, gradient, wanted[0], (wanted[1], wanted[2]),
                            any(wanted[3:]))
        mixing = torch.tensor(done.mixing, **run.options) if wanted[0] else None
        states = [None if v is None else v.permute(0, 3, 1, 2) for v in done.inputs]
        return (None, None, None, mixing, *states, *done.found)
