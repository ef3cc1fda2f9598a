"""The tuner's options and memory as the backends see them; mirrors csrc/tuner.h word for word."""

from __future__ import annotations

from dataclasses import dataclass

MEASURED = ("grad_sq", "avg_dot_grad", "avg_sq", "nonzero", "count")
"""What a measurement leaves in each slot: sums over the elements the slot has seen."""

GAUGES = ("growth", "metric_sq")
"""What an update leaves: by how much ‖p‖² grew, and with a preconditioner Σ d²/q, q its metric."""

SUMS = (*MEASURED, *GAUGES, "start_sq")
"""A slot. The first of a table also has what the last update gauged, and ‖p‖² before the first."""

TILE = 4096
"""Buckets of the sketch."""

STATE_FORMAT = 4.0
STATE_FIELDS = (
    "format",
    "step",
    "skipped",
    "beta_power",
    "grad_sq_avg",
    "h_min_avg",
    "h_max_avg",
    "grad_norm_avg",
    "distance_avg",
    "sparsity_avg",
    "unread_growth",
    "growth",
    "radius",
    "grad_sq_sum",
    "recent_sq_avg",
    "recent_power",
    "unread_metric_sq",
    "envelope_avg",
    "envelope",
    "mean_sq_avg",
    "scale",
    "h_min",
    "h_max",
    "variance",
    "distance",
    "lr",
    "momentum",
    "grad_norm",
    "clip_coefficient",
)
"""The head of the tuner's float64 state. The window follows it, then a second one with a
preconditioner, or the sketch's average."""

GROUP_FIELDS = ("lr", "weight_decay", "decoupled", "sign")
"""What the user sets per parameter group."""


@dataclass(frozen=True)
class TunerOptions:
    """The global options of YellowFin in the form the backends take.

    Attributes:
        beta: smoothing of every average.
        max_norm: manual clip; infinity for none.
        initial_lr: step size of step 0.
        initial_momentum: momentum of step 0.
        window: steps of the curvature window.
        adaptive_clip: the three guards of clip="adaptive".
        polyak: momentum_form="polyak".
        log_smooth: smooth the logarithm of the curvature range.
        sparsity_debias: scale the statistics by the share of non-zero gradient entries.
        sketch: variance="sketch".
        trust_ratio: moves are scaled in a second pass, which needs the velocity of the first.
        robust: bound the curvature range, and lr by the distance travelled.
        preconditioned: the robust mode in Adam's metric.
    """

    beta: float
    max_norm: float
    initial_lr: float
    initial_momentum: float
    window: int
    adaptive_clip: bool
    polyak: bool
    log_smooth: bool
    sparsity_debias: bool
    sketch: bool
    trust_ratio: bool
    robust: bool
    preconditioned: bool

    @property
    def state_words(self) -> int:
        """Doubles in the tuner's state: head, windows and sketch average."""
        windows = 2 if self.preconditioned else 1
        return len(STATE_FIELDS) + windows * self.window + (TILE if self.sketch else 0)

    @property
    def gauges(self) -> int:
        """How many of GAUGES the tuner wants."""
        return 2 if self.preconditioned else 1 if self.robust else 0
def upgraded(state, options_in_state, options): return state  # TEMP
