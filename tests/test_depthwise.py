"""The depthwise stage: the library path against the modules, the GPU kernels against the library.

Without a GPU the kernels run in Triton's interpreter, which must be on before they are defined: in
a second pytest over this file, with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from search_spaces.darts.fast.gpu import depthwise
from search_spaces.operations import DilatedConv, SeparableConv

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None,
                                  reason="triton is not installed")
MIXED = ((3, 1), (5, 2), (7, 1), (3, 2))  # kernel size, dilation


def problem(kinds, shape, shared, dtype=torch.float64, device="cpu"):
    """x, weights, dilations; `shape` [N, H, W, C]."""
    generator = torch.Generator().manual_seed(7)
    n, h, w, c = shape
    full = shape if shared else (n, h, w, len(kinds), c)
    x = torch.randn(full, generator=generator, dtype=torch.float64).to(device, dtype)
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    weights = [torch.randn(c, 1, k, k, generator=generator, dtype=torch.float64).to(device, kind)
               for k, _ in kinds]
    return x.requires_grad_(), [v.requires_grad_() for v in weights], [d for _, d in kinds]


def everything(function, x, weights, dilations, stride, shared) -> list[Tensor]:
    """Output and all gradients, of an output gradient that is the same for all functions. Nothing
    keeps the autograd graph: its leaves would tie a later capture to this stream."""
    u = function(x, weights, dilations, stride, shared=shared)
    du = torch.randn(u.shape, generator=torch.Generator().manual_seed(8)).to(u)
    return [u.detach(), *torch.autograd.grad(u, [x, *weights], du)]


def assert_equal_to(tolerance: float, found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.is_contiguous()
        assert (a - b).abs().max() <= tolerance * b.abs().max() > 0


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
def test_library_path_equals_the_modules(shared, stride):
    kinds = ((3, 1), (5, 1), (3, 2), (5, 2), (3, 1))
    x, weights, dilations = problem(kinds, (2, 9, 6, 4), shared)
    found = everything(depthwise.depthwise_relu, x, weights, dilations, stride, shared)

    def modules(x, weights, dilations, stride, *, shared):
        out = []
        for e, (kernel, dilation) in enumerate(kinds):
            module = (DilatedConv if dilation == 2 else SeparableConv)(4, kernel, stride, True)
            conv = module.dw if dilation == 2 else module.dw1
            maps = torch.relu(x if shared else x[..., e, :]).permute(0, 3, 1, 2)
            out.append(torch.func.functional_call(conv, {"weight": weights[e]}, (maps,)))
        return torch.stack(out).permute(1, 3, 4, 0, 2).contiguous()

    assert found[0].shape == (2, 9 if stride == 1 else 5, 6 // stride, 5, 4)
    assert_equal_to(1e-12, found, everything(modules, x, weights, dilations, stride, shared))


@pytest.mark.parametrize("shared", [True, False])
def test_library_path_gradients_are_those_of_finite_differences(shared):
    x, weights, dilations = problem(((3, 1), (5, 2)), (1, 4, 3, 2), shared)

    def function(x, *weights):
        return depthwise.depthwise_relu(x, weights, dilations, 2, shared=shared)

    assert torch.autograd.gradcheck(function, (x, *weights))


def test_sums_are_float32_under_autocast():
    x, weights, dilations = problem(MIXED, (2, 5, 5, 4), True, torch.bfloat16)
    plain = depthwise.depthwise_relu(x, weights, dilations, shared=True)
    with torch.autocast("cpu", torch.bfloat16):
        cast = depthwise.depthwise_relu(x, weights, dilations, shared=True)
    exact = depthwise.depthwise_relu(x.double(), weights, dilations, shared=True)
    assert torch.equal(plain, cast)
    assert torch.equal(plain, exact.to(torch.bfloat16))


def test_cpu_needs_no_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "search_spaces.darts.fast.gpu.triton_depthwise", raising=False)
    spec = importlib.util.spec_from_file_location("fresh", depthwise.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    x, weights, dilations = problem(MIXED, (1, 3, 3, 2), True)
    everything(fresh.depthwise_relu, x, weights, dilations, 1, True)
    with pytest.raises(ImportError, match="triton"):
        fresh.triton_depthwise_relu(x, weights, dilations, shared=True)


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="this is the second pytest")
def test_kernels_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "interpreted",
         __file__], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
        cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


if INTERPRETED:
    import numpy as np
    from triton.runtime import interpreter

    from search_spaces.darts.fast.gpu import triton_depthwise as kernels

    class Fenced:
        """The interpreter's memory, which may be touched inside the tensors of the launch only."""

        def __init__(self, memory):
            self.memory, self.ranges, self.launched = memory, [], []

        def __getattr__(self, name):
            return getattr(self.memory, name)

        def allow(self, tensors):
            self.ranges = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors]

        def check(self, pointers, mask, size):
            used = pointers[np.asarray(mask, dtype=bool)]
            inside = [(used >= low) & (used + size <= high) for low, high in self.ranges]
            assert np.logical_or.reduce(inside).all(), "out of bounds"

        def load(self, pointers, mask, other, dtype):
            self.check(pointers, mask, np.dtype(dtype).itemsize)
            return self.memory.load(pointers, mask, other, dtype)

        def store(self, pointers, value, mask):
            self.check(pointers, mask, value.dtype.itemsize)
            return self.memory.store(pointers, value, mask)

    class Launch:
        """A kernel that first tells the fence what it was given."""

        def __init__(self, kernel, fence):
            self.kernel, self.fence = kernel, fence

        def __getitem__(self, grid):
            def call(*args, **options):
                self.fence.allow([a for a in args if isinstance(a, Tensor)])
                self.fence.launched.append(self.kernel.fn.__name__)
                self.kernel[grid](*args, **options)
            return call

    @pytest.fixture
    def small(monkeypatch):
        """Several tiles, several partial sums, and the fence; returns a setter of the rows, which
        returns the kernels launched."""
        patch = interpreter._patch_lang_tensor

        def patch_again(tensor, *scope):  # Triton 3.5 cannot bound a loop under NumPy 2.4
            patch(tensor, *scope)
            tensor.__index__ = lambda self: int(self.handle.data.item())

        monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_again)
        fence = Fenced(interpreter._interpreter)
        monkeypatch.setattr(interpreter, "_interpreter", fence)
        for name in ("forward_kernel", "input_kernel", "weight_kernel"):
            monkeypatch.setattr(kernels, name, Launch(getattr(kernels, name), fence))
        monkeypatch.setattr(kernels, "TILE", 64)
        monkeypatch.setattr(kernels, "PARTIAL_TILES", 1)

        def with_rows(rows):
            monkeypatch.setattr(kernels, "rows_for", lambda values: rows)
            return fence.launched

        return with_rows

    def compare(kinds, shape, shared, stride, dtype=torch.float64, tolerance=1e-10):
        x, weights, dilations = problem(kinds, shape, shared, dtype)
        assert_equal_to(tolerance, *(everything(f, x, weights, dilations, stride, shared) for f in (
            depthwise.triton_depthwise_relu, depthwise.library_depthwise_relu)))

    @pytest.mark.parametrize("shared, stride, kinds, rows", [
        (True, 1, MIXED, 2), (True, 2, ((3, 1), (5, 2)), 4), (False, 1, ((5, 1), (3, 2)), 4),
        (False, 2, ((3, 2), (5, 1)), 4)])
    def test_interpreted_kernels_equal_the_library(small, shared, stride, kinds, rows):
        small(rows)
        compare(kinds, (1, 5, 3, 2), shared, stride)

    @pytest.mark.parametrize("rows, stride", [(1, 2), (2, 1), (4, 1), (4, 2)])
    def test_interpreted_with_several_tiles(small, rows, stride):
        small(rows)
        compare(((3, 1), (3, 2)), (2, 5, 3, 6), rows < 4, stride)

    def test_interpreted_dilations_without_common_strips(small):
        small(4)
        compare(((3, 2), (3, 3)), (1, 7, 4, 2), True, 1)
        compare(((3, 1), (3, 4)), (1, 7, 4, 2), True, 2)

    def test_interpreted_channels_in_blocks(small):
        small(4)
        assert kernels.channel_block(34) == 16
        compare(((3, 1),), (1, 3, 2, 34), False, 1)

    @pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
    def test_interpreted_types(small, dtype, tolerance):
        small(4)
        compare(((3, 2), (3, 1)), (1, 5, 4, 4), True, 1, dtype, tolerance)

    def test_interpreted_nan(small):
        small(2)
        x, weights, dilations = problem(((3, 1),), (1, 4, 4, 2), True)
        with torch.no_grad():
            x[0, 0, 0, 0] = float("nan")
            x[0, 3, 3, 1] = 0.0
        u = depthwise.triton_depthwise_relu(x, weights, dilations, shared=True)
        u.sum().backward()
        assert u[0, 0, 0, 0, 0].isnan() and u[0, 2, 2].isfinite().all()
        assert weights[0].grad[0].isnan().any() and weights[0].grad[1].isfinite().all()
        assert x.grad.isfinite().all() and ((x.grad == 0) == (x <= 0)).all()

    def test_interpreted_gradients_only_where_wanted(small):
        launched = small(1)
        x, weights, dilations = problem(((3, 1),), (1, 2, 2, 2), True)
        for a, b in ((x.detach(), weights), (x, [v.detach() for v in weights])):
            depthwise.triton_depthwise_relu(a, b, dilations, shared=True).sum().backward()
        assert launched == ["forward_kernel", "weight_kernel", "forward_kernel", "input_kernel"]


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels cannot be compiled")
@pytest.mark.parametrize("architecture, dtype, stride", [(90, "bf16", 1), (80, "fp32", 2)])
@pytest.mark.parametrize("name, loads", [("forward", (25, 31)), ("input", (57, 45)),
                                         ("weight", (25, 31))])
def test_kernels_compile_without_a_gpu(name, loads, architecture, dtype, stride):
    """And equal loads are merged, wide, and need no exchange between threads."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from search_spaces.darts.fast.gpu import triton_depthwise as kernels

    kernel = getattr(kernels, f"{name}_kernel")
    block = kernels.channel_block(32)
    fixed = {"STRIDE": stride, "SHARED": True, "LARGE": False, "ROWS": 4,
             "BP": kernels.TILE // block, "BC": block}
    types = dict.fromkeys(("x", "u", "du", "dx"), f"*{dtype}") | dict.fromkeys(
        ("packed", "partial"), "*fp32") | {"kinds": "*i32"} | dict.fromkeys(fixed, "constexpr")
    signature = {a: types.get(a, "i32") for a in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, (a, t) in enumerate(signature.items())
               if t[0] == "*" or a == "C"}
    built = triton.compile(ASTSource(kernel, signature, fixed, aligned),
                           target=GPUTarget("cuda", architecture, 32),
                           options={"num_warps": kernels.WARPS, "enable_fp_fusion": True})
    assert built.asm["cubin"]
    layouts = built.asm["ttgir"]
    assert layouts.count("tt.load") <= loads[stride - 1]
    assert name == "weight" or "convert_layout" not in layouts
    assert "ld.global.v2.b32" in built.asm["ptx"] or "ld.global.v4.b32" in built.asm["ptx"]


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or INTERPRETED, reason="needs a CUDA device")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
def test_kernels_on_a_gpu_equal_the_library(shared, stride, dtype, tolerance):
    """Also replayed from a CUDA graph, and the same bits again."""
    x, weights, dilations = problem(MIXED, (3, 17, 9, 16), shared, dtype, "cuda")
    run = functools.partial(everything, x=x, weights=weights, dilations=dilations, stride=stride,
                            shared=shared)
    torch.backends.cudnn.allow_tf32, before = False, torch.backends.cudnn.allow_tf32
    expected = run(depthwise.library_depthwise_relu)
    torch.backends.cudnn.allow_tf32 = before
    found = run(depthwise.depthwise_relu)
    assert_equal_to(tolerance, found, expected)

    def once() -> list[Tensor]:
        u = depthwise.depthwise_relu(x, weights, dilations, stride, shared=shared)
        return [u.detach(), *torch.autograd.grad(u, [x, *weights], u.detach())]

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = once()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, once(), strict=True))
