"""The fast form: diagonal curvature by one recursion from the logits to the switches.

A layer with Jacobian B passes the diagonal back as H_in = (B^2)^T H_out (B squared elementwise; no
second-derivative term, as ReLU has none), starting from p_c (1 - p_c) at logit c. So it is an
ordinary backward pass through a network whose layers have squared Jacobians. `SquaredJacobians`
swaps them in while the unchanged network runs:

    y = W x (convolution, linear)   ->  derivative W^2         (grouped, dilated, strided alike)
    y = x * scale (batch norm)      ->  scale^2
    y = mean of n inputs            ->  1 / n^2                (k x k average pooling: 1 / k^4)
    y = s f                         ->  s^2 for f, f^2 for s, summed over channels and positions
    sum, concatenation, ReLU, max-pooling (to the arg-max), views: derivatives are 0 or 1 already

Exact for a chain of layers with one path per output; it drops correlations between paths, so its
values differ from `exact_curvature` while the order is mostly kept. One backward pass per batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from algorithms.curvature import Curvature, coefficients, linear_network
from algorithms.strategy import Batch
from search_spaces import Mixing, SearchNetwork


def recursive_curvature(network: SearchNetwork, operation: Tensor, edge: Tensor, live: Tensor,
                        batches: Sequence[Batch]) -> Curvature:
    """As `exact_curvature`, by recursion. ValueError for a layer without a rule."""
    operation, edge = operation.detach(), edge.detach()
    m = coefficients(operation, edge).requires_grad_()
    total = torch.zeros(operation.shape, dtype=torch.float64)
    with linear_network(network):
        for x, _ in batches:
            with SquaredJacobians():
                logits = network(x, Mixing(m, live))
            p = logits.detach().softmax(dim=1)
            (h,) = torch.autograd.grad(logits, m, p * (1 - p))
            total += h.cpu()
    total /= sum(len(x) for x, _ in batches)
    operation, edge = operation.cpu().double(), edge.cpu().double()
    return Curvature(total * edge.square().unsqueeze(-1), (total * operation.square()).sum(dim=-1),
                     len(batches))


def recursive_weight_curvature(network: nn.Module, names: Sequence[str],
                               batches: Iterable[Batch]) -> dict[str, Tensor]:
    """The same for weights of convolutions and linear layers: H_W = sum over positions of
    x^2 (x) H_out. `network(x) -> logits`; names of parameters; float32 on the network's device."""
    parameters = dict(network.named_parameters())
    weights = [parameters[name] for name in names]
    totals, samples = [torch.zeros_like(w) for w in weights], 0
    with linear_network(network):
        for x, _ in batches:
            with SquaredJacobians(weights=True):
                logits = network(x)
            p = logits.detach().softmax(dim=1)
            torch._foreach_add_(totals, torch.autograd.grad(logits, weights, p * (1 - p)))
            samples += len(x)
    return {name: total / samples for name, total in zip(names, totals, strict=True)}


def value_with_derivative_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """`value` forwards, the derivative of `surrogate` backwards."""
    return value.detach() + (surrogate - surrogate.detach())


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **named: Any
                 ) -> Tensor:
    surrogate = torch.conv2d(x, weight.detach().square(), None, *rest, **named)
    if weight.requires_grad:
        surrogate = surrogate + torch.conv2d(x.detach().square(), weight, None, *rest, **named)
    return value_with_derivative_of(torch.conv2d(x, weight, bias, *rest, **named), surrogate)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    surrogate = functional.linear(x, weight.detach().square())
    if weight.requires_grad:
        surrogate = surrogate + functional.linear(x.detach().square(), weight)
    return value_with_derivative_of(functional.linear(x, weight, bias), surrogate)


def _batch_norm(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None = None,
                bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
                eps: float = 1e-5) -> Tensor:
    assert not training, "curvature is taken in evaluation mode"
    scale = 1 / (var + eps) if weight is None else weight.square() / (var + eps)
    value = functional.batch_norm(x, mean, var, weight, bias, False, momentum, eps)
    return value_with_derivative_of(value, x * scale.view(-1, *[1] * (x.dim() - 2)))


def _average_pool(x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
                  ceil_mode: bool = False, count_include_pad: bool = True,
                  divisor_override: int | None = None) -> Tensor:
    window = (kernel_size, stride, padding, ceil_mode, count_include_pad)
    value = functional.avg_pool2d(x, *window, divisor_override)
    if count_include_pad:
        height, width = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
        inputs: Tensor | int = divisor_override or height * width
    else:
        inputs = divisor_override or functional.avg_pool2d(torch.ones_like(x[:1, :1]), *window, 1)
    return value_with_derivative_of(value, value / inputs)


def _mean(x: Tensor, *args: Any, **named: Any) -> Tensor:
    value = x.mean(*args, **named)
    return value_with_derivative_of(value, value * (value.numel() / x.numel()))


def _product(a: Tensor | float, b: Tensor | float) -> Tensor:
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return value_with_derivative_of(a * b, a * b.detach().square() + b * a.detach().square())


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return total + _product(a, b)


RULES: dict[str, Callable[..., Tensor]] = {
    "conv2d": _convolution, "linear": _linear, "batch_norm": _batch_norm,
    "avg_pool2d": _average_pool, "mean": _mean, "mul": _product, "__mul__": _product,
    "__rmul__": _product, "multiply": _product, "addcmul": _add_product}

# Zero-one derivatives, or nothing differentiable at all.
UNCHANGED = {"relu", "add", "__add__", "__radd__", "cat", "stack", "sum", "max_pool2d",
             "boolean_dispatch", "index_select", "view", "reshape", "flatten", "unbind",
             "__getitem__", "expand", "permute", "transpose", "contiguous", "split", "chunk",
             "zeros_like", "__get__", "dim", "size", "tolist"}


class SquaredJacobians(TorchFunctionMode):
    """Within, every layer's derivative is the square of its own; values are unchanged. Layers'
    weights get one only on request, as it costs a second convolution."""

    def __init__(self, weights: bool = False):
        super().__init__()
        self.weights = weights

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        rule = RULES.get(name, func if name in UNCHANGED else None)
        if rule is None:
            raise ValueError("algorithm.curvature: recursive has no rule for the torch function "
                             f"{name!r} of this search space; use exact")
        if name in ("conv2d", "linear") and not self.weights:
            args = (args[0], args[1].detach(), *args[2:])
        return rule(*args, **(kwargs or {}))
