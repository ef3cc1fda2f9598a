"""Where every number stands in the table and in the backends' buffers, for use inside kernels.

A function instead of constants: Triton would compare each constant with its first value at every
launch, and leave constants of another module out of the key of its compilation cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from yfkernels.ops.rules import GATE_STATE, METRIC_FLOOR, QHM, RULES, YELLOWFIN, BiasCorrection
from yfkernels.ops.table import COLUMNS, ROW_WORDS, Column
from yfkernels.ops.tuner import GROUP_FIELDS, STATE_FIELDS, SUMS

_columns = [column.name.lower() for column in sorted(Column)]
_spare = [""] * (COLUMNS - len(_columns))
_RECORDS = tl.constexpr(
    {
        "row": ("numel", "group", "origin", *_columns, *_spare),
        "slot": SUMS,
        "state": STATE_FIELDS,
        "group": GROUP_FIELDS,
        "gate_state": GATE_STATE,
        # how the coefficients of all rules begin, and of those that the gate decides on
        "gate": YELLOWFIN.fields[:2],
        "settings": QHM.fields[: QHM.fields.index("beta")],
        **{rule.name: rule.fields for rule in RULES},
    }
)
assert len(_RECORDS.value["row"]) == ROW_WORDS
_METRIC_FLOOR = tl.constexpr(METRIC_FLOOR)
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
def metric_floor() -> float:
    """METRIC_FLOOR of the rules."""
    floor: float = _METRIC_FLOOR.value
    return floor
