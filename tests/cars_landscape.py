"""A synthetic world with the small-model trap: large operations end better but mature slowly.

Two cells of four nodes, seven operations. Every (cell, edge, operation) slot has an exposure
counter; accuracy = 74 + sum(gain * quality * (1 - exp(-exposure / time constant))) + noise. It
tests selection rules and says nothing about any data set.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from algorithms.evolution import Encoding, Individual, Operators
from search_spaces import CellSpace

OPERATIONS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5",
              "dil_conv_3x3", "dil_conv_5x5")
SIZE = np.array([0, 0, 0.02, 1.00, 1.25, 0.52, 0.64])
CELL_WEIGHT = np.array([1, 0.45])  # normal, reduction
TIME_CONSTANT = np.array([0, 0, 0, 22, 34, 16, 24])  # epochs of own exposure
GAIN = np.array([0.25, 0.25, 0.45, 1.15, 1.25, 0.85, 0.95])  # accuracy points
STEPS = 196  # per epoch
NOISE = 0.25
SPACE = CellSpace(OPERATIONS)
ENCODING = Encoding(SPACE)
PAPER = Operators(mutation=0.25, crossover=0.25, node_probability=0.5, shared_coin=True)

# (error, speed, size, count, rng) -> indices of the survivors
Select = Callable[[np.ndarray, np.ndarray, np.ndarray, int, torch.Generator], np.ndarray]


def slots(individuals: list[Individual]) -> np.ndarray:
    """[individuals, 16] indices into the flat (cell, edge, operation) table."""
    edges, operations = len(SPACE.edges), len(SPACE.operations)
    half = ENCODING.nodes // 2
    return np.array([[((i >= half) * edges + e) * operations + o
                      for i, node in enumerate(one) for e, o in node] for one in individuals])


def sizes(individuals: list[Individual]) -> np.ndarray:
    """Relative size of each individual, 0 to 14.5."""
    table = (CELL_WEIGHT[:, None, None] * np.ones((1, len(SPACE.edges), 1)) * SIZE).ravel()
    return table[slots(individuals)].sum(axis=1)


class World:
    """Exposures and accuracies under one seed. `mature`: everything is fully trained at once."""

    def __init__(self, seed: int, mature: bool = False):
        self.numpy = np.random.default_rng(seed)
        shape = (2, len(SPACE.edges), len(OPERATIONS))
        quality = np.maximum(self.numpy.normal(1, 0.25, shape), 0.3)
        self.gain = (GAIN * quality).ravel()
        self.time = np.broadcast_to(0 * TIME_CONSTANT if mature else TIME_CONSTANT, shape).ravel()
        self.exposure = np.zeros(self.gain.size)

    def train(self, population: list[Individual], epochs: int) -> None:
        drawn = self.numpy.integers(len(population), size=STEPS * epochs)
        counts = np.bincount(drawn, minlength=len(population))
        np.add.at(self.exposure, slots(population), counts[:, None] / STEPS)

    def warm_up(self, epochs: int) -> None:
        """Every step a fresh uniform individual: two edges of each node, any operations."""
        for i in range(ENCODING.nodes):
            edges = SPACE.incoming(2 + i % SPACE.nodes)
            pairs = self.numpy.random((STEPS * epochs, len(edges))).argsort(axis=1)[:, :2]
            draws = self.numpy.integers(len(OPERATIONS), size=pairs.shape)
            row = len(SPACE.edges) * (i // SPACE.nodes) + edges[0]
            np.add.at(self.exposure, (row + pairs) * len(OPERATIONS) + draws, 1 / STEPS)

    def accuracies(self, individuals: list[Individual], exposure: np.ndarray) -> np.ndarray:
        maturity = 1 - np.exp(-exposure / np.where(self.time > 0, self.time, 1))
        value = self.gain * np.where(self.time > 0, maturity, 1)
        clean = 74 + value[slots(individuals)].sum(axis=1)
        return clean + self.numpy.normal(0, NOISE, len(clean))


def evolve(select: Select, seed: int, *, population: int, generations: int, warm_up: int = 50,
           epochs: int = 10, mature: bool = False
           ) -> tuple[World, list[Individual], list[np.ndarray]]:
    """The search loop of CARS in this world: (world, last population, sizes of each one)."""
    world, rng = World(seed, mature), torch.Generator().manual_seed(seed)
    parents = [ENCODING.random(rng) for _ in range(population)]
    world.warm_up(warm_up)
    before, known, history = world.exposure.copy(), None, []
    for _ in range(generations):
        world.train(parents, epochs)
        children, _ = PAPER.offspring(parents, ENCODING, rng)
        everyone = parents + children
        accuracy = world.accuracies(everyone, world.exposure)
        previous = world.accuracies(everyone, before) if known is None else np.concatenate(
            [known, world.accuracies(children, before)])
        kept = select(100 - accuracy, accuracy - previous, sizes(everyone), population, rng)
        assert len(set(kept.tolist())) == population
        parents, known = [everyone[i] for i in kept], accuracy[kept]
        before = world.exposure.copy()
        history.append(sizes(parents))
    return world, parents, history
