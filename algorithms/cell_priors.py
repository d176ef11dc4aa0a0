"""Hierarchical priors (HARD) on the graph of a cell, and pruning that keeps it connected.

For the operation o on edge j -> k

    1 / g_eff = 1 / g_op + 1 / g_edge + 1 / G_j,    G_j = sum of g_eff over all edges into node j,

with G_j infinite for the two cell inputs. A node whose inputs vanish takes its outgoing edges
along.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.bayes_priors import FLOOR, survives
from search_spaces import CellSpace


@dataclass(frozen=True)
class Effective:
    """operation [edges, operations], edge [edges]: variances with parent terms; 0 where dead."""

    operation: Tensor
    edge: Tensor


def effective(operation: Tensor, edge: Tensor, live: Tensor, space: CellSpace,
              own_edge_only: bool) -> Effective:
    """Combine a cell type's own variances [edges, operations] and [edges] with their parents'.

    live: bool [edges, operations]; own_edge_only leaves 1 / G_j out (the authors' released code).
    """
    g_op, g_edge = torch.zeros_like(operation), torch.zeros_like(edge)
    precision_into = {0: torch.zeros(()).to(edge), 1: torch.zeros(()).to(edge)}  # 1 / G_j
    for node in space.concat:
        incoming = space.incoming(node)
        for e in incoming:
            above = precision_into[0 if own_edge_only else space.edges[e][0]]
            g_edge[e] = live[e].any() / (1 / edge[e] + above)
            g_op[e] = live[e] / (1 / operation[e] + 1 / edge[e] + above)
        precision_into[node] = 1 / g_op[incoming].sum().clamp_min(FLOOR)
    return Effective(g_op, g_edge)


def connected(live: Tensor, space: CellSpace) -> Tensor:
    """`live` without the edges that leave a node nothing flows into. One pass in topological order
    is the fixpoint; every intermediate node feeds the cell output, so none is dead downstream."""
    live, fed = live.clone(), {0, 1}
    for node in space.concat:
        for e in space.incoming(node):
            if space.edges[e][0] not in fed:
                live[e] = False
        if live[space.incoming(node)].any():
            fed.add(node)
    return live


def prune(operation: Tensor, edge: Tensor, live: Tensor, space: CellSpace, own_edge_only: bool
          ) -> tuple[Tensor, Effective]:
    """Remove what has no positive entropy until nothing changes: a removal lowers G_j of the nodes
    behind it. Returns the new live set and its effective variances."""
    while True:
        g = effective(operation, edge, live, space, own_edge_only)
        left = connected(live & survives(g.operation), space)
        if torch.equal(left, live):
            return live, g
        live = left
