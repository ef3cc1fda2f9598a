"""YellowFin's global options: which values go together, and what the tuner of a backend reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from yfkernels._checks import finite, require, require_number
from yfkernels.ops import rules
from yfkernels.ops.constants import STATE_FIELDS, TILE
from yfkernels.ops.rules import Rule

if TYPE_CHECKING:
    from typing_extensions import Self

_PRECONDITIONED: Mapping[str | None, Rule] = {
    "compact": rules.YELLOWFIN_COMPACT,
    "diagonal": rules.YELLOWFIN_DIAGONAL,
}

TUNER_OPTIONS = (
    *("beta", "max_norm", "initial_lr", "initial_momentum", "window", "adaptive_clip", "polyak"),
    *("log_smooth", "sparsity_debias", "sketch", "trust_ratio", "robust", "preconditioned"),
)
"""What the compiled tuner reads of them."""


@dataclass(frozen=True)
class YellowFinOptions:
    """What only YellowFin's constructor takes, by the names of its arguments.

    The properties below say the same as the tuners read it. Every name that csrc/tuner/options.h
    has is here, as an attribute or a property.

    Attributes:
        max_norm: infinity for no clip.
    """

    beta: float = 0.99
    window: int = 20
    clip: str | None = "adaptive"
    max_norm: float = math.inf
    variance: str | None = None
    momentum_form: str = "polyak"
    log_smooth: bool = True
    sparsity_debias: bool = False
    initial_lr: float = 1e-4
    initial_momentum: float = 0.0
    trust_ratio: bool = False
    robust: bool = True
    preconditioner: str | None = "compact"
    momentum_dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, **arguments: Any) -> Self:
        """From all of the constructor's arguments; None and "auto" stand for what suits the mode.

        Raises:
            TypeError, ValueError: a bad value, or two that do not go together.
        """
        chosen, robust = dict(arguments), bool(arguments["robust"])
        if chosen["beta"] is None:
            chosen["beta"] = 0.99 if robust else 0.999
        if chosen["momentum_form"] is None:
            chosen["momentum_form"] = "polyak" if robust else "buffer"
        if chosen["preconditioner"] == "auto":
            chosen["preconditioner"] = "compact" if robust else None
        if chosen["momentum_dtype"] is None:
            chosen["momentum_dtype"] = torch.float32
        bound = chosen["max_norm"]
        if bound is None:
            chosen["max_norm"] = math.inf
        else:
            require_number("max_norm", bound)
            require(finite(bound), "max_norm", bound, "finite and > 0, or None for no clip")
        return cls(**chosen)

    def __post_init__(self) -> None:
        for name in ("beta", "initial_lr", "initial_momentum"):
            require_number(name, getattr(self, name))
        self._check_each()
        if self.robust:
            self._check_robust()
        if self.preconditioned:
            self._check_preconditioned()
        for field in fields(self):  # numpy's numbers and truth values, say
            if field.type in ("float", "bool"):
                kind = float if field.type == "float" else bool
                object.__setattr__(self, field.name, kind(getattr(self, field.name)))

    def _check_each(self) -> None:
        require(0.0 <= self.beta < 1.0, "beta", self.beta, "in [0, 1)")
        window = self.window
        require(isinstance(window, int) and window >= 1, "window", window, "an integer >= 1")
        require(self.clip in ("adaptive", None), "clip", self.clip, "'adaptive' or None")
        need = "finite and > 0, or None for no clip"
        require(self.max_norm > 0.0, "max_norm", self.max_norm, need)
        ok = self.variance in ("exact", "sketch", None)
        require(ok, "variance", self.variance, "'exact' or 'sketch', or None for 'exact'")
        form = self.momentum_form
        require(form in ("buffer", "polyak"), "momentum_form", form, "'buffer' or 'polyak'")
        ok = finite(self.initial_lr) and self.initial_lr >= 0.0
        require(ok, "initial_lr", self.initial_lr, "finite and >= 0")
        momentum = self.initial_momentum
        require(0.0 <= momentum < 1.0, "initial_momentum", momentum, "in [0, 1)")
        ok = self.preconditioner in (*_PRECONDITIONED, None)
        need = "'auto', 'compact' or 'diagonal', or None for neither"
        require(ok, "preconditioner", self.preconditioner, need)
        ok = self.momentum_dtype in (torch.float32, torch.float8_e4m3fn)
        need = "torch.float32 or torch.float8_e4m3fn, or None for float32"
        require(ok, "momentum_dtype", self.momentum_dtype, need)
        ok = not self.in_float8 or self.preconditioner == "compact"
        need = "None or torch.float32 unless preconditioner='compact'"
        require(ok, "momentum_dtype", self.momentum_dtype, need)

    def _check_robust(self) -> None:
        published = "; or pass robust=False, for the published algorithm"
        way = "" if self.preconditioner == "diagonal" else published
        need = f"None in the robust mode, which keeps no average{way}"
        require(self.variance is None, "variance", self.variance, need)
        need = f"'polyak' in the robust mode{way}"
        require(self.polyak, "momentum_form", self.momentum_form, need)
        need = f"False in the robust mode, which bounds the step itself{way}"
        require(not self.trust_ratio, "trust_ratio", self.trust_ratio, need)

    def _check_preconditioned(self) -> None:
        need = "None with robust=False; the preconditioned mode is a robust one"
        require(self.robust, "preconditioner", self.preconditioner, need)
        need = (
            "False with a preconditioner, which scales rare gradients up itself; or pass "
            "preconditioner=None"
        )
        require(not self.sparsity_debias, "sparsity_debias", self.sparsity_debias, need)

    # ---- what the tuners read

    @property
    def adaptive_clip(self) -> bool:
        """Whether the statistics and the update are guarded against exploding gradients."""
        return self.clip == "adaptive"

    @property
    def polyak(self) -> bool:
        """Whether the step size is inside the velocity."""
        return self.momentum_form == "polyak"

    @property
    def sketch(self) -> bool:
        """Whether the norm of the gradient's average is estimated."""
        return self.variance == "sketch"

    @property
    def in_float8(self) -> bool:
        """Whether the velocity is kept in eight bits."""
        return self.momentum_dtype == torch.float8_e4m3fn

    @property
    def preconditioned(self) -> bool:
        """Whether all is measured in Adam's metric."""
        return self.preconditioner is not None

    # ---- what follows from them

    @property
    def rule(self) -> Rule:
        """The update that goes with the options."""
        if self.in_float8:
            return rules.YELLOWFIN_FLOAT8
        if self.preconditioned:
            return _PRECONDITIONED[self.preconditioner]
        if self.robust:
            return rules.YELLOWFIN_ROBUST
        return rules.YELLOWFIN_SKETCH if self.sketch else rules.YELLOWFIN

    @property
    def state_words(self) -> int:
        """Doubles in the tuner's state: head, windows and sketch average."""
        windows = 2 if self.preconditioned else 1
        return len(STATE_FIELDS) + windows * self.window + (TILE if self.sketch else 0)

    def in_words(self) -> dict[str, Any]:
        """By the names of the constructor's arguments, as one would write them there."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["max_norm"] = None if math.isinf(self.max_norm) else self.max_norm
        if not self.robust:
            values["variance"] = "sketch" if self.sketch else "exact"
        return values
