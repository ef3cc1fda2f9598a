"""The rivals, a row each: torch's optimizers, YellowFin by hand, and those of other packages."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.speed.contestant import CLIP_BYTES, Build, Make, RaceContestant, Steppable
from bench.speed.rivals import packages
from bench.speed.rivals.per_tensor_yellowfin import PerTensorYellowFin

_COMPARED_ON_CPU = ("1x50M", "400x64")  # where targets hold ours against rivals of other packages


def _adamw(params: list[Tensor], build: Build) -> Steppable:
    return torch.optim.AdamW(params, fused=True, capturable=build.capturable)


def _sgd(*, fused: bool = False, foreach: bool = False) -> Make:
    return lambda params, build: torch.optim.SGD(
        params, lr=1e-3, momentum=0.9, fused=fused, foreach=foreach
    )


# The comments count bytes per fp32 parameter.
RIVALS = (
    RaceContestant(
        "adamw-fused",
        "AdamW fused",
        bytes_fp32=28,
        make=_adamw,
        has_capturable=True,
        essential=True,
    ),
    RaceContestant(
        "adamw-fused+clip",
        "AdamW fused + clip",
        bytes_fp32=28 + CLIP_BYTES,
        make=_adamw,
        clip=True,
        has_capturable=True,
        essential=True,
    ),
    RaceContestant(
        "sgd-fused", "SGD-m fused", bytes_fp32=20, make=_sgd(fused=True), essential=True
    ),
    RaceContestant(
        "sgd-fused+clip",
        "SGD-m fused + clip",
        bytes_fp32=20 + CLIP_BYTES,
        make=_sgd(fused=True),
        clip=True,
    ),
    # 8 decay the buffer + 12 add g to it + 12 move p
    RaceContestant("sgd-foreach", "SGD-m foreach", bytes_fp32=32, make=_sgd(foreach=True)),
    RaceContestant("sgd-loop", "SGD-m for-loop", bytes_fp32=32, make=_sgd()),
    # 4 guard norm + 12 ‖g‖² + 20 average + 12 its norm + 32 for-loop SGD
    RaceContestant(
        "yellowfin-per-tensor",
        "YellowFin per tensor",
        bytes_fp32=80,
        make=lambda params, build: PerTensorYellowFin(params),
        graphable=False,
    ),
    # 4 clip + 4 ‖p‖ + 28 moments, and the update stored over g + 4 its norm + 12 move p
    RaceContestant(
        "apex-lamb",
        "apex FusedLAMB",
        bytes_fp32=52,
        make=packages.apex_lamb,
        package="apex",
        graphable=False,
    ),
    # the state stays fp32
    RaceContestant(
        "apex-adam",
        "apex FusedAdam",
        bytes_fp32=28,
        make=packages.apex_adam,
        bytes_bf16=22,
        package="apex",
        has_capturable=True,
    ),
    RaceContestant(
        "apex-sgd",
        "apex FusedSGD-m",
        bytes_fp32=20,
        make=packages.apex_sgd,
        package="apex",
        graphable=False,
    ),
    RaceContestant(
        "deepspeed-adam",
        "DeepSpeed FusedAdam",
        bytes_fp32=28,
        make=packages.deepspeed_adam,
        package="deepspeed",
        graphable=False,
    ),
    # a byte each for both moments; tensors below 4096 elements keep them in fp32
    RaceContestant(
        "bnb-adamw8bit",
        "bitsandbytes AdamW8bit",
        bytes_fp32=16,
        make=packages.bnb_adamw8bit,
        bytes_bf16=10,
        package="bitsandbytes",
        graphable=False,
    ),
    # 8 decay p + 12 m + 8 and 12 v + 8, 8, 8 denominator + 16 move p
    RaceContestant(
        "timm-adamw",
        "timm AdamW",
        bytes_fp32=80,
        make=packages.timm_adamw,
        package="timm",
        graphable=False,
    ),
    # 8 decay p + 8 and 12 buffer + 12 move p
    RaceContestant(
        "timm-sgdw", "timm SGDW foreach", bytes_fp32=40, make=packages.timm_sgdw, package="timm"
    ),
    # 4 clip, 8 + 12 m + 8, 12 v + 8, 8 denominator + 12, 12 update + 8 norms + 12 move p
    RaceContestant(
        "timm-lamb",
        "timm LAMB foreach",
        bytes_fp32=104,
        make=packages.timm_lamb,
        package="timm",
        graphable=False,
        cpu_sizes=_COMPARED_ON_CPU,
    ),
    # no clip. 8 decay p + 8, 12 m + 8, 12 v + 8, 8, 8, 12 update + 8 norms + 8, 12 move p
    RaceContestant(
        "pytorch-optimizer-lamb",
        "pytorch_optimizer LAMB foreach",
        bytes_fp32=112,
        make=packages.pytorch_optimizer_lamb(foreach=True),
        package="pytorch_optimizer",
        graphable=False,
        cpu_sizes=_COMPARED_ON_CPU,
    ),
    # no clip. 8 decay p + 8, 12 m + 8, 12 v + 8, 8, 12 update + 8 norms + 12 move p
    RaceContestant(
        "pytorch-optimizer-lamb-loop",
        "pytorch_optimizer LAMB for-loop",
        bytes_fp32=96,
        make=packages.pytorch_optimizer_lamb(foreach=False),
        package="pytorch_optimizer",
        graphable=False,
        cpu_sizes=_COMPARED_ON_CPU,
    ),
    # no clip. 8, 12 m + 8, 12 v + 8, 8, 12, 12 update + 8 norms + 12 move p
    RaceContestant(
        "torch-optimizer-lamb",
        "torch_optimizer LAMB",
        bytes_fp32=100,
        make=packages.torch_optimizer_lamb,
        package="torch_optimizer",
        graphable=False,
        cpu_sizes=_COMPARED_ON_CPU,
    ),
    # 8, 12 d + 12, 12 move p
    RaceContestant(
        "qhoptim-qhm",
        "qhoptim QHM",
        bytes_fp32=44,
        make=packages.qhoptim_qhm,
        package="qhoptim",
        graphable=False,
        cpu_sizes=_COMPARED_ON_CPU,
    ),
    # 8, 12 m + 8, 8, 12 v + 8, 12 numerator + 8, 8, 8 denominator + 16 move p
    RaceContestant(
        "qhoptim-qhadam",
        "qhoptim QHAdam",
        bytes_fp32=108,
        make=packages.qhoptim_qhadam,
        package="qhoptim",
        graphable=False,
        cpu_sizes=_COMPARED_ON_CPU,
    ),
    # the other self-tuning one. 12, 8 numerator + 20 m + 20 v + 20 s + 12 |s| + 16, 16
    RaceContestant(
        "prodigy",
        "Prodigy (pytorch_optimizer)",
        bytes_fp32=124,
        make=packages.prodigy,
        package="pytorch_optimizer",
        graphable=False,
    ),
)
