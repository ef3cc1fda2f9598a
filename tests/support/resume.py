"""The pattern of every resume test: cut training is bit-identical to training without the cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch
from torch import Tensor, nn

import yfkernels
from support.cases import assert_same_bits
from support.kinds import KINDS

Build = Callable[..., torch.optim.Optimizer]
Snapshot = dict[str, Any]

STEPS = 6
CUT = 3
EPOCH = 3  # steps; the frameworks save at the end of one
BATCH = 8
FEATURES = 6

# torch.optim's own go through the same steps: they prove the test.
YARDSTICKS = {
    "SGD": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "AdamW": partial(torch.optim.AdamW, lr=0.01),
}
OURS = {kind.name: partial(kind.optimizer, **kind.options) for kind in KINDS}
OURS["QHM-averages"] = partial(OURS["QHM"], average=yfkernels.WeightAverage(power=1.0, every=2))
BUILDS = {**YARDSTICKS, **OURS}


def hypergradient_descent(base: Build, params: Any, **options: Any) -> torch.optim.Optimizer:
    """HD over an optimizer of any kind."""
    return yfkernels.HD(base(params, **options))


# HD over each family of bases; beside Nesterov's momentum it keeps a tensor of its own.
_BASES = {
    "HD": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
    "HD-AdamW": YARDSTICKS["AdamW"],
    "HD-QHM": OURS["QHM"],
    "HD-QHAdam": OURS["QHAdam"],
}
WRAPPED: dict[str, Build] = {
    name: partial(hypergradient_descent, base) for name, base in _BASES.items()
}
IN_FRAMEWORKS = {**BUILDS, "HD": WRAPPED["HD"]}
# Random bits belong to an element's place in the model, which FSDP 1 and ZeRO do not tell: another
# number of processes rounds the codes otherwise, or signs the sketch. Allowed for that, some twice
# what was seen: of parameters, absolute, and of diagnostics, relative.
BY_PLACE = {"YellowFin": (0.02, 0.05), "YellowFin-float8": (0.03, 0.1)}
BY_PLACE["YellowFin-sketch"] = (2e-3, 0.25)
BY_PLACE |= {"LAMB-bytes": (0.02, 0.05), "QHAdam-bytes": (0.05, 0.05)}
# Parameters in bfloat16: with a float32 master, or rounded stochastically.
HALF = {"master": {}, "rounded": {"stochastic_rounding": True}}
FEW = ("SGD", "YellowFin", "LAMB", "QHM")  # for what hardly depends on the optimizer

# Ours, and the optimizer of torch that it is an exact case of.
EQUALS: dict[str, tuple[Build, Build]] = {
    "SGD": (
        partial(yfkernels.QHM.from_momentum, lr=0.05, momentum=0.9),
        partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    ),
    "Adam": (
        partial(yfkernels.QHAdam, lr=0.01, nus=(1.0, 1.0), betas=(0.9, 0.999)),
        partial(torch.optim.Adam, lr=0.01),
    ),
}


class Run(Protocol):
    """Trains a model made anew under a framework, and says what became of it."""

    def __call__(
        self, build: Build, *, until: int, save: Path | None = None, load: Path | None = None
    ) -> Snapshot:
        """Trains to step `until`: from the start, or from what was saved in the folder `load`."""


def make_model(
    seed: int = 0, outputs: int = 1, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(FEATURES, 9), nn.Tanh(), nn.Linear(9, outputs))
    return model.to(dtype)


def samples(steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all steps, one batch after the other."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps * BATCH, FEATURES, generator=generator)
    noise = torch.randn(steps * BATCH, 1, generator=generator)
    return x, x[:, :1].sin() + 0.1 * noise


def decaying(model: nn.Module) -> list[dict[str, Any]]:
    """Two parameter groups: matrices decay, vectors do not."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]


def batch(step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
    """The batch of a step, or a process's part of it."""
    x, y = (values.split(BATCH)[step].chunk(world)[rank] for values in samples())
    return x, y


def own_copy(value: Any, whole: bool = False) -> Any:
    """A copy of what a state_dict holds; of a DTensor the part here, or all of it."""
    if isinstance(value, Tensor):
        gather = getattr(value, "full_tensor" if whole else "to_local", lambda: value)
        return gather().detach().clone()
    if isinstance(value, Mapping):
        return {key: own_copy(item, whole) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [own_copy(item, whole) for item in value]
    return copy.copy(value)


def snapshot(model: nn.Module, optimizer: Any, whole: bool = False) -> Snapshot:
    """All that must be the same after a resume, as copies."""
    diagnostics = getattr(optimizer, "diagnostics", dict)
    return {
        "parameters": own_copy(dict(model.named_parameters()), whole),
        "state_dict": own_copy(optimizer.state_dict(), whole),
        "diagnostics": diagnostics(),
    }


def train(model: nn.Module, optimizer: Any, steps: range, rank: int = 0, world: int = 1) -> None:
    """Takes steps, with a process's part of each batch."""
    for step in steps:
        x, y = batch(step, rank, world)
        optimizer.zero_grad()
        outputs = model(x.to(next(model.parameters()).dtype)).float()
        nn.functional.mse_loss(outputs, y.expand_as(outputs)).backward()
        optimizer.step()


def assert_resumes(run: Run, build: Build, folder: Path) -> None:
    whole = run(build, until=STEPS)
    run(build, until=CUT, save=folder)
    assert_same_bits(run(build, until=STEPS, load=folder), whole)


def assert_near(seen: Mapping[str, Any], expected: Mapping[str, Any], rel: float) -> None:
    """Two optimizers have measured and tuned the same but for rounding."""
    assert seen.keys() == expected.keys()
    for key, value in seen.items():
        near = pytest.approx(expected[key], rel=rel, nan_ok=True)
        assert value == near, f"{key}: {value} for {expected[key]}"


def assert_close(a: Snapshot, b: Snapshot, atol: float = 1e-6) -> None:
    """Two optimizers that compute the same took the parameters to the same place."""
    for name, value in a["parameters"].items():
        torch.testing.assert_close(value, b["parameters"][name], rtol=1e-5, atol=atol)
