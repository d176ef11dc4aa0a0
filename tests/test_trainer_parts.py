"""What both trainers share: the optimiser, recorded steps, compiled cells."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nasbench import capture as capture_module
from nasbench.capture import KEPT, WARM_UP, Capture
from nasbench.clock import Clock
from nasbench.pace import Pace
from nasbench.precision import Precision
from nasbench.retrain.compiled import compiled_cells
from nasbench.search.weights import SupernetWeights
from nasbench.sgd import SGD
from search_spaces import Cell, CellSpace, FinalNetwork, Genotype, Mixing, SearchNetwork
from tests.harness import images

CPU = torch.device("cpu")


class Recorded:
    """What a CUDA graph is, for the CPU: on replay it does again what it did with the tensors it
    was recorded with, and nothing the Python of a later call says."""

    def __init__(self) -> None:
        self.again: Callable[[], Any] = lambda: None

    def replay(self) -> None:
        self.again()


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Capture:
    """A capture that believes in a GPU."""
    stream = SimpleNamespace(wait_stream=lambda other: None, device=torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    original = Capture._record

    def record(self: Capture, step: Any, function: Any, inputs: Sequence[Tensor]) -> None:
        def once(*held: Tensor) -> list[Tensor]:
            def again() -> None:
                for kept, new in zip(step.outputs, function(*held), strict=True):
                    kept.copy_(new)
            made[0] = again
            return [torch.zeros_like(x) for x in inputs[:1]]  # recording computes nothing yet

        made: list[Callable[[], None]] = [lambda: None]
        original(self, step, once, inputs)
        if step.graph is not None:
            step.graph.again = made[0]

    monkeypatch.setattr(Capture, "_record", record)
    return Capture(torch.device("cuda"))


def test_a_recorded_step_gives_what_the_step_gives(recording: Capture) -> None:
    state = torch.zeros(2)

    def step(x: Tensor) -> list[Tensor]:
        state.add_(x)
        return [state * 2]

    outputs = [recording("step", step, [torch.full((2,), float(i))])[0] for i in range(8)]
    assert [float(x[0]) for x in outputs] == [2.0 * sum(range(i + 1)) for i in range(8)]
    assert recording.recorded == 1


def test_keys_and_shapes_are_recorded_apart_and_forgotten(recording: Capture) -> None:
    calls: list[Any] = []

    def step(key: Any) -> Callable[[Tensor], list[Tensor]]:
        return lambda x: (calls.append(key), [x + 1])[1]

    for size in (3, 5):
        for _ in range(WARM_UP + 2):
            assert recording("a", step("a"), [torch.ones(size)])[0].shape == (size,)
    assert recording.recorded == 2
    for key in range(3 * KEPT):  # a live set that changes at every step is never recorded
        recording(key, step(key), [torch.ones(2)])
    assert recording.recorded == 2 and len(recording._steps) == KEPT
    for _ in range(WARM_UP + 1):
        recording("a", step("a"), [torch.ones(3)])
    assert recording.recorded == 3


def test_a_step_that_cannot_be_recorded_runs_on(recording: Capture, caplog: Any,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __enter__(self) -> None:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: Refusing())
    for i in range(WARM_UP + 3):
        assert float(recording("a", lambda x: [x + 1], [torch.tensor(float(i))])[0]) == i + 1
    assert len(caplog.records) == 1 and "\n" not in caplog.records[0].getMessage()
    assert not recording.enabled


def test_a_step_that_waits_is_never_recorded(recording: Capture, caplog: Any,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str | int] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def waiting(x: Tensor) -> list[Tensor]:
        if modes and modes[-1] == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return [x + 1]

    for i in range(WARM_UP + 3):
        assert float(recording("a", waiting, [torch.tensor(float(i))])[0]) == i + 1
    assert recording.recorded == 0 and not recording.enabled and modes == ["warn", 0]
    assert len(caplog.records) == 1 and "waits for the device" in caplog.text


def trainer(network: SearchNetwork) -> SupernetWeights:
    return SupernetWeights(network, learning_rate=0.1, momentum=0.9, weight_decay=0.0,
                           grad_clip=5.0, precision=Precision(CPU, "float32", True), clock=Clock())


def test_sampled_mixings_are_not_recorded(recording: Capture) -> None:
    network = SearchNetwork(CellSpace(("skip_connect", "sep_conv_3x3"), 1), 4, 1, 4, image_size=8)
    weights = trainer(network)
    weights.capture = recording
    mixing = Mixing(torch.ones(network.mixing_shape))
    for _ in range(WARM_UP + 1):
        weights.step(images(4), [mixing])
    assert not recording._steps
    weights.step(images(4), mixing)
    assert len(recording._steps) == 1


def test_full_precision_reaches_the_backward_pass() -> None:
    """TensorFloat-32 would be switched on again when the forward pass is over."""
    seen: list[bool] = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            seen.append(torch.backends.cuda.matmul.allow_tf32)
            return gradient

    class Watched(SearchNetwork):
        def forward(self, x: Tensor, mixing: Any) -> Tensor:
            return Watch.apply(super().forward(x, mixing))

    network = Watched(CellSpace(("skip_connect",), 1), 4, 1, 4, image_size=8)
    weights, mixing = trainer(network), Mixing(torch.ones(network.mixing_shape))
    products = torch.backends.cuda.matmul
    before, products.allow_tf32 = products.allow_tf32, True
    try:
        weights.gradients(images(4), mixing)
        weights.gradients(images(4), mixing, full_precision=True)
        assert seen == [True, False] and products.allow_tf32
    finally:
        products.allow_tf32 = before


@pytest.mark.parametrize(("device", "start", "steps", "judged"), [
    ("cpu", 0, 40, 5), ("cpu", 0, 3, 3), ("cpu", 4, 40, 9), ("cuda", 0, 40, 20),
    ("cuda", 0, 8, None), ("cuda", 385, 390, None)])
def test_the_pace_is_judged_once(monkeypatch: pytest.MonkeyPatch, device: str, start: int,
                                 steps: int, judged: int | None) -> None:
    """A second per step, the first five (compiling, recording) a minute."""
    clock = {"now": 0.0}
    monkeypatch.setattr("nasbench.pace.time.perf_counter", lambda: clock["now"])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    pace, found = Pace(torch.device(device), start, steps), {}
    for step in range(start + 1, steps + 1):
        clock["now"] += 60.0 if device == "cuda" and step <= 5 else 1.0
        per_step = pace(step)
        if per_step is not None:
            found[step] = per_step
    assert found == ({} if judged is None else {judged: 1.0})


def test_without_a_gpu_nothing_is_recorded() -> None:
    plain = Capture(CPU)
    for _ in range(WARM_UP + 2):
        assert plain("a", lambda x: (x,), [torch.ones(1)]) == [torch.ones(1)]
    assert not plain.enabled and plain.recorded == 0
    assert capture_module.WARM_UP >= 3  # what CUDA graphs ask for


def _train(optimizer: SGD, parameters: list[nn.Parameter], rates: Sequence[float]) -> list[Tensor]:
    for i, rate in enumerate(rates):
        optimizer.rate = rate
        assert optimizer.rate == rate
        optimizer.zero_grad(set_to_none=True)
        used = parameters if i % 2 else parameters[:1]  # the others must not move
        before = [p.detach().clone() for p in parameters[len(used):]]
        sum((p * p * (1 + i)).sum() for p in used).backward()
        optimizer.step()
        assert all(map(torch.equal, before, parameters[len(used):]))
    return [p.detach() for p in parameters]


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_fused_form_takes_the_same_steps(nesterov: bool) -> None:
    """A float32 tensor as the rate (powers of two are exact), zeros as the first momentum,
    parameters that join later."""
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(5, dtype=torch.float64)) for _ in range(3)]
        optimizer = SGD(parameters, rate=0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov,
                        fused=fused)
        assert isinstance(optimizer.param_groups[0]["lr"], Tensor) == fused
        results.append(_train(optimizer, parameters, [0.25, 0.125, 0.0625, 0.03125, 0.25]))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("first", "then"), [(False, True), (True, False)])
def test_momentum_moves_between_forms(first: bool, then: bool) -> None:
    results = []
    for second in (first, then):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(5, dtype=torch.float64)) for _ in range(2)]
        options = {"rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}
        optimizer = SGD(parameters, fused=first, **options)
        _train(optimizer, parameters, [0.25])
        resumed = SGD(parameters, fused=second, **options)
        resumed.load_state_dict(optimizer.state_dict())
        assert bool(resumed.param_groups[0]["fused"]) == second
        results.append(_train(resumed, parameters, [0.125, 0.0625]))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:Guards may run slower")
def test_compiled_cells_share_code_and_leave_no_trace() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    cell = Cell((("skip_connect", 0, 2), ("dil_conv_3x3", 1, 2)), (2,))
    torch.manual_seed(0)
    network = FinalNetwork(Genotype(cell, cell), 4, 12, 4, image_size=8, drop_path=True)
    network.get_buffer("drop_rate").fill_(0.2)
    x, y = images(4)

    def gradients() -> list[Tensor]:
        torch.manual_seed(1)  # drop-path
        network.zero_grad(set_to_none=True)
        cross_entropy(network(x)[0], y).backward()
        return [p.grad for p in network.parameters() if p.grad is not None]

    expected = gradients()
    keys = list(network.state_dict())
    with compiled_cells(network, backend="aot_eager"):
        for a, b in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
        compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        with torch.compiler.set_stance("force_eager"):
            network.eval()(x)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
        assert list(network.state_dict()) == keys
        network.train()
    assert not torch._dynamo.utils.counters["graph_break"]
    assert 0 < compiled < 12  # twelve cells, fewer structures
    assert all("forward" not in child.__dict__ for child in network.children())


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore:Guards may run slower")
def test_cells_that_cannot_be_compiled_name_the_key() -> None:
    def broken(graph: Any, example: Any) -> Any:
        raise RuntimeError("no compiler\nmore")

    cell = Cell((("skip_connect", 0, 2),), (2,))
    network = FinalNetwork(Genotype(cell, cell), 4, 1, 4, image_size=8)
    with pytest.raises(ValueError, match=r"^hardware\.compile: .*compile=false: .*no compiler$"), \
            compiled_cells(network, backend=broken):
        network(images(4)[0])
    assert network(images(4)[0])[0].shape == (4, 4)


def test_precision_by_name() -> None:
    assert Precision.choose(CPU, "auto", None) == Precision(CPU, "float32", False)
    assert Precision.choose(CPU, "bfloat16", None) == Precision(CPU, "bfloat16", True)
    assert Precision.choose(CPU, "bfloat16", False) == Precision(CPU, "bfloat16", False)
    with pytest.raises(ValueError, match=r"^hardware\.precision: must be one of auto"):
        Precision.choose(CPU, "float16", None)
