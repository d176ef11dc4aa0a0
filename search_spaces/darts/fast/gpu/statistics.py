"""Batch normalisation of many edges at once, and their running statistics afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.darts.fast.terms import running

CHUNK = 1 << 16


class Statistics:
    """Collects the batch statistics of a forward pass; `apply` moves all running statistics in a
    few launches (each edge its own: edges live at different times have different histories)."""

    def __init__(self, training: bool):
        self.training = training
        self._left: Tensor | None = None
        self._found: dict[float | None, list[tuple[nn.BatchNorm2d, Tensor, Tensor]]] = {}

    def zeros(self, values: int, kind: torch.dtype, device: torch.device) -> Tensor:
        """[values], from a few large allocations."""
        if self._left is None or len(self._left) < values or self._left.dtype != kind:
            self._left = torch.zeros(max(values, CHUNK), dtype=kind, device=device)
        found, self._left = self._left[:values], self._left[values:]
        return found

    def add(self, norms: Sequence[nn.BatchNorm2d], mean: Tensor, variance: Tensor) -> None:
        """mean and unbiased variance [norms, C] (or [1, C] for all of them)."""
        rows = zip(mean.expand(len(norms), -1).unbind(), variance.expand(len(norms), -1).unbind(),
                   strict=True)
        for norm, (m, v) in zip(norms, rows, strict=True):
            self._found.setdefault(norm.momentum, []).append((norm, m, v))

    @torch.no_grad()
    def apply(self) -> None:
        for momentum, found in self._found.items():
            torch._foreach_add_([running(norm)[2] for norm, _, _ in found], 1)
            values = [value for _, m, v in found for value in (m, v)]
            buffers = [buffer for norm, _, _ in found for buffer in running(norm)[:2]]
            if momentum is None:  # a plain average over the batches so far
                shares = [running(norm)[2].to(m).reciprocal() for norm, m, _ in found]
                for buffer, value, share in zip(buffers, values, [s for s in shares for _ in "mv"],
                                                strict=True):
                    buffer.lerp_(value, share)
            elif momentum:
                torch._foreach_lerp_(buffers, values, momentum)


def normalise(z: Tensor, norms: Sequence[nn.BatchNorm2d], statistics: Statistics,
              weights: Tensor | None = None) -> Tensor:
    """z [N,h,w,E,C], normalised per (e, c); weights [E,C] multiply the result, as the scale that a
    batch normalisation has anyway. norms: E, or in training any number that share E = 1."""
    edges, channels = z.shape[-2:]
    flat = z.reshape(-1, edges * channels)
    scale = None if weights is None else weights.reshape(-1)
    eps = norms[0].eps
    assert all(norm.eps == eps for norm in norms)
    if statistics.training:
        kind = running(norms[0])[0].dtype
        mean, variance = statistics.zeros(2 * edges * channels, kind, z.device).chunk(2)
        out = functional.batch_norm(flat, mean, variance, scale, None, True, 1.0, eps)
        statistics.add(norms, mean.view(edges, channels), variance.view(edges, channels))
    else:
        mean, variance = (torch.cat([running(norm)[i] for norm in norms]) for i in range(2))
        out = functional.batch_norm(flat, mean, variance, scale, None, False, 0.0, eps)
    return out.view(z.shape)
