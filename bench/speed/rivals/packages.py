"""Rivals from packages that may be installed: each is imported when it is asked for."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

from torch import Tensor

from bench.speed.contestant import Build, Make

LR = 1e-3
LAMB_WEIGHT_DECAY = 0.01  # without it timm and apex would leave out the norms


def apex_adam(params: list[Tensor], build: Build) -> Any:
    """AdamW in one multi-tensor kernel a few hundred chunks."""
    return import_module("apex.optimizers").FusedAdam(params, lr=LR, capturable=build.capturable)


def apex_sgd(params: list[Tensor], build: Build) -> Any:
    """SGD with momentum, likewise."""
    return import_module("apex.optimizers").FusedSGD(params, lr=LR, momentum=0.9)


def apex_lamb(params: list[Tensor], build: Build) -> Any:
    """LAMB with clipping, likewise; the update is stored over the gradient."""
    return import_module("apex.optimizers").FusedLAMB(
        params, lr=LR, weight_decay=LAMB_WEIGHT_DECAY, max_grad_norm=1.0
    )


def deepspeed_adam(params: list[Tensor], build: Build) -> Any:
    """AdamW; compiles its kernels when first used."""
    return import_module("deepspeed.ops.adam").FusedAdam(params, lr=LR)


def bnb_adamw8bit(params: list[Tensor], build: Build) -> Any:
    """AdamW with both moments in blocks of 8-bit numbers."""
    return import_module("bitsandbytes.optim").AdamW8bit(params, lr=LR)


def timm_adamw(params: list[Tensor], build: Build) -> Any:
    """AdamW, one parameter at a time."""
    return _timm("adamw").AdamWLegacy(params, lr=LR, foreach=False)


def timm_sgdw(params: list[Tensor], build: Build) -> Any:
    """SGD with momentum and decoupled weight decay, by foreach operations."""
    return _timm("sgdw").SGDW(params, lr=LR, momentum=0.9, foreach=True)


def timm_lamb(params: list[Tensor], build: Build) -> Any:
    """LAMB with clipping, by foreach operations: its quicker form, on a CPU too."""
    return _timm("lamb").Lamb(
        params, lr=LR, weight_decay=LAMB_WEIGHT_DECAY, max_grad_norm=1.0, foreach=True
    )


def pytorch_optimizer_lamb(*, foreach: bool) -> Make:
    """LAMB after the paper's third version: no debiasing of v, no clip."""
    return lambda params, build: import_module("pytorch_optimizer").Lamb(
        params, lr=LR, weight_decay=LAMB_WEIGHT_DECAY, foreach=foreach
    )


def torch_optimizer_lamb(params: list[Tensor], build: Build) -> Any:
    """The same, one parameter at a time and with two readings by the host each."""
    return import_module("torch_optimizer").Lamb(params, lr=LR, weight_decay=LAMB_WEIGHT_DECAY)


def qhoptim_qhm(params: list[Tensor], build: Build) -> Any:
    """The authors' QHM, one parameter at a time."""
    return _qhoptim().QHM(params, lr=1.0, momentum=0.999, nu=0.7)


def qhoptim_qhadam(params: list[Tensor], build: Build) -> Any:
    """The authors' QHAdam, one parameter at a time."""
    return _qhoptim().QHAdam(params, lr=LR, nus=(0.7, 1.0), betas=(0.995, 0.999))


def prodigy(params: list[Tensor], build: Build) -> Any:
    """Adam that estimates its distance to the solution, and from it the step size."""
    return import_module("pytorch_optimizer").Prodigy(params)


def _timm(module: str) -> ModuleType:
    """A module of timm.optim, which needs torch alone.

    The packages around it are left hollow: they import torchvision, which loads only beside the
    very build of torch that it was made for.
    """
    for package in ("timm", "timm.optim"):
        if package not in sys.modules:
            spec = find_spec(package)
            assert spec is not None
            sys.modules[package] = module_from_spec(spec)
    return import_module(f"timm.optim.{module}")


def _qhoptim() -> ModuleType:
    """The authors' package, of 2019; torch warns of how it calls `add_`."""
    warnings.filterwarnings("ignore", message="This overload of add_ is deprecated")
    return import_module("qhoptim.pyt")
