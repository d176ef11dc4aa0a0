"""What only a GPU can show: `python -m pytest tests/test_cuda.py` on a machine that has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nasbench.build import construct
from nasbench.capture import WARM_UP
from nasbench.clock import Clock
from nasbench.configuration import compose
from nasbench.precision import Precision
from nasbench.retrain.compiled import compiled_cells
from nasbench.retrain.step import RetrainStep
from nasbench.search.weights import SupernetWeights
from nasbench.settings import EvaluationSettings
from search_spaces import CellSpace, FinalNetwork, Mixing, SearchNetwork, load_genotype
from search_spaces.darts import fast
from search_spaces.darts.fast import BatchedSearchNetwork, agreement
from search_spaces.darts.fast.gpu.depthwise import library_depthwise_relu, triton_depthwise_relu
from search_spaces.darts.fast.gpu.network import PLANS
from search_spaces.full_precision import full_float32
from tests.equality import random_mixing
from tests.harness import DARTS_OPERATIONS

pytestmark = [pytest.mark.gpu,
              pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CUDA = torch.device("cuda")
STEPS = WARM_UP + 4


@pytest.fixture(autouse=True)
def exact_and_repeatable() -> Iterator[None]:
    """No TensorFloat-32, and cuDNN's repeatable algorithms."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    with full_float32():
        yield
    torch.backends.cudnn.deterministic = before


def batch(n: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 16, 16, generator=g).to(CUDA), \
        torch.randint(10, (n,), generator=g).to(CUDA)


def trainer(kind: type[SearchNetwork], *, graphs: bool, precision: str = "float32"
            ) -> SupernetWeights:
    torch.manual_seed(0)
    network = kind(CellSpace(DARTS_OPERATIONS), 8, 3, 10, image_size=16).to(CUDA)
    return SupernetWeights(network, learning_rate=0.025, momentum=0.9, weight_decay=3e-4,
                           grad_clip=5.0, precision=Precision(CUDA, precision, False),
                           clock=Clock(CUDA), cuda_graphs=graphs)


def train(weights: SupernetWeights, *, changing: bool = False) -> dict[str, Tensor]:
    """Steps with a schedule, the last batch of every third smaller; then the state."""
    for i in range(3 * STEPS):
        weights.lr = 0.025 / (1 + i)
        n = 5 if i % 3 == 2 else 8
        mixing = random_mixing(weights.network, "masked" if changing else "softmax",
                               i if changing else 0)
        found = weights.gradients(batch(n, 2 * i), mixing)
        assert found.mixing.shape == mixing.weights.shape
        out = weights.step(batch(n, 2 * i + 1), mixing)
        assert bool(torch.isfinite(out["train_loss"]))
    return weights.network.state_dict()


def retraining(network: FinalNetwork, graphs: bool) -> RetrainStep:
    settings = construct(EvaluationSettings, compose([])["evaluation"], "evaluation")
    return RetrainStep(network, settings, Precision(CUDA, "float32", False), graphs)


def equal(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    for key, value in a.items():
        scale = max(1.0, float(value.double().abs().max()))
        torch.testing.assert_close(b[key].double(), value.double(), rtol=0,
                                   atol=tolerance * scale, msg=lambda m, key=key: f"{key}: {m}")


def test_the_fast_network_is_chosen_here() -> None:
    assert agreement.disagreement(BatchedSearchNetwork, CUDA) is None
    assert fast.choose("auto", CUDA) is BatchedSearchNetwork


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
def test_depthwise_kernels(rows: int, stride: int, shared: bool, monkeypatch: pytest.MonkeyPatch
                           ) -> None:
    """In the forms for small and for large maps."""
    kernels = "search_spaces.darts.fast.gpu.triton_depthwise"
    monkeypatch.setattr(f"{kernels}.rows_for", lambda values: rows)
    g = torch.Generator().manual_seed(0)
    shape = (3, 9, 10, 12) if shared else (3, 9, 10, 3, 12)
    results = []
    for run in (library_depthwise_relu, triton_depthwise_relu):
        g.manual_seed(0)
        x = torch.randn(shape, generator=g, dtype=torch.float64).to(CUDA).requires_grad_()
        weights = [torch.randn(12, 1, k, k, generator=g, dtype=torch.float64).to(CUDA)
                   .requires_grad_() for k in (3, 5, 5)]
        u = run(x, weights, (1, 1, 2), stride, shared=shared)
        direction = torch.randn(u.shape, generator=g, dtype=torch.float64).to(CUDA)
        results.append([u.detach(), *torch.autograd.grad(u, [x, *weights], direction)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


def test_recorded_steps_equal_steps_one_by_one() -> None:
    one_by_one = train(trainer(BatchedSearchNetwork, graphs=False))
    recorded = trainer(BatchedSearchNetwork, graphs=True)
    equal(one_by_one, train(recorded), 1e-3)  # 1e-7 of noise grows to 6e-5 in these steps
    assert recorded.capture.enabled and recorded.capture.recorded == 4  # 2 kinds x 2 batch sizes


def test_the_fast_trainer_follows_the_plain_one() -> None:
    equal(train(trainer(SearchNetwork, graphs=False)),
          train(trainer(BatchedSearchNetwork, graphs=True)), 5e-2)  # kinks amplify rounding


def test_a_live_set_may_be_scored_before_it_is_trained() -> None:
    weights = trainer(BatchedSearchNetwork, graphs=True)
    mixing = random_mixing(weights.network, "masked", 0)
    with torch.inference_mode():
        weights.network(batch(8, 0)[0], mixing)
    for _ in range(STEPS):
        weights.gradients(batch(8, 0), mixing)
        weights.step(batch(8, 1), mixing)
    assert weights.capture.recorded == 2


def test_a_recorded_step_outlives_its_plan() -> None:
    """The network forgets plans of live sets; a graph still reads what they put on the device."""
    results = []
    for graphs in (False, True):
        weights = trainer(BatchedSearchNetwork, graphs=graphs)
        mixing = random_mixing(weights.network, "masked", 0)
        for _ in range(STEPS):
            weights.step(batch(8, 0), mixing)
        with torch.no_grad():
            for seed in range(PLANS + 1):
                weights.network(batch(8, 0)[0], random_mixing(weights.network, "masked", 1 + seed))
        results.append(weights.step(batch(8, 1), mixing)["train_loss"])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


def test_a_step_that_waits_runs_unrecorded() -> None:
    class Waiting(BatchedSearchNetwork):
        def forward(self, x: Tensor, mixing: Mixing | Tensor) -> Tensor:
            logits = super().forward(x, mixing)
            return logits * (1.0 if float(logits.detach().sum()) > -1e30 else 0.0)

    weights = trainer(Waiting, graphs=True)
    mixing = random_mixing(weights.network, "softmax", 0)
    for _ in range(STEPS):
        assert weights.step(batch(8, 0), mixing)["train_loss"].isfinite()
    assert weights.capture.recorded == 0 and not weights.capture.enabled
    assert torch.rand(3, device=CUDA).isfinite().all()


def test_a_changing_live_set_is_not_recorded() -> None:
    weights = trainer(BatchedSearchNetwork, graphs=True)
    train(weights, changing=True)
    assert weights.capture.enabled and weights.capture.recorded == 0


def test_displaced_weights_reach_a_recorded_step() -> None:
    """The passes of the second-order gradient."""
    results = []
    for graphs in (False, True):
        weights = trainer(BatchedSearchNetwork, graphs=graphs)
        mixing = random_mixing(weights.network, "softmax", 0)
        for i in range(STEPS):
            with weights.at([v * (1 + 0.01 * i) for v in weights.values()]):
                found = weights.gradients(batch(8, i), mixing, weights=True, full_precision=True)
        results.append([found.loss, found.mixing, *found.weights])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("graphs", [False, True])
def test_repeated_searches_agree(graphs: bool) -> None:
    """Not promised bit by bit on a GPU; 1e-7 of noise grows to 2e-2 in these steps."""
    runs = [train(trainer(BatchedSearchNetwork, graphs=graphs, precision="bfloat16"))
            for _ in range(2)]
    equal(*runs, 1e-1)


def test_a_recorded_step_does_not_wait_for_the_device() -> None:
    weights = trainer(BatchedSearchNetwork, graphs=True)
    mixing = random_mixing(weights.network, "softmax", 0)
    x = batch(8, 0)
    for _ in range(STEPS):
        weights.gradients(x, mixing)
        weights.step(x, mixing)
    torch.cuda.set_sync_debug_mode("error")
    try:
        weights.gradients(x, mixing)
        weights.step(x, mixing)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_recorded_retraining_equals_step_by_step() -> None:
    results = []
    for graphs in (False, True):
        torch.manual_seed(0)
        network = FinalNetwork(load_genotype("DARTS_V2")[1], 8, 3, 10, image_size=16,
                               drop_path=True).to(CUDA, memory_format=torch.channels_last)
        network.get_buffer("drop_rate").fill_(0.0)
        step = retraining(network, graphs)
        for i in range(STEPS):
            x, y = batch(8, i)
            step.optimizer.rate = 0.01 / (1 + i)
            loss = step(x, y, y)["train_loss"]
        assert step.capture.recorded == int(graphs)
        results.append((network.state_dict(), loss))
    equal(results[0][0], results[1][0], 1e-4)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("default")  # the compiler of each torch has its own
def test_drop_path_is_drawn_anew_in_a_recorded_step(compiled: bool) -> None:
    torch.manual_seed(0)
    network = FinalNetwork(load_genotype("DARTS_V2")[1], 8, 3, 10, image_size=16,
                           drop_path=True).to(CUDA)
    network.get_buffer("drop_rate").fill_(0.5)
    step = retraining(network, True)
    step.optimizer.rate = 0.0  # nothing else changes from step to step
    x, y = batch(8, 0)
    with compiled_cells(network) if compiled else nullcontext():
        losses = {round(float(step(x, y, y)["train_loss"]), 6) for _ in range(STEPS + 4)}
    assert step.capture.recorded == 1 and len(losses) > STEPS


def test_mixing_of_a_fast_network_on_the_device() -> None:
    """Live sets stay on the CPU, weights on the device."""
    weights = trainer(BatchedSearchNetwork, graphs=False)
    live = torch.rand(weights.network.mixing_shape, generator=torch.Generator().manual_seed(0)) < .3
    out = weights.network(batch(4, 0)[0], Mixing(weights.network.place(live.float()), live))
    assert cross_entropy(out, batch(4, 0)[1]).isfinite()
