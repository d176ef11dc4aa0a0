"""Equality with the original DARTS code: every number of the float64 fixture, to 1e-9."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from algorithms.darts import DARTS
from algorithms.strategy import Problem
from nasbench.clock import Clock
from nasbench.precision import Precision
from nasbench.search.weights import SupernetWeights
from search_spaces import (
    CellSpace,
    FinalNetwork,
    Mixing,
    SearchNetwork,
    derive_top_two,
    get_operation,
    load_genotype,
    top_two,
)

FIXTURES = Path(__file__).with_name("fixtures")
REFERENCE = json.loads((FIXTURES / "darts_reference_float64.json").read_text())
OPERATIONS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3",
              "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
SPACE = CellSpace(OPERATIONS)
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}


def normals(key: str, *shape: int) -> Tensor:
    values = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(int(np.prod(shape)))
    return torch.from_numpy(values.reshape(shape))


def fill(network: torch.nn.Module, prefix: str = "") -> None:
    """The fixture's framework-free weights, by logical key."""
    for key, p in network.named_parameters():
        n = normals(prefix + key, *p.shape)
        if p.dim() == 4:
            n = n * (2 / (p.shape[1] * p.shape[2] * p.shape[3])) ** 0.5
        elif p.dim() == 2:
            n = n * (1 / p.shape[1]) ** 0.5
        elif key.endswith("classifier.bias"):
            n = 0.01 * n
        else:
            n = 0.1 * n + (1 if key.endswith("weight") else 0)
        with torch.no_grad():
            p.copy_(n)


def close(actual: Tensor, expected: object) -> None:
    torch.testing.assert_close(actual.detach(), torch.tensor(expected, dtype=torch.float64),
                               **TOLERANCE)


@pytest.mark.parametrize("stride", [1, 2])
def test_mixed_operation(stride: int) -> None:
    case, channels = REFERENCE["mixed_op"][f"stride{stride}"], REFERENCE["mixed_op"]["C"]
    x = normals("mixed.x", *REFERENCE["mixed_op"]["input_shape"])
    w = normals("mixed.w", 8).softmax(0)
    close(w, case["softmax_w"])
    total: Tensor | float = 0.0
    for weight, name in zip(w, OPERATIONS, strict=True):
        module = get_operation(name).build(channels, stride, True).double()
        fill(module, f"mixed.{name}.")
        y = module(x)
        expected = case["per_op_abs_sum"][name]
        assert float(y.detach().abs().sum()) == pytest.approx(expected, rel=1e-9)
        total = total + weight * y
    assert list(total.shape) == case["out_shape"]
    assert float(total.detach().sum()) == pytest.approx(case["sum"], rel=1e-9, abs=1e-9)
    assert float(total.detach().abs().sum()) == pytest.approx(case["abs_sum"], rel=1e-9)
    close(total.flatten()[:8], case["first8"])


def search_case(name: str) -> tuple[dict, SearchNetwork, Tensor, tuple, tuple]:
    case = REFERENCE[name]
    network = SearchNetwork(SPACE, case["C"], case["layers"], 10).double()
    fill(network)
    alpha = 0.5 * torch.stack([normals("alphas_normal", 14, 8), normals("alphas_reduce", 14, 8)])
    train, valid = ((normals(case[f"x_{s}"], case["batch"], 3, 32, 32),
                     torch.tensor(case[f"y_{s}"])) for s in ("train", "valid"))
    return case, network, alpha, train, valid


CASES = ["search_C4_L8", "search_C16_L8"]


@pytest.mark.parametrize("name", CASES)
def test_search_network(name: str) -> None:
    case, network, alpha, (x, y), _ = search_case(name)
    alpha.requires_grad_()
    logits = network(x, Mixing(alpha.softmax(-1)))
    close(logits, case["train_logits"])
    loss = cross_entropy(logits, y)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(case["train_loss"], rel=1e-9)
    norm = torch.stack([p.grad.norm() for p in network.parameters()]).norm()
    assert float(norm) == pytest.approx(case["grad_w_l2"], rel=1e-9)
    assert float(network.stem.conv.weight.grad.norm()) == pytest.approx(case["grad_stem_conv_l2"],
                                                                        rel=1e-9)
    close(network.classifier.bias.grad, case["grad_classifier_bias"])
    close(alpha.grad[0], case["grad_alpha_normal"])
    close(alpha.grad[1], case["grad_alpha_reduce"])
    genotype = derive_top_two(alpha.softmax(-1), SPACE, network.row_types).to_pairs()
    assert json.loads(json.dumps(genotype)) == case["genotype"]


def darts(network: SearchNetwork, alpha: Tensor, second_order: bool, momentum: bool) -> DARTS:
    cpu = torch.device("cpu")
    weights = SupernetWeights(network, learning_rate=0.025, momentum=0.9, weight_decay=3e-4,
                              grad_clip=5.0, precision=Precision(cpu, "float32", False),
                              clock=Clock())
    if momentum:
        for key, p in network.named_parameters():
            weights.optimizer.state[p]["momentum_buffer"] = 0.01 * normals("mom." + key, *p.shape)
    strategy = DARTS(label="DARTS", second_order=second_order, learning_rate=3e-4,
                     betas=[0.5, 0.999],
                     weight_decay=1e-3, initial_scale=0.0, finite_difference=0.01)
    strategy.setup(Problem(network, weights, None, None, None, torch.Generator()))
    with torch.no_grad():
        strategy.alpha.copy_(alpha)
    return strategy


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("key", ["first_order", "second_order", "second_order_with_momentum"])
def test_architecture_gradient(name: str, key: str) -> None:
    case, network, alpha, train, valid = search_case(name)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    strategy = darts(network, alpha, key != "first_order", key.endswith("momentum"))
    strategy.problem.weights.step = lambda *a, **k: {}  # keep the weights for the comparison
    strategy.search_step(train, valid)
    gradient = strategy.alpha.grad
    if key == "first_order":
        close(gradient[0], case["first_order_alpha_grad_normal"])
        close(gradient[1], case["first_order_alpha_grad_reduce"])
    else:
        close(gradient[0], case[key]["alpha_grad_normal"])
        close(gradient[1], case[key]["alpha_grad_reduce"])
    if key.endswith("momentum"):
        step = (strategy.alpha.detach() - alpha)[0, 0]
        close(step, case["adam_step_delta_alpha_normal_row0"])
    for k, p in network.named_parameters():
        assert torch.equal(p, before[k]), k


@pytest.mark.parametrize("name", ["eval_cifar_DARTS_V2_C8_L8", "eval_imagenet_DARTS_V2_C8_L5"])
def test_final_network(name: str) -> None:
    case = REFERENCE[name]
    network = FinalNetwork(load_genotype("DARTS_V2")[1], case["C"], case["layers"], 10,
                           image_size=case["size"], auxiliary=case["auxiliary"]).double()
    fill(network)
    key = next(k for k in (case.get("input_key"), case.get("x"), "x_eval") if k)
    x, y = normals(key, case["batch"], 3, case["size"], case["size"]), torch.tensor(case["y"])
    without = sum(p.numel() for k, p in network.named_parameters() if "auxiliary" not in k)
    assert case["params"] in (without, sum(p.numel() for p in network.parameters()))
    network.eval()
    close(network(x)[0], case["eval_logits_initial_running_stats"])
    network.train()
    logits, auxiliary = network(x)
    close(logits, case["train_logits"])
    close(auxiliary, case["train_aux_logits"])
    loss = cross_entropy(logits, y) + 0.4 * cross_entropy(auxiliary, y)
    assert float(loss.detach()) == pytest.approx(case["loss_main_plus_0p4_aux"], rel=1e-9)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in network.parameters()]).norm()
    assert float(norm) == pytest.approx(case["grad_l2"], rel=1e-9)
    network.eval()
    close(network(x)[0], case["eval_logits_after_one_train_forward"])


@pytest.mark.parametrize("index", range(len(REFERENCE["derivation"])))
def test_derivation(index: int) -> None:
    case = REFERENCE["derivation"][index]
    text = case.get("alpha_key", case.get("alpha"))
    if text.startswith("all zeros"):
        alpha = torch.zeros(14, 8).double()
    elif text.startswith("none=5"):
        alpha = torch.zeros(14, 8).double()
        alpha[:, 0] = 5
    else:
        alpha = normals(text.split()[0], 14, 8)
        if "alpha[1,none]=8" in text:
            alpha[1, 0] = 8
    cell = top_two(alpha.softmax(-1), SPACE)
    assert [[op, source] for op, source, _ in cell.edges] == case["normal"]


@pytest.mark.parametrize("name", ["search_network_C16_L8", "final_network_cifar_DARTS_V2_C36_L20",
                                  "final_network_imagenet_DARTS_V2_C48_L14"])
def test_parameter_keys_and_shapes(name: str) -> None:
    expected = json.loads((FIXTURES / f"{name}_parameters.json").read_text())
    if name.startswith("search"):
        network: torch.nn.Module = SearchNetwork(SPACE, 16, 8, 10)
    else:
        size = 224 if "imagenet" in name else 32
        network = FinalNetwork(load_genotype("DARTS_V2")[1], expected["C"], expected["layers"],
                               expected["num_classes"], image_size=size, auxiliary=True)
    found = [{"key": k, "shape": list(p.shape)} for k, p in network.named_parameters()]
    assert found == expected["parameters"]
    assert sum(p.numel() for p in network.parameters()) == expected["total"]
