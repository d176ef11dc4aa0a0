"""Compiling a final network cell by cell: cells of one structure share the compiled code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

# Cells differ by type, width, resolution and what precedes them; beyond the limit torch would
# silently stop compiling.
RECOMPILE_LIMIT = 64


@contextmanager
def compiled_cells(network: nn.Module, backend: str | Callable = "inductor") -> Iterator[None]:
    """Within, the children named `cell0`, `cell1`, ... run compiled; after, they are as before.
    Raises ValueError where the machine cannot compile."""
    cells = [child for name, child in network.named_children() if name.startswith("cell")]
    limit = torch._dynamo.config.recompile_limit
    try:
        torch._dynamo.config.recompile_limit = max(limit, RECOMPILE_LIMIT)
        for cell in cells:
            cell.forward = torch.compile(  # type: ignore[method-assign]
                cell.forward, backend=backend, dynamic=False)
        with warnings.catch_warnings():  # hardware.tf32 is the user's choice
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            yield
    except torch._dynamo.exc.BackendCompilerFailed as error:
        reason = str(error.inner_exception).splitlines() or [type(error.inner_exception).__name__]
        raise ValueError("hardware.compile: the cells cannot be compiled here, set "
                         f"hardware.compile=false: {reason[0]}") from error
    finally:
        torch._dynamo.config.recompile_limit = limit
        for cell in cells:
            cell.__dict__.pop("forward", None)
        torch.compiler.reset()  # the next genotype has cells of its own, and the limit is for all
