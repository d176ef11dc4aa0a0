"""Mixing coefficients: what the search network needs to know of an architecture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """Coefficients of every operation on every edge.

    weights: [rows, edges, operations], or [N, rows, edges, operations] per sample of the batch; a
    row is a cell type (normal, reduce) or, with unshared cells, one cell.
    live: bool [rows, edges, operations] on the CPU; operations outside it are not computed,
    whatever their weight. None means all are live.
    """

    weights: Tensor
    live: Tensor | None = None

    def detach(self) -> Mixing:
        return Mixing(self.weights.detach(), self.live)

    def live_mask(self) -> Tensor:
        """bool [rows, edges, operations] on the CPU."""
        if self.live is not None:
            return self.live
        return torch.ones(self.weights.shape[-3:], dtype=torch.bool)

    @staticmethod
    def sparse(code: Tensor) -> Mixing:
        """From a 0/1 code on the CPU: live exactly where it is not zero."""
        return Mixing(code, (code != 0).cpu())
