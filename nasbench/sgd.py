"""SGD as both trainers use it: one rate for all parameters, which a schedule sets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class SGD(torch.optim.SGD):
    """torch's SGD. On a GPU one fused kernel, whose rate is a tensor there, so that a recorded
    step follows the schedule; its momentum starts as zeros, which gives the same first step."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, rate: float, momentum: float,
                 weight_decay: float, nesterov: bool = False, fused: bool | None = None):
        parameters = list(parameters)
        device = parameters[0].device
        fused = device.type == "cuda" if fused is None else fused
        held: float | Tensor = torch.tensor(rate, device=device) if fused else rate
        super().__init__(parameters, lr=held, momentum=momentum, weight_decay=weight_decay,
                         nesterov=nesterov, fused=fused)
        self._rate = rate
        self._fill()

    def _fill(self) -> None:
        """A fused step takes the momentum of all its parameters or of none."""
        for group in self.param_groups:
            for p in group["params"] if group["fused"] and group["momentum"] else ():
                if self.state[p].get("momentum_buffer") is None:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    @property
    def rate(self) -> float:
        return self._rate

    @rate.setter
    def rate(self, value: float) -> None:
        self._rate = value
        for group in self.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The momentum only: how this device steps, and at which rate, is not the checkpoint's."""
        own = super().state_dict()["param_groups"]
        super().load_state_dict({"state": state_dict["state"], "param_groups": own})
        self._fill()
