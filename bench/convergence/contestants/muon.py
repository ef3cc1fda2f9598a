"""Muon for the hidden matrices of a model, AdamW for all its other parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from bench.convergence.contestants.contestant import LRS, TrainingContestant
from yfkernels.lab.recipes import Recipe


def hidden_weights(model: nn.Module) -> list[nn.Parameter]:
    """The matrices and kernels that Muon's authors give it.

    Not those of the first and the last layer, nor embeddings (github.com/KellerJordan/Muon: "the
    input embedding, final output layer, and any internal gains or biases should be optimized using
    a standard method"; of a conv net "all the convolutional filters except the first one"). Modules
    stand in the order in which they are used.
    """
    layers = [
        module
        for module in model.modules()
        if any(param.ndim >= 2 for param in module.parameters(recurse=False))
    ]
    embeddings = [module for module in layers if isinstance(module, nn.Embedding)]
    outer = {
        param
        for module in (*layers[:1], *layers[-1:], *embeddings)
        for param in module.parameters(recurse=False)
    }
    return [param for param in model.parameters() if param.ndim >= 2 and param not in outer]


class MuonAndAdamW(Optimizer):
    """torch's Muon and AdamW as one optimizer, at one learning rate.

    Kernels of convolutions are seen as matrices, a row for each output, as Muon's own code does.

    Args:
        model: gives the parameters.
        lr: of both; Muon scales its steps to the size of AdamW's.

    Raises:
        ImportError: this torch has no Muon.
    """

    def __init__(self, model: nn.Module, *, lr: float) -> None:
        from torch.optim import Muon  # since 2.9

        hidden = hidden_weights(model)
        others = [param for param in model.parameters() if all(param is not one for one in hidden)]
        groups = [{"params": params} for params in (hidden, others) if params]
        super().__init__(groups, {"lr": lr})
        self._matrices = [(param, nn.Parameter(param.detach().flatten(1))) for param in hidden]
        self._parts: list[Optimizer] = []
        if hidden:
            matrices = [matrix for _, matrix in self._matrices]
            self._parts.append(Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw"))
        if others:
            self._parts.append(AdamW(others, lr=lr, fused=True))

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Any:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for param, matrix in self._matrices:  # which share their elements
            matrix.grad = None if param.grad is None else param.grad.flatten(1)
        for group, part in zip(self.param_groups, self._parts):
            part.param_groups[0]["lr"] = group["lr"]  # a schedule may have changed it
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """That of both."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        for group, part, state in zip(self.param_groups, self._parts, state_dict["parts"]):
            part.load_state_dict(state)
            group["lr"] = part.param_groups[0]["lr"]


def muon() -> Iterator[TrainingContestant]:
    """At torch's defaults, and tuned."""
    recipe = Recipe("Muon", MuonAndAdamW, {"lr": 1e-3})
    row = TrainingContestant("muon", "Muon with AdamW", recipe=recipe, optimizer="muon")
    yield row
    yield replace(row, name="muon-tuned", label="Muon with AdamW (lr tuned)", search=(LRS,))
