"""The pointwise convolutions of many edges as one batched matrix product, without moving data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 4096  # summed at a time in a weight gradient: a few long sums would leave a GPU idle


def pointwise(u: Tensor, matrices: Tensor, rounded: Tensor) -> Tensor:
    """u [N,h,w,E,C], matrices [E,C,C] -> z [N,h,w,E,C], z[..., e, :] = M_e u[..., e, :]; `rounded`:
    the matrices in u's type."""
    return _Pointwise.apply(u, matrices, rounded)


def blocks_of(rows: int) -> int:
    """Into how many equal blocks of about ROWS rows a long sum is cut."""
    return next(b for b in range(max(1, rows // ROWS), 0, -1) if rows % b == 0)


def _edges_first(x: Tensor) -> Tensor:
    """[N,h,w,E,C] -> a view [E, N*h*w, C]."""
    return x.view(-1, *x.shape[-2:]).transpose(0, 1)


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, matrices: Tensor, rounded: Tensor) -> Tensor:
        z = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        torch.bmm(_edges_first(u), rounded.transpose(1, 2), out=_edges_first(z))
        ctx.save_for_backward(u, rounded)
        ctx.kind = matrices.dtype
        return z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        u, rounded = ctx.saved_tensors
        dz = dz.contiguous()
        du: Tensor | None = None
        found: Tensor | None = None
        if ctx.needs_input_grad[0]:
            du = torch.empty(dz.shape, dtype=u.dtype, device=u.device)
            torch.bmm(_edges_first(dz), rounded, out=_edges_first(du))
        if ctx.needs_input_grad[1]:
            found = _weight_gradients(dz, u, ctx.kind)
        return du, found, None


def _weight_gradients(dz: Tensor, u: Tensor, kind: torch.dtype) -> Tensor:
    """[E, out, in] = sum over rows of dz^T u: the diagonal blocks of one product over all edges. A
    GPU multiplies in tiles of 64 or more, so the other blocks cost little and launches are few."""
    *_, edges, channels = dz.shape
    a, b = (x.reshape(blocks_of(x[..., 0, 0].numel()), -1, edges * channels) for x in (dz, u))
    parts = torch.bmm(a.transpose(1, 2), b).view(len(a), edges, channels, edges, channels)
    return parts.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).sum(dim=0, dtype=kind)
