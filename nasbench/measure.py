"""Sizes of networks: parameters, multiply-adds (convolution + linear, batch 1), latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from search_spaces import Genotype


def count_params(network: nn.Module, *, auxiliary: bool = False) -> int:
    """Parameters, without the auxiliary head unless asked for."""
    return sum(p.numel() for name, p in network.named_parameters()
               if auxiliary or not name.startswith("auxiliary_head."))


def count_mult_adds(network: nn.Module, in_channels: int, image_size: int) -> int:
    """Multiply-adds of all convolutions and linear layers for one image, no auxiliary head.

    Counted on the `meta` device from shapes alone: nothing is computed, weights are not read.
    """
    total = 0

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        # One output value costs one filter (or one row) of multiply-adds.
        weight = module.get_parameter("weight")
        total += weight.numel() // weight.shape[0] * output.numel()

    handles = [m.register_forward_hook(hook) for m in network.modules()
               if isinstance(m, nn.Conv2d | nn.Linear)]
    training = network.training
    try:
        network.eval()
        with torch.no_grad():
            network(torch.empty(1, in_channels, image_size, image_size,
                                device=next(network.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
        network.train(training)
    return total


def sizes(network: nn.Module, in_channels: int, image_size: int) -> dict[str, int]:
    """params and mult_adds of a network, without its auxiliary head."""
    return {"params": count_params(network),
            "mult_adds": count_mult_adds(network, in_channels, image_size)}


def latency_ms(network: nn.Module, in_channels: int, image_size: int, device: torch.device, *,
               warm_up: int = 3, repeats: int = 9) -> float:
    """Median milliseconds of one image's forward pass in evaluation mode, after warming up."""
    network = network.to(device).eval()
    x = torch.zeros(1, in_channels, image_size, image_size, device=device)
    times = []
    with torch.inference_mode():
        for i in range(warm_up + repeats):
            start = time.perf_counter()
            network(x)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i >= warm_up:
                times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


class FinalMeasures:
    """`measure(genotype, names) -> costs` of the network at retraining scale, cached per cell.

    build(genotype) makes the network; names are `params`, `mult_adds`, `latency_ms`.
    """

    COSTS = ("params", "mult_adds", "latency_ms")

    def __init__(self, build: Callable[[Genotype], nn.Module], in_channels: int, image_size: int,
                 device: torch.device):
        self._build, self._image, self._device = build, (in_channels, image_size), device
        self._cache: dict[Genotype, dict[str, float]] = {}

    def __call__(self, genotype: Genotype, names: Sequence[str]) -> dict[str, float]:
        known = self._cache.setdefault(genotype, {})
        for name in names:
            if name not in self.COSTS:
                raise ValueError(f"unknown cost {name!r}; known: {', '.join(self.COSTS)}")
            if name not in known:
                known.update(self._measure(genotype, name))
        return {name: known[name] for name in names}

    def _measure(self, genotype: Genotype, name: str) -> dict[str, float]:
        if name == "latency_ms":
            # Building draws initial weights; a measurement must not move the run's generators.
            with torch.random.fork_rng(devices=[]):
                network = self._build(genotype)
            return {name: latency_ms(network, *self._image, self._device)}
        with torch.device("meta"):
            network = self._build(genotype)
        if name == "params":
            return {name: count_params(network)}
        return {name: count_mult_adds(network, *self._image)}
