"""Non-dominated sorting and selection; every objective is minimised.

* `ranks`: non-dominated sorting, all fronts (eq. 4 of CARS: at least as good everywhere, better
  somewhere).
* `protected_sortings` and `select_union`: pNSGA-III of CARS, two sortings whose equal fronts merge.
* `select_nsga2`, `select_nsga3`: the plain rules, for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from math import comb

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def ranks(points: Floats) -> Integers:
    """[n, objectives] -> index of each point's front; equal points share one."""
    points = np.asarray(points, dtype=np.float64)
    a, b = points[:, None, :], points[None, :, :]
    dominates: NDArray[np.bool_] = np.logical_and((a <= b).all(axis=2), (a < b).any(axis=2))
    rank = np.full(len(points), -1)
    front = 0
    while (rank < 0).any():
        left = rank < 0
        rank[left & ~dominates[left].any(axis=0)] = front
        front += 1
    return rank


def protected_sortings(error: Floats, speed: Floats, costs: Floats) -> list[Integers]:
    """Per cost two bi-objective sortings: (error, cost) as usual, and (speed of accuracy increase,
    cost) with speed *and cost maximised*, so that a slow but large model is on a front as well.

    error [n], speed [n], costs [n, number of costs].
    """
    sortings = []
    for cost in np.asarray(costs, dtype=np.float64).T:
        sortings.append(ranks(np.stack([error, cost], axis=1)))
        sortings.append(ranks(np.stack([-speed, -cost], axis=1)))
    return sortings


def stages(sortings: Sequence[Integers]) -> Integers:
    """Merge fronts of equal rank: each point's stage is its best rank in any of the sortings."""
    return np.stack(sortings).min(axis=0)


def select_union(sortings: Sequence[Integers], count: int, rng: torch.Generator) -> Integers:
    """Indices (ascending) of `count` points, stage by stage; of the stage that does not fit a
    uniform random subset."""
    stage = stages(sortings)
    chosen: list[int] = []
    for s in range(int(stage.max()) + 1):
        members = np.flatnonzero(stage == s).tolist()
        room = count - len(chosen)
        if len(members) > room:
            order = torch.randperm(len(members), generator=rng)[:room].tolist()
            members = [members[i] for i in order]
        chosen += members
    return np.array(sorted(chosen))


def crowding(points: Floats) -> Floats:
    """Crowding distance within a front (Deb et al. 2002): infinite at the ends of an objective."""
    n, m = points.shape
    distance = np.zeros(n)
    for j in range(m):
        order = np.argsort(points[:, j], kind="stable")
        values = points[order, j]
        span = values[-1] - values[0]
        distance[order[[0, -1]]] = np.inf
        if span > 0:
            distance[order[1:-1]] += (values[2:] - values[:-2]) / span
    return distance


def select_nsga2(points: Floats, count: int) -> Integers:
    """NSGA-II: whole fronts, of the last one the least crowded; indices ascending."""
    rank = ranks(points)
    distance = np.zeros(len(points))
    for front in range(int(rank.max()) + 1):
        members = np.flatnonzero(rank == front)
        distance[members] = crowding(points[members])
    return np.sort(np.lexsort((-distance, rank))[:count])


def select_nsga3(points: Floats, count: int, rng: torch.Generator) -> Integers:
    """NSGA-III of pymoo (Das-Dennis directions, at most `count` of them); indices ascending."""
    require_pymoo()
    from pymoo.algorithms.moo.nsga3 import ReferenceDirectionSurvival
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem
    from pymoo.util.ref_dirs import get_reference_directions

    points = np.asarray(points, dtype=np.float64)
    span = np.ptp(points, axis=0)
    # pymoo treats distances under 1e-3 as zero: stretch each objective to 0..100
    scaled = 100 * (points - points.min(axis=0)) / np.where(span > 0, span, 1)
    m = points.shape[1]
    partitions = max(p for p in range(1, count) if p == 1 or comb(p + m - 1, m - 1) <= count)
    directions = get_reference_directions("das-dennis", m, n_partitions=partitions)
    # a new survival every time: pymoo keeps the old ideal point, and supernet errors move
    survival = ReferenceDirectionSurvival(directions)
    seed = int(torch.randint(2**31, (), generator=rng))
    chosen = survival.do(Problem(n_var=1, n_obj=m), Population.new(F=scaled), n_survive=count,
                         random_state=np.random.default_rng(seed), return_indices=True)
    return np.sort(np.array(chosen))


def require_pymoo() -> None:
    """ValueError unless pymoo is installed."""
    if find_spec("pymoo") is None:
        raise ValueError("algorithm.selection: nsga3 needs pymoo (pip install pymoo), which is not "
                         "installed; pnsga3 and nsga2 do without")


def hypervolume(points: Floats, reference: Sequence[float]) -> float:
    """Share of the box from (0, 0) to `reference` that two-objective `points` dominate."""
    points = np.asarray(points, dtype=np.float64)
    x_end, y_end = reference
    points = points[(points[:, 0] < x_end) & (points[:, 1] < y_end)]
    area, height = 0.0, y_end
    for x, y in points[np.lexsort((points[:, 1], points[:, 0]))]:
        if y < height:
            area += (x_end - x) * (height - y)
            height = y
    return float(area / (x_end * y_end))


def kendall_tau(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float | None:
    """Kendall's tau-b (ties counted); None where one of the rankings is constant."""
    signs = [np.sign(np.subtract.outer(v, v)) for v in (np.asarray(a), np.asarray(b))]
    norm = np.sqrt((signs[0]**2).sum() * (signs[1]**2).sum())
    return float((signs[0] * signs[1]).sum() / norm) if norm else None


def spread(error: Floats, cost: Floats, count: int) -> list[int]:
    """`count` indices ascending in cost: of each of `count` equal bins of the cost range the lowest
    error, and for every empty bin the remaining point farthest in cost from those chosen."""
    span = np.ptp(cost)
    bins = np.minimum(((cost - cost.min()) / (span or 1) * count).astype(int), count - 1)
    chosen = [min(np.flatnonzero(bins == b), key=lambda i: (error[i], cost[i]))
              for b in np.unique(bins)]
    while len(chosen) < min(count, len(cost)):
        gap = np.abs(cost[:, None] - cost[chosen][None, :]).min(axis=1)
        gap[chosen] = -1
        chosen.append(np.lexsort((error, -gap))[0])
    return sorted((int(i) for i in chosen), key=lambda i: (cost[i], error[i]))
