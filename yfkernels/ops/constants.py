"""Numbers and layouts that more than one language must know.

csrc/ has them too and exports them by name; `native.loading` compares both sides when the compiled
module is loaded. The Triton kernels and the torch backend read them here. A tuple of names is the
layout of a record of numbers: one word each, in this order.
"""

from __future__ import annotations

from typing import Any

# ---- the tensor table

ROW = (
    *("numel", "group", "origin"),
    *("grad", "param", "master", "step", "average", "state", *("",) * 5),
)
"""A row: a tensor's length, parameter group and place in the model; then addresses of columns,
of which those from "state" on are the states of its rule."""

COLUMNS = 11
HEAD = len(ROW) - COLUMNS

# ---- measurements

TILE = 4096
"""Elements of a tile, and buckets of the sketch."""

MEASURED = ("grad_sq", "avg_dot_grad", "avg_sq", "nonzero", "count")
"""What a measurement leaves in each slot: sums over the elements the slot has seen."""

SUMS = (*MEASURED, "start_sq")
"""A slot. The first of a table also has ‖p‖² before step 0."""

# ---- the gate

GATE = ("active", "grad_scale")
"""How the coefficients of every rule begin."""

SETTINGS = (*GATE, "sign", "max_norm", "lr", "weight_decay", "decoupled")
"""How those begin that are the user's settings."""

GATE_STATE = ("grad_norm", "skipped")
"""What the gate remembers: the norm of the last step that counted, and the steps refused."""

# ---- YellowFin's tuner

STATE_FORMAT = 6.0
OPTIONS_IN_STATE = ("robust", "preconditioned", "polyak", "log_smooth")
"""Options, as 0 or 1, that say what the other numbers of a saved state mean."""

MOVE_SUMS = ("unread_growth", "unread_metric_sq")
"""What an update leaves: by how much ‖p‖² grew, and with a preconditioner Σ d²/q, q its metric.
There the growth is counted as if every group took steps as long as the longest."""

DIAGNOSTICS = (
    *("h_min", "h_max", "variance", "distance"),
    *("lr", "momentum", "grad_norm", "clip_coefficient"),
)
"""What the last step measured and used. A new one comes last: a state that was saved before says
in "words" that it lacks it."""

STATE_FIELDS = (
    *("format", "words"),
    *OPTIONS_IN_STATE,
    "step",
    "skipped",
    "beta_power",
    "grad_sq_avg",
    "h_min_avg",
    "h_max_avg",
    "grad_norm_avg",
    "distance_avg",
    "sparsity_avg",
    *MOVE_SUMS,
    "growth",
    "radius",
    "grad_sq_sum",
    "recent_sq_avg",
    "recent_power",
    "envelope_avg",
    "envelope",
    "mean_sq_avg",
    "scale",
    "relative_sq_avg",
    "metric_scale",
    "walk",
    "unread_walk",
    *DIAGNOSTICS,
    "unit",
)
"""The head of the tuner's float64 state. The window follows it, then a second one with a
preconditioner, or the sketch's average."""

GROUP_FIELDS = ("lr", "weight_decay", "decoupled", "sign")
"""What the user sets per parameter group."""

EPSILON = 1e-6  # e of the reference, and of torch.nn.utils.clip_grad_norm_
TINY = 1e-30  # in its place in the robust mode, which has no scale
LARGEST_CUBIC = 1e300
ENVELOPE_GUARD = 10.0  # statistics may see at most 10 sqrt(h_max)
WIDEST_RANGE = 30.0  # h_max / h_min at most, in the robust mode
FIRST_RADIUS = 1e-3  # of 1 + ‖x_0‖
RECENT = 0.9  # of the average that spikes are told from
SPIKE = 2.0  # ‖g‖ over its recent size that counts as one
SPIKE_STEPS = 10  # before any is told
LARGEST_MOVE = 100.0  # lr * ‖g‖ of one step, adaptive clipping only
SQUARE_DECAY = 0.999  # of the averages of squares, as in Adam
LEAST_MOMENTUM = 0.5  # with a preconditioner
FIRST_TRAVEL = 1e-2  # of (1 + ‖x_0‖) / sqrt(n), with a preconditioner
STRETCH = 2.0  # how many times as long as the distance says a step is, with a preconditioner
UNIT = 16.0  # of a velocity in float8, in the longest travel

# ---- the rules

METRIC_FLOOR = 2.0**-16
"""What the preconditioned update adds to the root of an average square."""

# ---- random bits, 8-bit codes and float8

MIX_1, MIX_2 = 0x7FEB352D, 0x846CA68B  # the hash's multipliers
WEYL = 0x9E3779B1
# Bits that a code lacks of a float32's, and those of the number that the least one stands for.
RELATIVE_SHIFT, RELATIVE_BASE = 21, 90 << 23  # 2^-37
ABSOLUTE_SHIFT, ABSOLUTE_BASE = 22, 47 << 23  # 2^-80
RELATIVE_CODES = (RELATIVE_SHIFT, RELATIVE_BASE)
ABSOLUTE_CODES = (ABSOLUTE_SHIFT, ABSOLUTE_BASE)
LARGEST_FLOAT8 = 1.75
MOMENT_UNIT = 70  # of the exponent of a first moment's unit, beyond half the second one's

_COMPARED = (
    *("TILE", "COLUMNS", "STATE_FORMAT", "EPSILON", "TINY", "LARGEST_CUBIC", "ENVELOPE_GUARD"),
    *("WIDEST_RANGE", "FIRST_RADIUS", "RECENT", "SPIKE", "SPIKE_STEPS", "LARGEST_MOVE"),
    *("SQUARE_DECAY", "LEAST_MOMENTUM", "FIRST_TRAVEL", "STRETCH", "UNIT", "METRIC_FLOOR"),
    *("MIX_1", "MIX_2", "WEYL", "LARGEST_FLOAT8", "MOMENT_UNIT"),
    *("RELATIVE_SHIFT", "RELATIVE_BASE", "ABSOLUTE_SHIFT", "ABSOLUTE_BASE"),
)


def numbers() -> dict[str, Any]:
    """The numbers that both languages have, by name."""
    return {name: globals()[name] for name in _COMPARED}
