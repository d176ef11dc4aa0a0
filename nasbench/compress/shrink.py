"""From a masked network to a physically smaller one that computes the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nasbench.compress.networks import Block, Chain, Prunable, ResNet18


@torch.no_grad()
def clean(network: Prunable) -> None:
    """Make dead units exactly dead, in place: a unit without incoming or without outgoing weights
    loses the other side too, until nothing changes; batch norm behind an empty layer is zeroed.

    A unit without incoming weights could still send its bias on as a constant; that goes.
    """
    modules: dict[str, Any] = dict(network.named_modules())
    changed = True
    while changed:
        changed = False
        for junction in network.junctions():
            producer, consumer = (modules[name.removesuffix(".weight")]
                                  for name in (junction.producer, junction.consumer))
            dead = ~_alive(producer, consumer, junction.spread)
            for tensor in (producer.weight, _columns(consumer.weight, junction.spread)):
                changed |= bool(tensor[dead].any())
                tensor[dead] = 0
    for layer, norm in network.norms().items():
        if not bool(modules[layer].weight.any()):
            modules[norm].weight.zero_()
            modules[norm].bias.zero_()


def _columns(weight: Tensor, spread: int) -> Tensor:
    """A view [units, ...] of what leaves each unit."""
    out = weight.shape[0]
    return weight.view(out, -1, spread, *weight.shape[2:]).transpose(0, 1)


def _alive(producer: Any, consumer: Any, spread: int) -> Tensor:
    rows = producer.weight.flatten(1).any(dim=1)
    return rows & _columns(consumer.weight, spread).flatten(1).any(dim=1)


@torch.no_grad()
def shrink(network: Prunable) -> Prunable:
    """A new network without the dead units of a cleaned one; equal outputs in evaluation mode."""
    small = _shrink_chain(network) if isinstance(network, Chain) else _shrink_resnet(network)
    return small.to(next(network.parameters()).device).train(network.training)


def _some(alive: Tensor) -> Tensor:
    """Indices of what lives; one stays where nothing does, as a layer cannot be empty."""
    return alive.nonzero().flatten() if bool(alive.any()) else torch.zeros(1, dtype=torch.long,
                                                                           device=alive.device)


def _shrink_chain(network: Chain) -> Chain:
    modules: dict[str, Any] = dict(network.named_modules())
    junctions = network.junctions()
    names = network.layers()
    units = [_some(_alive(modules[a], modules[b], j.spread))
             for a, b, j in zip(names, names[1:], junctions, strict=False)]
    rows = [*units, torch.arange(network.classes, device=modules[names[-1]].weight.device)]
    depth, inputs, columns = len(network.convolutions), {}, []
    for i, name in enumerate(names):
        weight = modules[name].weight
        if i < depth:
            columns.append(units[i - 1] if i else torch.arange(weight.shape[1],
                                                               device=weight.device))
            continue
        before = units[i - 1] if i else None
        if i == depth:  # flattened maps or pixels: single inputs can be dead
            used = _some(weight.any(dim=0))
            if before is not None and depth:
                spread = torch.arange(network.spread, device=weight.device)
                candidates = (before.view(-1, 1) * network.spread + spread).flatten()
            else:
                candidates = torch.arange(weight.shape[1], device=weight.device)
            kept = torch.isin(candidates, used).nonzero().flatten()
            kept = kept if len(kept) else kept.new_zeros(1)
            if len(kept) < len(candidates):
                inputs["fc1"] = kept
            columns.append(candidates[kept])
        else:
            assert before is not None
            columns.append(before)
    small = Chain([len(r) for r in rows[:depth]], [len(r) for r in rows[depth:-1]],
                  network.classes, image_size=network.image_size, channels=network.channels,
                  inputs=inputs)
    target: dict[str, Any] = dict(small.named_modules())
    for name, out, into in zip(names, rows, columns, strict=True):
        out, into = out.to(modules[name].weight.device), into.to(modules[name].weight.device)
        target[name].weight.copy_(modules[name].weight[out][:, into])
        target[name].bias.copy_(modules[name].bias[out])
    return small


def _shrink_resnet(network: ResNet18) -> ResNet18:
    kept = []
    for block in network.blocks:
        assert isinstance(block, Block)
        alive = _alive(block.conv1, block.conv2, 1) if block.inner else torch.zeros(0).bool()
        kept.append(alive.nonzero().flatten())
    small = ResNet18(network.widths, network.classes, channels=network.channels,
                     inner=[len(k) for k in kept])
    state, target = network.state_dict(), small.state_dict()
    for name in target:
        value, part = state[name], name.split(".")
        if part[0] == "blocks" and part[2] in ("conv1", "bn1") and value.dim():
            value = value[kept[int(part[1])]]
        elif part[0] == "blocks" and part[2] == "conv2":
            value = value[:, kept[int(part[1])]]
        target[name] = value
    small.load_state_dict(target)
    return small
