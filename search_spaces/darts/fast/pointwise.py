"""The pointwise convolutions of many edges as one batched matrix product, without moving data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ROWS = 4096  # summed at a time in a weight gradient: a few long sums would leave a GPU idle


def pointwise(u: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """u [N,h,w,E,C], weights E times [C,C,1,1] -> z [N,h,w,E,C], z[..., e, :] = W_e u[..., e, :],
    in u's type."""
    return _Pointwise.apply(u, *weights)


def blocks_of(rows: int) -> int:
    """Into how many equal blocks of about ROWS rows a long sum is cut."""
    return next(b for b in range(max(1, rows // ROWS), 0, -1) if rows % b == 0)


def _edges_first(x: Tensor) -> Tensor:
    """[N,h,w,E,C] -> a view [E, N*h*w, C]."""
    return x.view(-1, *x.shape[-2:]).transpose(0, 1)


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, *weights: Tensor) -> Tensor:
        matrices = torch.stack([w.flatten(1) for w in weights]).to(u.dtype)  # [E, out, in]
        z = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        torch.bmm(_edges_first(u), matrices.transpose(1, 2), out=_edges_first(z))
        ctx.save_for_backward(u, matrices)
        ctx.kind = weights[0].dtype
        return z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        u, matrices = ctx.saved_tensors
        dz = dz.contiguous()
        du: Tensor | None = None
        found: Sequence[Tensor | None] = [None] * len(matrices)
        if ctx.needs_input_grad[0]:
            du = torch.empty(dz.shape, dtype=u.dtype, device=u.device)
            torch.bmm(_edges_first(dz), matrices, out=_edges_first(du))
        if any(ctx.needs_input_grad[1:]):
            found = _weight_gradients(dz, u).to(ctx.kind)[..., None, None].unbind()
        return du, *found


def _weight_gradients(dz: Tensor, u: Tensor) -> Tensor:
    """[E, out, in] = sum over rows of dz^T u, in blocks of rows."""
    rows = dz[..., 0, 0].numel()
    blocks = blocks_of(rows)
    a, b = (x.view(blocks, rows // blocks, *x.shape[-2:]) for x in (dz, u))
    parts = [torch.bmm(a[:, :, e].transpose(1, 2), b[:, :, e]) for e in range(dz.shape[-2])]
    return torch.stack(parts).sum(dim=1, dtype=torch.promote_types(dz.dtype, torch.float32))
