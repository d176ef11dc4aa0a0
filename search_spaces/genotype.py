"""Genotypes: a pair of cell graphs, frozen and validated.

A cell is an ordered tuple of (operation, from, to) edges, duplicates kept, and the nodes that are
concatenated into its output. Nodes 0 and 1 are the outputs of the two previous cells; 2, 3, ... are
intermediate nodes, each the sum of its incoming edges. The DARTS form (two inputs per node, one
operation each) is a special case; a node without inputs is all zeros and may feed other nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.operations import get_operation

Edge = tuple[str, int, int]

MAX_NODE = 63
MAX_EDGES = 4096


@dataclass(frozen=True)
class Cell:
    """One cell graph. Raises ValueError for an unknown operation, a forward or out-of-range input,
    a concatenated node without inputs, or no path from an input to the output."""

    edges: tuple[Edge, ...]
    concat: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.edges) > MAX_EDGES:
            raise ValueError(f"a cell holds at most {MAX_EDGES} edges, got {len(self.edges)}")
        for op, source, target in self.edges:
            get_operation(op)
            if not 2 <= target <= MAX_NODE:
                raise ValueError(f"edge ({op}, {source} -> {target}): the target must be an "
                                 f"intermediate node, 2 to {MAX_NODE}")
            if not 0 <= source < target:
                raise ValueError(f"edge ({op}, {source} -> {target}): the input must be an earlier "
                                 f"node, 0 to {target - 1}")
        if not self.concat:
            raise ValueError("concat is empty: name at least one intermediate node")
        if len(set(self.concat)) != len(self.concat):
            raise ValueError(f"concat {list(self.concat)} repeats a node")
        targets = {target for _, _, target in self.edges}
        for node in self.concat:
            if node not in targets:
                raise ValueError(f"concat names node {node}, which has no inputs")
        if not self._reached() & set(self.concat):
            raise ValueError("no path leads from a cell input to the output")

    def _reached(self) -> set[int]:
        reached = {0, 1}
        for target in sorted({target for _, _, target in self.edges}):
            if any(t == target and s in reached and not get_operation(op).zero
                   for op, s, t in self.edges):
                reached.add(target)
        return reached

    @property
    def last_node(self) -> int:
        """The highest node index of the graph."""
        return max([*self.concat, *(t for _, _, t in self.edges)])

    def skip_connects(self) -> int:
        """How many edges are skip connections (the number DARTS+ watches)."""
        return sum(get_operation(op).identity for op, _, _ in self.edges)

    def to_dict(self) -> dict[str, Any]:
        return {"edges": [list(edge) for edge in self.edges], "concat": list(self.concat)}


@dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell."""

    normal: Cell
    reduce: Cell

    def to_dict(self) -> dict[str, Any]:
        """Plain Python, ready for JSON; `from_dict` is the inverse."""
        return {"normal": self.normal.to_dict(), "reduce": self.reduce.to_dict()}

    @classmethod
    def from_dict(cls, data: Any) -> Genotype:
        """Read any of the published JSON forms (see `_cell`). Raises ValueError."""
        if not isinstance(data, dict):
            raise ValueError(f"a genotype is a JSON object, got {type(data).__name__}")
        return cls(_cell(data, "normal"), _cell(data, "reduce"))

    @classmethod
    def from_pairs(cls, normal: Sequence, reduce: Sequence, concat: Sequence[int] = (2, 3, 4, 5)
                   ) -> Genotype:
        """From DARTS pairs (operation, input), two per node in node order."""
        return cls(Cell(_from_pairs(normal, "normal"), tuple(concat)),
                   Cell(_from_pairs(reduce, "reduce"), tuple(concat)))

    def to_pairs(self) -> dict[str, Any]:
        """The DARTS form {normal, normal_concat, reduce, reduce_concat}; ValueError if a node has
        other than two inputs."""
        out: dict[str, Any] = {}
        for kind in ("normal", "reduce"):
            cell: Cell = getattr(self, kind)
            ordered = sorted(cell.edges, key=lambda edge: edge[2])
            targets = [t for _, _, t in ordered]
            if targets != [n for n in range(2, cell.last_node + 1) for _ in (0, 1)]:
                raise ValueError(f"{kind} cell is not in the two-inputs-per-node form")
            out[kind] = [[op, source] for op, source, _ in ordered]
            out[f"{kind}_concat"] = list(cell.concat)
        return out


def _cell(data: dict[str, Any], kind: str) -> Cell:
    """Read one cell: project form, DARTS pairs, per-node lists, or from-to edges."""
    body, edges = data.get(kind), data.get(f"{kind}_edges")
    try:
        if edges is not None:
            parsed = tuple(_edge(e) for e in _sequence(edges, f"{kind}_edges"))
            concat = data.get(f"{kind}_concat", sorted({t for _, _, t in parsed}))
            count = data.get(f"{kind}_nodes_concatenated", len(concat))
            if count != len(concat):
                raise ValueError(f"{count} nodes concatenated, but {len(concat)} nodes have inputs")
        elif isinstance(body, dict):
            parsed = tuple(_edge(e) for e in _sequence(body.get("edges"), "edges"))
            concat = body.get("concat")
        elif body is not None:
            items = _sequence(body, kind)
            per_node = bool(items) and isinstance(items[0], list | tuple) and (
                not items[0] or not isinstance(items[0][0], str))
            parsed = _from_nodes(items) if per_node else _from_pairs(items, kind)
            concat = data.get(f"{kind}_concat", data.get("concat"))
        else:
            raise ValueError(f"missing; expected '{kind}' or '{kind}_edges'")
        nodes = _sequence(concat, "concat")
        return Cell(parsed, tuple(_integer(node, "concat") for node in nodes))
    except ValueError as error:
        raise ValueError(f"genotype: {kind} cell: {error}") from None


def _from_pairs(pairs: Iterable, kind: str) -> tuple[Edge, ...]:
    pairs = [_pair(p) for p in pairs]
    if len(pairs) % 2:
        raise ValueError(f"{kind} has {len(pairs)} (operation, input) pairs; two per node needed")
    return tuple((op, source, 2 + i // 2) for i, (op, source) in enumerate(pairs))


def _from_nodes(nodes: Iterable) -> tuple[Edge, ...]:
    return tuple((*_pair(pair), 2 + i) for i, node in enumerate(nodes)
                 for pair in _sequence(node, f"node {2 + i}"))


def _pair(item: Any) -> tuple[str, int]:
    if not (isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str)):
        raise ValueError(f"expected (operation, input), got {_short(item)}")
    return item[0], _integer(item[1], "input")


def _edge(item: Any) -> Edge:
    if not (isinstance(item, list | tuple) and len(item) == 3 and isinstance(item[0], str)):
        raise ValueError(f"expected (operation, from, to), got {_short(item)}")
    return item[0], _integer(item[1], "from"), _integer(item[2], "to")


def _integer(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{what} must be an integer, got {_short(value)}")
    return value


def _sequence(value: Any, what: str) -> list | tuple:
    if not isinstance(value, list | tuple | range):
        raise ValueError(f"{what} must be a list, got {_short(value)}")
    return tuple(value) if isinstance(value, range) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
