"""How many operations a search step dispatches, plain and batched: what a GPU's launches follow.

    python -m benchmarks.launches [--json]

Counted below autograd on a CPU, views and allocations left out, at the papers' depth (the count
does not depend on sizes): one forward pass, one backward pass of a weight step and one of a mixing
gradient, which wants nothing of the weights. A first-order `step` is both passes. The depthwise
stage of the batched network counts as on a GPU: one kernel forward, three kernels backward.
"""

from __future__ import annotations

import argparse
import json
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.forms import LIVE, live_mask
from search_spaces import CellSpace, Mixing, SearchNetwork
from search_spaces.darts.fast import BatchedSearchNetwork
from search_spaces.operations import DARTS_OPERATIONS

NO_LAUNCH = {"view", "_unsafe_view", "t", "transpose", "permute", "expand", "select", "slice",
             "split", "split_with_sizes", "chunk", "unbind", "unsqueeze", "squeeze", "diagonal",
             "as_strided", "unfold", "alias", "detach", "empty", "empty_like", "lift_fresh"}


class Count(TorchDispatchMode):
    """Within, counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func.overloadpacket.__name__ not in NO_LAUNCH
        return func(*args, **(kwargs or {}))


class LikeOnGPU(torch.autograd.Function):
    """Shapes and number of launches of the depthwise kernels, not their values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int, *weights: Tensor) -> Tensor:
        ctx.shapes = x.shape, [w.shape for w in weights]
        n, height, width = x.shape[:3]
        return x.new_ones((n, -(-height // stride), -(-width // stride), len(weights),
                           x.shape[-1]))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weights = ctx.shapes
        partial = gradient.new_ones(2, sum(w.numel() for w in weights))
        found = partial.sum(0).split([w.numel() for w in weights])
        return (gradient.new_ones(x), None,
                *(f.view(w) for f, w in zip(found, weights, strict=True)))


def like_on_gpu(x: Tensor, weights: Any, dilations: Any, stride: int = 1, *, shared: bool,
                packed: Tensor) -> Tensor:
    return LikeOnGPU.apply(x, stride, *weights)


def count(kind: type[SearchNetwork], live: str) -> dict[str, int]:
    space = CellSpace(DARTS_OPERATIONS)
    network = kind(space, 4, 8, 10, image_size=16)
    weights = torch.rand(network.mixing_shape).requires_grad_()
    mixing, x = Mixing(weights, live_mask(space, live)), torch.randn(2, 3, 16, 16)
    with mock.patch("search_spaces.darts.fast.gpu.cell.depthwise_relu", like_on_gpu):
        network(x, mixing)  # the plan is made once
        found = {}
        for name in ("backward", "mixing_backward"):
            with Count() as forward:
                loss = network(x, mixing).sum()
            with Count() as backward:
                loss.backward()
            found |= {"forward": forward.calls, name: backward.calls}
            network.requires_grad_(False)
    return found | {"step": 2 * found["forward"] + found["backward"] + found["mixing_backward"]}


def main() -> None:
    p = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    p.add_argument("--json", action="store_true", help="print one JSON object")
    a = p.parse_args()
    cases = []
    for live in LIVE:
        plain, batched = (count(kind, live) for kind in (SearchNetwork, BatchedSearchNetwork))
        cases.append({"live": live, "plain": plain, "batched": batched,
                      "ratio": plain["step"] / batched["step"]})
    result = {"benchmark": "launches", "torch": torch.__version__, "cases": cases,
              "ratio": min(c["ratio"] for c in cases)}
    if a.json:
        print(json.dumps(result, indent=1))
        return
    for c in cases:
        print(f"{c['live']:>9}: plain {c['plain']}, batched {c['batched']}, ratio {c['ratio']:.1f}")


if __name__ == "__main__":
    main()
