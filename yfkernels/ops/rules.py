"""The update rules as the backends see them; mirrors csrc/rules.h word for word."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from yfkernels.ops.constants import ABSOLUTE_CODES, GATE, RELATIVE_CODES, SETTINGS


class Stored(IntEnum):
    """How a rule's states are kept."""

    FLOATS = 0
    """In float32."""
    CODES = 1
    """But the last in 8-bit codes, relative to a scale."""
    FLOAT8 = 2
    """And the first in float8."""
    MOMENTS = 3
    """The last in codes without a scale, and the first in float8, in units of its root."""

    @property
    def coded(self) -> bool:
        """Whether the last state is kept in codes."""
        return self != Stored.FLOATS

    @property
    def in_float8(self) -> bool:
        """Whether the first state is kept in float8."""
        return self in (Stored.FLOAT8, Stored.MOMENTS)

    @property
    def code_format(self) -> tuple[int, int]:
        """Of its codes: the bits that they lack of a float32's, and those of the least number."""
        return ABSOLUTE_CODES if self == Stored.MOMENTS else RELATIVE_CODES


@dataclass(frozen=True)
class Rule:
    """How parameters follow from gradients and state.

    Attributes:
        id: number of the rule in csrc/rules.h.
        name: as in "yellowfin".
        state_names: what it keeps of each tensor, in columns from Column.STATE on.
        fields: its coefficients for each parameter group.
        counts: whether it needs to know how many steps a tensor has taken.
        move_sums: sums over all elements that its update leaves for the tuner.
        stored: how its states are kept.
    """

    id: int
    name: str
    state_names: tuple[str, ...]
    fields: tuple[str, ...]
    counts: bool = False
    move_sums: int = 0
    stored: Stored = Stored.FLOATS

    @property
    def states(self) -> int:
        """State columns it keeps."""
        return len(self.state_names)


_YELLOWFIN_FIELDS = (
    *GATE,
    "coupled_decay",
    "momentum",
    "velocity_gain",
    "velocity_keep",
    "param_keep",
    "param_gain",
    "average_decay",
    "average_gain",
    "update_clip",
    "shortfall",
    "unit",
    "unit_change",
    "lr",
)
YELLOWFIN = Rule(0, "yellowfin", ("momentum_buffer", "grad_avg"), fields=_YELLOWFIN_FIELDS)
YELLOWFIN_SKETCH = Rule(1, "yellowfin_sketch", ("momentum_buffer",), fields=_YELLOWFIN_FIELDS)
QHM = Rule(2, "qhm", ("momentum_buffer",), fields=(*SETTINGS, "beta", "nu"))
QHADAM = Rule(
    3,
    "qhadam",
    ("exp_avg", "exp_avg_sq"),
    fields=(*SETTINGS, "beta1", "beta2", "nu1", "nu2", "eps"),
    counts=True,
)
LAMB = Rule(
    4,
    "lamb",
    ("exp_avg", "exp_avg_sq"),
    fields=(
        *SETTINGS,
        "beta1",
        "beta2",
        "beta3",
        "eps",
        "correction",
        "adapts",
        "norm_min",
        "norm_max",
        "ratio_min",
        "ratio_max",
    ),
    counts=True,
)
YELLOWFIN_ROBUST = Rule(
    5, "yellowfin_robust", ("momentum_buffer",), fields=_YELLOWFIN_FIELDS, move_sums=1
)
YELLOWFIN_DIAGONAL = Rule(
    6,
    "yellowfin_diagonal",
    ("momentum_buffer", "exp_avg_sq"),
    fields=_YELLOWFIN_FIELDS,
    counts=True,
    move_sums=2,
)
YELLOWFIN_COMPACT = Rule(
    7,
    "yellowfin_compact",
    ("momentum_buffer", "exp_avg_sq_codes"),
    fields=_YELLOWFIN_FIELDS,
    counts=True,
    move_sums=2,
    stored=Stored.CODES,
)
YELLOWFIN_FLOAT8 = replace(
    YELLOWFIN_COMPACT,
    id=8,
    name="yellowfin_float8",
    state_names=("momentum_codes", "exp_avg_sq_codes"),
    stored=Stored.FLOAT8,
)
QHADAM_BYTES = replace(
    QHADAM,
    id=9,
    name="qhadam_bytes",
    state_names=("exp_avg_codes", "exp_avg_sq_codes"),
    stored=Stored.MOMENTS,
)
LAMB_BYTES = replace(
    LAMB, id=10, name="lamb_bytes", state_names=QHADAM_BYTES.state_names, stored=Stored.MOMENTS
)
RULES = (
    YELLOWFIN,
    YELLOWFIN_SKETCH,
    QHM,
    QHADAM,
    LAMB,
    YELLOWFIN_ROBUST,
    YELLOWFIN_DIAGONAL,
    YELLOWFIN_COMPACT,
    YELLOWFIN_FLOAT8,
    QHADAM_BYTES,
    LAMB_BYTES,
)


class Measure(IntEnum):
    """What a reading pass over the gradients sums, besides their squares."""

    NORM = 0
    AVERAGE = 1
    SKETCH = 2


class BiasCorrection(IntEnum):
    """Where Adam's correction of the moments' bias goes."""

    NONE = 0
    MOMENTS = 1
    LR = 2
