"""Trained final networks on disk: weights with all that is needed to rebuild the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasbench import checkpoint
from nasbench.build import locate
from nasbench.setup_run import Parts
from search_spaces import Genotype

SCHEMA = "nasbench.model/1"


class _Logits(nn.Module):
    """Only the class scores, for exchange formats."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)[0]


def save_model(path: Path, network: nn.Module, genotype: Genotype, parts: Parts) -> None:
    """Write PATH.pt (see `load_model`) and, with evaluation.export_onnx, PATH.onnx."""
    e, info = parts.evaluation, parts.info
    weights = {k: v.cpu() for k, v in network.state_dict().items()
               if not k.startswith("auxiliary_head.")}
    build = {"network": e.network, "channels": e.channels, "cells": e.cells,
             "classes": info.classes, "image_size": info.image_size, "in_channels": info.channels,
             "stem": parts.space_settings.stem, "squeeze_excitation": e.squeeze_excitation}
    checkpoint.write(path.with_suffix(".pt"), {
        "schema": SCHEMA, "genotype": genotype.to_dict(), "build": build, "weights": weights})
    if e.export_onnx:
        export_onnx(path.with_suffix(".onnx"), network, info.channels, info.image_size)


def load_model(path: str | Path) -> tuple[nn.Module, Genotype]:
    """The network in evaluation mode and its genotype; `network(x)[0]` are the logits.

    ValueError when the file is not such a model.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["schema"] != SCHEMA:
            raise ValueError(f"schema is {state['schema']!r}")
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a saved model ({SCHEMA}): {error}") from None
    build = dict(state["build"])
    genotype, kind = Genotype.from_dict(state["genotype"]), locate(build.pop("network"))
    if not build["squeeze_excitation"]:
        del build["squeeze_excitation"]  # a network class need not know of it
    network = kind(genotype, build.pop("channels"), build.pop("cells"), build.pop("classes"),
                   **build)
    network.load_state_dict(state["weights"])
    return network.eval(), genotype


def export_onnx(path: Path, network: nn.Module, in_channels: int, image_size: int) -> None:
    """ONNX with a free batch dimension; ValueError without the optional packages."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ValueError("evaluation.export_onnx: needs `pip install onnx onnxscript`") from None
    device = next(network.parameters()).device
    example = torch.zeros(2, in_channels, image_size, image_size, device=device)
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(_Logits(network).eval(), (example,), dynamo=True, verbose=False,
                                dynamic_shapes={"x": {0: batch}})
    assert program is not None
    program.save(path)
