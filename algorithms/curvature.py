"""Exact diagonal curvature of every switch of a search network.

Logits are piecewise linear in a single switch (convolution, ReLU, pooling, batch norm in evaluation
mode), so the second derivative of the mean cross entropy is the Gauss-Newton value

    H_s = mean_n J_n^T (diag(p_n) - p_n p_n^T) J_n,    J = d logits / d s,

which is a sum of squares over classes c of d/ds of sqrt(p_c) (e_c - p)^T logits. With one mixing
coefficient per sample, one backward pass per class gives it for all switches at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from algorithms.strategy import Batch
from search_spaces import Mixing, SearchNetwork
from search_spaces.full_precision import full_float32


@dataclass(frozen=True)
class Curvature:
    """operation [rows, edges, operations], edge [rows, edges]: second derivatives of the mean loss,
    float64 on the CPU; `passes`: backward passes spent."""

    operation: Tensor
    edge: Tensor
    passes: int


def coefficients(operation: Tensor, edge: Tensor) -> Tensor:
    """Mixing weights of switches [rows, edges, operations] and [rows, edges]: their product."""
    return operation * edge.unsqueeze(-1)


def exact_curvature(network: SearchNetwork, operation: Tensor, edge: Tensor, live: Tensor,
                    batches: Sequence[Batch]) -> Curvature:
    """Over all samples of `batches`; switches as in `coefficients`, live as in `Mixing`."""
    operation, edge = operation.detach(), edge.detach()
    h_op = torch.zeros(operation.shape, dtype=torch.float64)
    h_edge = torch.zeros(edge.shape, dtype=torch.float64)
    passes = 0
    with linear_network(network):
        for x, _ in batches:
            m = coefficients(operation, edge).expand(len(x), *operation.shape).clone()
            logits = network(x, Mixing(m.requires_grad_(), live))
            p = logits.detach().softmax(dim=1)
            classes = p.shape[1]
            total_op, total_edge = torch.zeros_like(operation), torch.zeros_like(edge)
            for c in range(classes):
                direction = -p.clone()
                direction[:, c] += 1
                (j,) = torch.autograd.grad(logits, m, direction * p[:, c:c + 1].sqrt(),
                                           retain_graph=c + 1 < classes)
                total_op += (j * edge.unsqueeze(-1)).square().sum(dim=0)
                total_edge += (j * operation).sum(dim=-1).square().sum(dim=0)
            h_op += total_op.cpu()
            h_edge += total_edge.cpu()
            passes += classes
    samples = sum(len(x) for x, _ in batches)
    return Curvature(h_op / samples, h_edge / samples, passes)


@contextmanager
def linear_network(network: nn.Module) -> Iterator[None]:
    """Evaluation mode (batch norm is then a fixed linear map), full float32; put back after."""
    training = network.training
    device = next(network.parameters()).device.type
    try:
        network.eval()
        with full_float32(), torch.enable_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        network.train(training)
