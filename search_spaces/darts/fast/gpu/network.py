"""The search network for GPUs: the plain one's parameters and state, its edges run together."""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.darts.fast.gpu.cell import run_cell
from search_spaces.darts.fast.gpu.plan import CellPlan, plan_cell
from search_spaces.darts.fast.gpu.statistics import Statistics
from search_spaces.darts.fast.terms import Term, all_terms
from search_spaces.darts.search_network import SearchNetwork
from search_spaces.mixing import Mixing
from search_spaces.upload import upload

PLANS = 64  # live sets remembered


class BatchedSearchNetwork(SearchNetwork):
    """`SearchNetwork` with the same constructor, parameters, buffers and results, in far fewer and
    larger operations; any device and number type, autocast included.

    Only what is live is computed, and a new live set needs no compilation. Per-sample mixing and
    gradients in evaluation mode take the plain forward.
    """

    @functools.cached_property
    def _terms(self) -> list[dict[tuple[int, int], Term]]:
        return [all_terms(self.cell(i)) for i in range(self.cells)]

    @functools.cached_property
    def _norms(self) -> list[nn.BatchNorm2d]:
        return [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]

    @functools.cached_property
    def _recorded(self) -> list[Tensor]:
        return []

    @functools.cached_property
    def _plans(self) -> OrderedDict[bytes, tuple[list[CellPlan], Tensor]]:
        return OrderedDict()

    def forward(self, x: Tensor, mixing: Mixing | Tensor) -> Tensor:
        if isinstance(mixing, Tensor):
            mixing = Mixing(mixing)
        if not self._applies(mixing):
            return super().forward(x, mixing)
        plans, slots = self._plan(mixing)
        parts = iter(slots.split([sum(map(len, plan.slots)) for plan in plans]))
        rows = functional.pad(mixing.weights.flatten(1), (0, 1)).unbind()  # a zero for what is dead
        statistics = Statistics(self.training)
        stem = self.stem(x.contiguous(memory_format=torch.channels_last))
        before, previous = stem if isinstance(stem, tuple) else (stem, stem)
        for i, (row, plan) in enumerate(zip(self.rows, plans, strict=True)):
            cell = self.cell(i)
            before, previous = previous, run_cell(
                cell, plan, cell.pre0(before), cell.pre1(previous), rows[row], next(parts),
                statistics)
        statistics.apply()
        return self.classifier(previous.mean(dim=(2, 3)))

    def _applies(self, mixing: Mixing) -> bool:
        differentiated = not self.training and torch.is_grad_enabled()  # layer by layer, perhaps
        return (tuple(mixing.weights.shape) == self.mixing_shape and not differentiated
                and all(norm.training == self.training for norm in self._norms))

    def _plan(self, mixing: Mixing) -> tuple[list[CellPlan], Tensor]:
        """Per cell what to compute; and on the device, cell after cell, where in its row of mixing
        weights every part finds its own."""
        live = mixing.live_mask()
        key = live.numpy().tobytes() + str(mixing.weights.device).encode()
        known = self._plans.pop(key, None)
        if known is None:
            space, rows = self.space, live.tolist()
            plans = [plan_cell([[terms[e, o] for e in space.incoming(node) for o in space.real
                                 if rows[row][e][o]] for node in space.concat],
                               space.edges, len(space.operations))
                     for terms, row in zip(self._terms, self.rows, strict=True)]
            zero = len(space.edges) * len(space.operations)
            with torch.inference_mode(False):  # scored first, trained later
                slots = torch.tensor([zero if slot is None else slot for plan in plans
                                      for part in plan.slots for slot in part], dtype=torch.int64)
                known = plans, upload(slots, mixing.weights.device)
        self._plans[key] = known
        if known[1].is_cuda and torch.cuda.is_current_stream_capturing():
            self._recorded.append(known[1])  # a graph keeps its address
        while len(self._plans) > PLANS:
            self._plans.popitem(last=False)
        return known

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items()
                if k not in ("_terms", "_norms", "_plans", "_recorded")}
