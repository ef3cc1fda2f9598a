"""The tuner's options and memory as the backends see them; mirrors csrc/tuner.h word for word."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MEASURED = ("grad_sq", "avg_dot_grad", "avg_sq", "nonzero", "count")
"""What a measurement leaves in each slot: sums over the elements the slot has seen."""

SUMS = (*MEASURED, "start_sq")
"""A slot. The first of a table also has ‖p‖² before step 0."""

TILE = 4096
"""Buckets of the sketch."""

STATE_FORMAT = 5.0
OPTIONS_IN_STATE = ("robust", "preconditioned", "polyak", "log_smooth")
"""Options, as 0 or 1, that say what the other numbers of a saved state mean."""

MOVE_SUMS = ("unread_growth", "unread_metric_sq")
"""What an update leaves: by how much ‖p‖² grew, and with a preconditioner Σ d²/q, q its metric."""

STATE_FIELDS = (
    "format",
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
    def move_sums(self) -> int:
        """How many of MOVE_SUMS the tuner wants."""
        return 2 if self.preconditioned else 1 if self.robust else 0


_FORMAT_4 = (
    *("format", "step", "skipped", "beta_power", "grad_sq_avg", "h_min_avg", "h_max_avg"),
    *("grad_norm_avg", "distance_avg", "sparsity_avg", "unread_growth", "growth", "radius"),
    *("grad_sq_sum", "recent_sq_avg", "recent_power", "unread_metric_sq", "envelope_avg"),
    *("envelope", "mean_sq_avg", "scale", "h_min", "h_max", "variance", "distance", "lr"),
    *("momentum", "grad_norm", "clip_coefficient"),
)


def upgraded(state: Tensor, options_in_state: Tensor | None, options: TunerOptions) -> Tensor:
    """A saved state in the present format, whichever it has.

    Args:
        state: as it was saved. Format 4, of yfkernels 0.1.0, is brought up to date; of any other
            format it is returned as it is.
        options_in_state: what format 4 kept apart: [log_smooth, polyak]. None for those of
            `options`.
        options: those of the tuner that is to read it. They stand for what a state before the first
            step does not tell.
    """
    if state.dim() != 1 or len(state) < len(_FORMAT_4) or float(state[0]) != 4.0:
        return state
    state = state.detach().to(torch.float64)
    head = dict(zip(_FORMAT_4, state.tolist()))
    log_smooth, polyak = (
        (options.log_smooth, options.polyak)
        if options_in_state is None
        else options_in_state.tolist()
    )
    fresh = head["step"] == 0.0
    head |= {
        "format": STATE_FORMAT,
        "robust": options.robust if fresh else head["radius"] > 0.0,
        "preconditioned": options.preconditioned if fresh else head["scale"] > 0.0,
        "polyak": polyak,
        "log_smooth": log_smooth,
    }
    begin = [float(head[name]) for name in STATE_FIELDS]
    first = torch.tensor(begin, dtype=torch.float64, device=state.device)
    return torch.cat([first, state[len(_FORMAT_4) :]])
