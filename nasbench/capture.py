"""Training steps as CUDA graphs: recorded once, replayed without a launch per kernel."""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("nasbench")
Function = Callable[..., Sequence[Tensor]]

WARM_UP = 3  # ordinary calls before a recording: they are steps like all others
WAITS = "called a synchronizing CUDA operation"  # torch's words
KEPT = 16  # kinds of step remembered; the least recently used goes first


@dataclass
class _Step:
    calls: int = 0
    graph: Any = None
    inputs: Sequence[Tensor] = ()
    outputs: Sequence[Tensor] = ()


class Capture:
    """`capture(key, function, inputs)` is `function(*inputs)`, on a GPU from the fourth call with
    the same key on as a graph replay.

    The key must hold all that decides what the function does besides the values of its input
    tensors and of tensors it updates in place: shapes are added here. A function keeps no tensor it
    makes; the outputs handed out are copies. Elsewhere than on a GPU, or with `enabled` false, the
    function is simply called; so it is, after one warning, once a function is seen to wait for the
    device (say, in a user's operation), which cannot be recorded.
    """

    def __init__(self, device: torch.device, enabled: bool = True):
        self.enabled = enabled and device.type == "cuda"
        self.recorded = 0
        self._steps: OrderedDict[Hashable, _Step] = OrderedDict()
        if self.enabled:
            self._stream = torch.cuda.Stream(device)
            self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, key: Hashable, function: Function, inputs: Sequence[Tensor]
                 ) -> list[Tensor]:
        if not self.enabled:
            return list(function(*inputs))
        step = self._step((key, tuple((x.shape, x.stride(), x.dtype) for x in inputs)))
        step.calls += 1
        if step.graph is None:
            if step.calls < WARM_UP:
                return self._beside(function, inputs)
            if step.calls == WARM_UP:
                return self._watched(function, inputs)
            self._record(step, function, inputs)
            if step.graph is None:
                return list(function(*inputs))
        torch._foreach_copy_(list(step.inputs), list(inputs))
        step.graph.replay()
        outputs = [torch.empty_like(x) for x in step.outputs]
        torch._foreach_copy_(outputs, list(step.outputs))
        return outputs

    def forget(self) -> None:
        """Give back the graphs and their memory; nothing is recorded any more."""
        self.enabled = False
        self._steps.clear()

    def _step(self, key: Hashable) -> _Step:
        step = self._steps.pop(key, None) or _Step()
        self._steps[key] = step
        while len(self._steps) > KEPT:
            self._steps.popitem(last=False)
        return step

    def _beside(self, function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
        """An ordinary call on the stream of the recording, as warming up must be."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = list(function(*inputs))
        current.wait_stream(self._stream)
        return outputs

    def _watched(self, function: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The last call before recording: a recording that fails midway would leave allocator and
        random generator in an unfinished state, so it is not begun."""
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("warn")
            try:
                outputs = self._beside(function, inputs)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        if any(WAITS in str(warning.message) for warning in seen):
            self._give_up("a step waits for the device")
        return outputs

    def _record(self, step: _Step, function: Function, inputs: Sequence[Tensor]) -> None:
        held, graph = [x.detach().clone() for x in inputs], torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self._stream.device)
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream,
                                  capture_error_mode="thread_local"):  # loaders may go on
                step.outputs = [x.detach() for x in function(*held)]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            torch.cuda.set_stream(current)
            self._give_up(str(error).splitlines()[0])
            return
        step.graph, step.inputs = graph, held
        self.recorded += 1
        log.info("recorded CUDA graph %d", self.recorded)

    def _give_up(self, reason: str) -> None:
        self.forget()
        log.warning("steps cannot be recorded as CUDA graphs and run one by one "
                    "(hardware.cuda_graphs=false does so from the start): %s", reason)
