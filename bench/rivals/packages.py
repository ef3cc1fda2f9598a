"""Rivals from packages that may be installed: each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor

LR = 1e-3


def apex_adam(params: list[Tensor], *, capturable: bool) -> Any:
    """AdamW in one multi-tensor kernel a few hundred chunks."""
    return import_module("apex.optimizers").FusedAdam(params, lr=LR, capturable=capturable)


def apex_sgd(params: list[Tensor], build: object) -> Any:
    """SGD with momentum, likewise."""
    return import_module("apex.optimizers").FusedSGD(params, lr=LR, momentum=0.9)


def deepspeed_adam(params: list[Tensor], build: object) -> Any:
    """AdamW; compiles its kernels when first used."""
    return import_module("deepspeed.ops.adam").FusedAdam(params, lr=LR)


def bnb_adamw8bit(params: list[Tensor], build: object) -> Any:
    """AdamW with both moments in blocks of 8-bit numbers."""
    return import_module("bitsandbytes.optim").AdamW8bit(params, lr=LR)


def timm_adamw(params: list[Tensor], build: object) -> Any:
    """AdamW, one parameter at a time."""
    return import_module("timm.optim").AdamWLegacy(params, lr=LR, foreach=False)


def timm_sgdw(params: list[Tensor], build: object) -> Any:
    """SGD with momentum and decoupled weight decay, by foreach operations."""
    return import_module("timm.optim").SGDW(params, lr=LR, momentum=0.9, foreach=True)


def prodigy(params: list[Tensor], build: object) -> Any:
    """Adam that estimates its distance to the solution, and from it the step size."""
    return import_module("pytorch_optimizer").Prodigy(params)
