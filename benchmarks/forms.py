"""The search step that is timed: three forms of one network, with the same weights and batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nasbench.clock import Clock
from nasbench.precision import Precision
from nasbench.search.weights import SupernetWeights
from search_spaces import CellSpace, Mixing, SearchNetwork
from search_spaces.darts.fast import choose

LIVE = {"dense": ["darts", "darts_plus", "asap", "bayesnas"],  # all operations: the latter at first
        "half": ["asap", "bayesnas"],  # a random half: midway
        "genotype": ["cars", "random"]}  # two edges per node, one operation each
FORMS = ("plain_nchw", "plain_channels_last", "fast")
ENDS = ("plain_nchw", "fast")


def live_mask(space: CellSpace, kind: str, seed: int = 0) -> Tensor:
    """bool [2, edges, operations]."""
    g = torch.Generator().manual_seed(seed)
    shape = (2, len(space.edges), len(space.operations))
    if kind == "dense":
        return torch.ones(shape, dtype=torch.bool)
    if kind == "half":
        return torch.rand(shape, generator=g) < 0.5
    mask = torch.zeros(shape, dtype=torch.bool)
    for row in mask:
        for node in space.concat:
            edges = space.incoming(node)
            for e in torch.randperm(len(edges), generator=g)[:2].tolist():
                pick = int(torch.randint(len(space.real), (), generator=g))
                row[edges[e], space.real[pick]] = True
    return mask


def networks(space: CellSpace, channels: int, cells: int, size: int, device: torch.device,
             forms: Sequence[str] = FORMS) -> dict[str, SearchNetwork]:
    """The forms with the same weights."""
    torch.manual_seed(0)
    out: dict[str, SearchNetwork] = {}
    for form in forms:
        kind = choose("fast", device) if form == "fast" else SearchNetwork
        network = kind(space, channels, cells, 10, image_size=size).to(device)
        if out:
            network.load_state_dict(out["plain_nchw"].state_dict())
        if form == "plain_channels_last":
            network.to(memory_format=torch.channels_last)
        out[form] = network
    return out


def precision_of(fast: bool, device: torch.device, precision: str) -> Precision:
    """As asked for the fast form, else float32. ValueError where the fast network would take the
    plain forward."""
    if fast and device.type == "cpu" and precision != "float32":
        raise ValueError("--precision: the fast search network computes in float32 on a CPU, got "
                         f"{precision}")
    return Precision.choose(device, precision if fast else "float32", None)


def make_step(network: SearchNetwork, form: str, batch: int, size: int, live: Tensor,
              precision: str = "float32", cuda_graphs: bool = False) -> Callable[[], None]:
    """The step as a function without arguments; precision and graphs are the fast form's."""
    device = network.classifier.weight.device
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, batch, 3, size, size, generator=g).to(device)
    y = torch.randint(10, (2, batch), generator=g).to(device)
    alpha = 1e-3 * torch.randn(network.mixing_shape, generator=g)
    weights = network.place(alpha.masked_fill(~live, -torch.inf).softmax(-1).nan_to_num(0.0))
    images = [b.contiguous(memory_format=torch.channels_last) if form == "plain_channels_last"
              else b for b in x]
    fast = form == "fast"
    chosen = precision_of(fast, device, precision)
    trainer = SupernetWeights(
        network, learning_rate=1e-3, momentum=0.9, weight_decay=3e-4, grad_clip=5.0, clock=Clock(),
        precision=chosen, cuda_graphs=fast and cuda_graphs)

    def step() -> None:
        chosen.apply()  # TF32 with bfloat16 only, so plain is float32 indeed
        trainer.gradients((images[0], y[0]), Mixing(weights, live))
        trainer.step((images[1], y[1]), Mixing(weights, live))

    return step
