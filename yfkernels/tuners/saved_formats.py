"""States of YellowFin's tuner that earlier versions have saved."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from yfkernels.ops.constants import (
    DIAGNOSTICS,
    SQUARE_DECAY,
    STATE_FIELDS,
    STATE_FORMAT,
    STRETCH,
    UNIT,
)
from yfkernels.ops.options import YellowFinOptions

_FORMAT_4 = (
    *("format", "step", "skipped", "beta_power", "grad_sq_avg", "h_min_avg", "h_max_avg"),
    *("grad_norm_avg", "distance_avg", "sparsity_avg", "unread_growth", "growth", "radius"),
    *("grad_sq_sum", "recent_sq_avg", "recent_power", "unread_metric_sq", "envelope_avg"),
    *("envelope", "mean_sq_avg", "scale", "h_min", "h_max", "variance", "distance", "lr"),
    *("momentum", "grad_norm", "clip_coefficient"),
)
_FORMAT_5 = (
    *("format", "words", "robust", "preconditioned", "polyak", "log_smooth", "step", "skipped"),
    *("beta_power", "grad_sq_avg", "h_min_avg", "h_max_avg", "grad_norm_avg", "distance_avg"),
    *("sparsity_avg", "unread_growth", "unread_metric_sq", "growth", "radius", "grad_sq_sum"),
    *("recent_sq_avg", "recent_power", "envelope_avg", "envelope", "mean_sq_avg", "scale"),
    *("h_min", "h_max", "variance", "distance", "lr", "momentum", "grad_norm"),
    "clip_coefficient",
)


def upgraded(state: Tensor, options_in_state: Tensor | None, options: YellowFinOptions) -> Tensor:
    """A saved state in the present format, whichever it has.

    Args:
        state: as it was saved. Formats 4, of yfkernels 0.1.0, and 5 are brought up to date, and the
            present format without its last diagnostics; of any other format it is returned as it
            is.
        options_in_state: what format 4 kept apart: [log_smooth, polyak]. None for those of
            `options`.
        options: those of the tuner that is to read it. They stand for what a state before the first
            step does not tell.
    """
    if state.dim() != 1 or len(state) < len(_FORMAT_4):
        return state
    saved = float(state[0])
    if saved == STATE_FORMAT:
        return _with_last_fields(state)
    if saved == 5.0:
        return _of_format_5(state)
    return _of_format_4(state, options_in_state, options) if saved == 4.0 else state


def _of_format_4(
    state: Tensor, options_in_state: Tensor | None, options: YellowFinOptions
) -> Tensor:
    state = state.detach().to(torch.float64)
    head = dict(zip(_FORMAT_4, state.tolist()))
    log_smooth, polyak = (
        (options.log_smooth, options.polyak)
        if options_in_state is None
        else options_in_state.tolist()
    )
    fresh = head["step"] == 0.0
    head |= {
        "robust": options.robust if fresh else head["radius"] > 0.0,
        "preconditioned": options.preconditioned if fresh else head["scale"] > 0.0,
        "polyak": polyak,
        "log_smooth": log_smooth,
    }
    return _brought_up(head, state[len(_FORMAT_4) :])


def _of_format_5(state: Tensor) -> Tensor:
    """Of this version, but for the scale of the metric."""
    if float(state[1]) in (0.0, 1.0):  # `robust`: the first of this format did not say how many
        state = torch.cat([state[:1], state.new_tensor([len(_FORMAT_5)]), state[1:]])
    if float(state[1]) != len(_FORMAT_5) or len(state) < len(_FORMAT_5):
        return state
    return _brought_up(dict(zip(_FORMAT_5, state.tolist())), state[len(_FORMAT_5) :])


def _brought_up(head: dict[str, float], rest: Tensor) -> Tensor:
    """A state before the metric had a scale, which was 1 then and begins there."""
    head |= {"format": STATE_FORMAT, "words": len(STATE_FIELDS)}
    if head["preconditioned"] and head["step"]:
        head["relative_sq_avg"] = 1.0 - SQUARE_DECAY ** head["step"]
        head["metric_scale"] = 1.0
    head["unit"] = _unit(head)
    begin = [float(head.get(name, 0.0)) for name in STATE_FIELDS]
    first = torch.tensor(begin, dtype=torch.float64, device=rest.device)
    return torch.cat([first, rest])


def _unit(head: Mapping[str, float]) -> float:
    """What its velocities would have been counted in, had they been in float8."""
    if not head["preconditioned"]:
        return 0.0
    if not head["grad_sq_sum"]:  # before the second step
        return UNIT * STRETCH * head["scale"] * head["radius"]
    over_gradients: float = head["radius"] / head["grad_sq_sum"] ** 0.5
    return UNIT * STRETCH * head["metric_scale"] * head["scale"] * over_gradients


def _with_last_fields(state: Tensor) -> Tensor:
    """Diagnostics that it lacks are 0 until the next step."""
    words = float(state[1])
    missing = len(STATE_FIELDS) - words
    if not (0 < missing <= len(DIAGNOSTICS) and words <= len(state)):
        return state
    head, rest = state[: int(words)].clone(), state[int(words) :]
    head[1] = len(STATE_FIELDS)
    head = torch.cat([head, head.new_zeros(int(missing))])
    head[-1] = _unit(dict(zip(STATE_FIELDS, head.tolist())))
    return torch.cat([head, rest])


def accepted(saved: Tensor, options_in_state: Tensor | None, options: YellowFinOptions) -> Tensor:
    """A saved state in the present format; arguments as for `upgraded`.

    Raises:
        RuntimeError: it is no tensor, of a format that is not known, or of a tuner with other
            options.
    """
    if not isinstance(saved, Tensor):
        raise RuntimeError(f"the tuner's state is a {type(saved).__name__}, and must be a tensor")
    chosen = options.in_words()
    state = upgraded(saved, options_in_state, options)
    head = dict(zip(STATE_FIELDS, state.flatten().tolist()))
    if len(head) < len(STATE_FIELDS) or head["format"] != STATE_FORMAT:
        raise RuntimeError(
            f"the state_dict's tuner has shape {tuple(state.shape)} and format "
            f"{head.get('format')}, this version of yfkernels reads format {STATE_FORMAT}, with "
            f"{len(STATE_FIELDS)} numbers at least"
        )
    modes = {"robust": ("robust", "robust=False")}
    modes["preconditioned"] = ("a preconditioner", "preconditioner=None")
    for name, (mode, without) in modes.items():
        before, now = bool(head[name]), bool(getattr(options, name))
        if before != now:
            raise RuntimeError(
                f"the state_dict was saved {'with' if before else 'without'} {mode}, this "
                f"optimizer has robust={chosen['robust']} and preconditioner="
                f"{chosen['preconditioner']!r}: construct it as it was"
                f"{'' if before else f', with {without}'}"
            )
    for name, argument in (("log_smooth", "log_smooth"), ("polyak", "momentum_form")):
        if bool(head[name]) != bool(getattr(options, name)):
            raise RuntimeError(
                f"the state_dict was saved with another {argument}, this optimizer has "
                f"{argument}={chosen[argument]!r}: construct it as it was"
            )
    if state.shape != (options.state_words,):
        names = ("window", "preconditioner" if options.robust else "variance")
        needed = " and ".join(f"{name}={chosen[name]!r}" for name in names)
        raise RuntimeError(
            f"the state_dict's tuner has shape {tuple(state.shape)}, but {needed} need "
            f"({options.state_words},): construct the optimizer with the options it was "
            "saved with"
        )
    if not (math.isfinite(head["unit"]) and head["unit"] >= 0.0):
        raise RuntimeError(
            f"the state_dict's tuner has a unit of {head['unit']} for velocities in float8, which "
            "must be finite and not negative: the file is damaged"
        )
    return state
