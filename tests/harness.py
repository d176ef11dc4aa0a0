"""A small search problem on random images, for testing strategies without the trainer around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from algorithms.strategy import Batch, Problem, Strategy
from nasbench.clock import Clock
from nasbench.precision import Precision
from nasbench.search.score import Scorer
from nasbench.search.weights import SupernetWeights
from search_spaces import CellSpace, Genotype, SearchNetwork

DARTS_OPERATIONS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3",
                    "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
SMALL_OPERATIONS = ("none", "skip_connect", "sep_conv_3x3")


def images(n: int, *, size: int = 8, classes: int = 4, seed: int = 0) -> Batch:
    """Random normal images whose class shifts their mean, so that there is something to learn."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    x = torch.randn(n, 3, size, size, generator=g) + y.view(-1, 1, 1, 1) - classes / 2
    return x, y


def make_problem(*, operations: Sequence[str] = SMALL_OPERATIONS, nodes: int = 2, channels: int = 4,
                 cells: int = 2, size: int = 8, classes: int = 4, share_cells: bool = True,
                 learning_rate: float = 0.025, seed: int = 0, dtype: torch.dtype = torch.float32
                 ) -> Problem:
    """A `Problem` on random 8x8 images: 24 for training, 24 for validation, batches of 8."""
    torch.manual_seed(seed)
    network = SearchNetwork(CellSpace(tuple(operations), nodes), channels, cells, classes,
                            image_size=size, share_cells=share_cells).to(dtype)
    clock, precision = Clock(), Precision(torch.device("cpu"), "float32", False)
    weights = SupernetWeights(network, learning_rate=learning_rate, momentum=0.9, weight_decay=3e-4,
                              grad_clip=5.0, precision=precision, clock=clock)

    def batches(split: str, n: int, batch_seed: int) -> list[Batch]:
        x, y = images(8 * n, size=size, classes=classes,
                      seed=batch_seed + {"search_train": 1, "search_valid": 2}[split])
        return [(x[8 * i:8 * i + 8].to(dtype), y[8 * i:8 * i + 8]) for i in range(n)]

    def measure(genotype: Genotype, names: Sequence[str]) -> dict[str, float]:
        sizes = {"params": len(genotype.normal.edges) + len(genotype.reduce.edges)}
        return {name: float(sizes[name]) for name in names}

    score = Scorer(network, lambda: batches("search_valid", 3, 0),
                   lambda: batches("search_train", 3, 0), batch_norm="running",
                   precision=precision, clock=clock)
    return Problem(network, weights, score, batches, measure,
                   torch.Generator().manual_seed(seed))


def run_steps(strategy: Strategy, problem: Problem, steps: int, *, start: int = 0
              ) -> list[dict[str, Tensor]]:
    """Steps `start` to `start + steps` over the problem's fixed batches, round robin."""
    train = problem.batches("search_train", 3, 0)
    valid = problem.batches("search_valid", 3, 0)
    return [strategy.search_step(train[i % 3], valid[i % 3]) for i in range(start, start + steps)]
