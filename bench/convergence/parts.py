"""Models that are trained in parts, for `--module bench.convergence.parts`.

What `tune="group"` is for: low-rank adapters beside an embedding, layers that are unfrozen late,
and two networks in one optimizer. On any other task the parts are the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torch.optim import AdamW, Optimizer

from bench.convergence.finetuning import TextFineTuning
from bench.convergence.tasks import TaskSpec
from yfkernels import YellowFin
from yfkernels.lab.workloads.digits import CLASSES, digits_conv, digits_mlp
from yfkernels.lab.workloads.text import manual_transformer
from yfkernels.lab.workloads.training import Task

RANK = 4
SCALE = 2.0  # of what an adapter adds: LoRA's alpha over its rank
FROZEN_STEPS = 200
FAINT = 1e-3  # gradients of the second network beside those of the first


class _LowRank(nn.Module):
    """Adds the product of two thin matrices to a weight (Hu et al., arXiv 2106.09685)."""

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        first = torch.randn(RANK, columns, generator=generator) / columns**0.5
        self.first = nn.Parameter(first)
        self.second = nn.Parameter(torch.zeros(rows, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + SCALE * (self.second @ self.first)


class AdapterFineTuning(TextFineTuning):
    """Adapters in every dense layer of the blocks; embedding and head are trained whole."""

    def model(self, seed: int) -> nn.Module:
        model = super().model(seed).requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        dense = [m for m in model.get_submodule("blocks").modules() if isinstance(m, nn.Linear)]
        for layer in dense:
            register_parametrization(layer, "weight", _LowRank(layer.weight, generator))
        for name in ("embedding", "head"):
            model.get_submodule(name).requires_grad_(True)
        return model


class _Unfreezing(nn.Module):
    """The head alone learns for some steps, and then all of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        for name in ("norm", "head"):
            self.model.get_submodule(name).requires_grad_(True)
        self.steps = 0

    def forward(self, tokens: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
            if self.steps > FROZEN_STEPS:
                self.model.requires_grad_(True)
        logits: Tensor = self.model(tokens)
        return logits


class LateUnfreezing(TextFineTuning):
    """Fine-tuning whose blocks and embedding begin after FROZEN_STEPS."""

    def model(self, seed: int) -> nn.Module:
        return _Unfreezing(super().model(seed))


class _Two(nn.Module):
    """Two networks for the same images; the second has a loss of another scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = digits_mlp().build_model(), digits_conv().build_model()

    def forward(self, images: Tensor) -> Tensor:
        faint = self.second(images)
        faint = FAINT * faint + (1.0 - FAINT) * faint.detach()
        return torch.cat([self.first(images), faint], dim=1)


def _both(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of their losses, both in nats."""
    first, second = logits.split(CLASSES, dim=1)
    return F.cross_entropy(first, labels) + F.cross_entropy(second, labels)


def two_networks() -> Task:
    """Digits by two networks in one optimizer."""
    title = "Handwritten digits, two networks with losses of two scales"
    return replace(digits_mlp(), title=title, build_model=_Two, criterion=_both)


def parts(model: nn.Module) -> list[list[nn.Parameter]]:
    """Adapters, or the head, and the rest; two networks; of any other model, its layers."""
    if isinstance(model, _Two):
        return [list(model.first.parameters()), list(model.second.parameters())]
    named = list(model.named_parameters())
    if isinstance(model, _Unfreezing):
        keys = [name.startswith(("model.norm", "model.head")) for name, _ in named]
        return [[p for (_, p), key in zip(named, keys) if key is part] for part in (True, False)]
    if any(".parametrizations." in name for name, _ in named):
        kept = [(name, p) for name, p in named if p.requires_grad]
        keys = [".parametrizations." in name for name, _ in kept]
        return [[p for (_, p), key in zip(kept, keys) if key is part] for part in (True, False)]
    layers: dict[str, list[nn.Parameter]] = {}
    for name, p in named:
        layers.setdefault(name.rpartition(".")[0], []).append(p)
    return list(layers.values())


def _yellowfin(model: nn.Module, *, tune: str, preconditioner: str | None = "auto") -> Optimizer:
    groups = [{"params": part} for part in parts(model)]
    return YellowFin(groups, tune=tune, preconditioner=preconditioner)


def _adamw(model: nn.Module, *, lr: float) -> Optimizer:
    return AdamW(model.parameters(), lr=lr, fused=True)


def _spec(kind: type[TextFineTuning]) -> TaskSpec:
    return TaskSpec(lambda: kind(**vars(manual_transformer())), 800, smoothing=5, has_classes=False)


TASKS: dict[str, TaskSpec] = {
    "adapter-finetuning": _spec(AdapterFineTuning),
    "late-unfreezing": _spec(LateUnfreezing),
    "two-networks": TaskSpec(two_networks, 1500, has_classes=False),
}
CONTESTANTS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "yellowfin-together": partial(_yellowfin, tune="global"),
    "yellowfin-parts": partial(_yellowfin, tune="group"),
    "robust-together": partial(_yellowfin, tune="global", preconditioner=None),
    "robust-parts": partial(_yellowfin, tune="group", preconditioner=None),
    **{f"adamw-{lr:g}": partial(_adamw, lr=lr) for lr in (3e-4, 3e-3, 1e-2)},
}
