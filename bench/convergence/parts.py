"""Models that are trained in parts, for `--module bench.convergence.parts`.

What `tune="group"` is for: low-rank adapters beside an embedding, and layers that are unfrozen
late. On any other task the parts are the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torch.optim import AdamW, Optimizer

from bench.convergence.finetuning import TextFineTuning
from bench.convergence.tasks import TaskSpec
from yfkernels import YellowFin
from yfkernels.lab.workloads.text import manual_transformer

RANK = 4
SCALE = 2.0  # of what an adapter adds: LoRA's alpha over its rank
FROZEN_STEPS = 200


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


def parts(model: nn.Module) -> list[list[nn.Parameter]]:
    """Adapters and the rest; the head and the rest; of any other model, its layers."""
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


def _yellowfin(model: nn.Module, *, tune: str) -> Optimizer:
    return YellowFin([{"params": part} for part in parts(model)], tune=tune)


def _adamw(model: nn.Module, *, lr: float) -> Optimizer:
    return AdamW(model.parameters(), lr=lr, fused=True)


def _spec(kind: type[TextFineTuning]) -> TaskSpec:
    return TaskSpec(lambda: kind(**vars(manual_transformer())), 800, smoothing=5, has_classes=False)


TASKS: dict[str, TaskSpec] = {
    "adapter-finetuning": _spec(AdapterFineTuning),
    "late-unfreezing": _spec(LateUnfreezing),
}
CONTESTANTS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "yellowfin-together": partial(_yellowfin, tune="global"),
    "yellowfin-parts": partial(_yellowfin, tune="group"),
    **{f"adamw-{lr:g}": partial(_adamw, lr=lr) for lr in (3e-4, 3e-3, 1e-2)},
}
