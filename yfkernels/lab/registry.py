"""The optimizers of this package, a row each: the command, the benchmarks and the tests read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from yfkernels import LAMB, QHM, QHAdam, YellowFin
from yfkernels.optim.param_groups import param_groups

Factory = Callable[..., Optimizer]


@dataclass(frozen=True)
class Variant:
    """A way to run an optimizer that keeps other state or moves other bytes.

    Attributes:
        name: tells it from the other variants in results and on the command line of benchmarks;
            empty where the optimizer's name alone stands for it.
        words: the same for people; empty where the optimizer's name is enough.
        options: what selects it.
        state: names of its state for each parameter.
        bytes_fp32: bytes that a step reads and writes per float32 parameter; None if the speed
            benchmark does not run it.
        bytes_bf16: the same for bfloat16 parameters and gradients, with float32 state and a master
            copy.
        is_trained: whether the convergence benchmark trains it, if the optimizer tunes its step.
    """

    name: str
    words: str
    options: Mapping[str, Any]
    state: frozenset[str]
    bytes_fp32: int | None = None
    bytes_bf16: int | None = None
    is_trained: bool = True


@dataclass(frozen=True, eq=False)
class Registration:
    """One optimizer.

    Attributes:
        name: what the command calls it.
        optimizer: the class.
        factory: makes it from a model and options.
        variants: the default first.
        tunes_step: whether it finds its step size itself; lr is then a multiplier.
        batch_exponent: by the usual rule lr grows as the batch size to this power: 1 where the
            gradient is not rescaled, 1/2 where it is, 0 where lr multiplies a tuned step size.
        start: the options that a user would start from.
    """

    name: str
    optimizer: type[Optimizer]
    factory: Factory
    variants: tuple[Variant, ...]
    tunes_step: bool
    batch_exponent: float
    start: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.optimizer.__name__

    def key_of(self, variant: Variant) -> str:
        """A variant's name in results and on the command line of the benchmarks."""
        return f"{self.name}-{variant.name}" if variant.name else self.name

    def label_of(self, variant: Variant) -> str:
        """A variant's name for people."""
        return f"{self.label} ({variant.words})" if variant.words else self.label


def over_parameters(optimizer: Callable[..., Optimizer], **fixed: Any) -> Factory:
    """A factory that gives the optimizer all parameters of the model, in one group."""
    return lambda model, **options: optimizer(model.parameters(), **{**fixed, **options})


def _lamb(model: nn.Module, **options: Any) -> Optimizer:
    """LAMB with weight decay for matrices only."""
    if "weight_decay" not in options:  # the default is the preset's
        options["weight_decay"] = LAMB(model.parameters(), **options).defaults["weight_decay"]
    return LAMB(param_groups(model, options["weight_decay"]), **options)


_BUFFER = frozenset(("momentum_buffer",))
_BUFFER_AND_AVERAGE = frozenset(("momentum_buffer", "grad_avg"))
_BUFFER_AND_SQUARES = frozenset(("momentum_buffer", "exp_avg_sq", "step"))
_BUFFER_AND_CODES = frozenset(("momentum_buffer", "exp_avg_sq_codes", "step"))
_CODES = frozenset(("momentum_codes", "exp_avg_sq_codes", "step"))
_MOMENTS = frozenset(("exp_avg", "exp_avg_sq", "step"))
_MOMENT_CODES = frozenset(("exp_avg_codes", "exp_avg_sq_codes", "step"))

# Bytes: measure + update, in float32; in bfloat16, where g is 2 bytes, p 2 and its master copy 8.
_YELLOWFIN = (
    # the squares in a byte: 4 + 22; 2 + 24
    Variant("compact", "default", {}, _BUFFER_AND_CODES, 26, 26),
    # the velocity as well: 4 + 16; 2 + 18
    Variant("float8", "default, float8", {"momentum_dtype": torch.float8_e4m3fn}, _CODES, 20, 20),
    # 4 + 20; 2 + 22
    Variant("robust", "one step size", {"preconditioner": None}, _BUFFER, 24, 24),
    # Adam's columns: 4 + 28; 2 + 30
    Variant("diagonal", "diagonal", {"preconditioner": "diagonal"}, _BUFFER_AND_SQUARES, 32, 32),
    # 8 + 28; 6 + 30
    Variant("published", "published", {"robust": False}, _BUFFER_AND_AVERAGE, 36, 36),
    # 4 + 20; 2 + 22
    Variant(
        "sketch",
        "published, sketch",
        {"robust": False, "variance": "sketch"},
        _BUFFER,
        24,
        24,
        is_trained=False,
    ),
    Variant(
        "trust",
        "published, trust ratio",
        {"robust": False, "trust_ratio": True},
        _BUFFER_AND_AVERAGE,
        is_trained=False,
    ),
)
_LAMB = (
    # 4 clip + 24 moments and norms + 16 apply; 2 + 24 + 20
    Variant("", "", {}, _MOMENTS, 44, 46),
    Variant("unclipped", "no clip", {"max_grad_norm": None}, _MOMENTS, 40, 44),
    # in a byte each: 4 + 12 + 10; 2 + 12 + 14
    Variant("bytes", "8 bits", {"state_bits": 8}, _MOMENT_CODES, 26, 28),
)

_QHM = (Variant("", "", {}, _BUFFER, 20, 22),)
_QHADAM = (
    Variant("", "", {}, _MOMENTS, 28, 30),
    # in a byte each: 16; 18
    Variant("bytes", "8 bits", {"state_bits": 8}, _MOMENT_CODES, 16, 18),
)

OPTIMIZERS = (
    Registration(
        "yellowfin",
        YellowFin,
        over_parameters(YellowFin),
        _YELLOWFIN,
        tunes_step=True,
        batch_exponent=0.0,
    ),
    Registration(
        "lamb",
        LAMB,
        _lamb,
        _LAMB,
        tunes_step=False,
        batch_exponent=0.5,
        start={"lr": 0.01},
    ),
    Registration(
        "qhm",
        QHM,
        over_parameters(QHM),
        _QHM,
        tunes_step=False,
        batch_exponent=1.0,
        start={"lr": 1.0},
    ),
    Registration(
        "qhadam",
        QHAdam,
        over_parameters(QHAdam),
        _QHADAM,
        tunes_step=False,
        batch_exponent=0.5,
        start={"lr": 0.001},
    ),
)
# Every variant of every optimizer.
VARIANTS = tuple((row, variant) for row in OPTIMIZERS for variant in row.variants)
