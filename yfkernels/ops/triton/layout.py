"""Where every number stands in the table and in the backends' buffers, for use inside kernels.

A function instead of constants: Triton would compare each constant with its first value at every
launch, and leave constants of another module out of the key of its compilation cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from yfkernels.ops import constants
from yfkernels.ops.rules import RULES, BiasCorrection, Stored
from yfkernels.ops.tangents import FAMILIES, PROJECTED, PROJECTION, TANGENTS

_RECORDS = tl.constexpr(
    {
        "row": constants.ROW,
        "slot": constants.SUMS,
        "state": constants.STATE_FIELDS,
        "group": constants.GROUP_FIELDS,
        "gate_state": constants.GATE_STATE,
        # how the coefficients of all rules begin, and of those that the gate decides on
        "gate": constants.GATE,
        "settings": constants.SETTINGS,
        **{rule.name: rule.fields for rule in RULES},
        # and those of all families of tangents
        "tangents": TANGENTS,
        **{family.name: family.fields for family in FAMILIES},
        "projection": PROJECTION,
        "projected": PROJECTED,
    }
)
_NUMBERS = tl.constexpr(constants.numbers())
_CORRECTIONS = tl.constexpr({correction.name: correction.value for correction in BiasCorrection})


@triton.constexpr_function
def at(field: str) -> int:
    """The place of a field in its record: at("state.lr")."""
    record, name = field.split(".")
    place: int = _RECORDS.value[record].index(name)
    return place


@triton.constexpr_function
def size(record: str) -> int:
    """How many words a record takes."""
    return len(_RECORDS.value[record])


@triton.constexpr_function
def bias_correction(name: str) -> int:
    """The number of a BiasCorrection."""
    number: int = _CORRECTIONS.value[name]
    return number


@triton.constexpr_function
def is_in_float8(stored: int) -> bool:
    """Of a Stored: whether the first state is."""
    return Stored(stored).in_float8


@triton.constexpr_function
def is_moments(stored: int) -> bool:
    """Of a Stored: whether the first is in units of the last one's root."""
    return stored == Stored.MOMENTS


@triton.constexpr_function
def code_shift(stored: int) -> int:
    """Of a Stored's codes: the bits that they lack of a float32's."""
    return Stored(stored).code_format[0]


@triton.constexpr_function
def code_base(stored: int) -> int:
    """Of a Stored's codes: the bits of the least number."""
    return Stored(stored).code_format[1]


@triton.constexpr_function
def number(name: str) -> float:
    """One of the numbers in ops/constants.py."""
    value: float = _NUMBERS.value[name]
    return value
