"""Why the last step of an optimizer was what it was, in words and numbers, and what looks wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from yfkernels.ops.constants import GATE, STATE_FIELDS, STRETCH
from yfkernels.ops.options import YellowFinOptions
from yfkernels.optim._planner import params_of
from yfkernels.optim._wording import (
    Line,
    aligned,
    class_name,
    named,
    of_parameters,
    short,
    size,
    some,
    with_notes,
)
from yfkernels.tuners.gate import Gate
from yfkernels.tuners.groupwise import GroupwiseTuner
from yfkernels.tuners.lr_watch import HARDLY_MOVES
from yfkernels.tuners.yellowfin import YellowFinTuner

if TYPE_CHECKING:
    from yfkernels.optim._fused import FusedOptimizer

_SHORT_CLIP = 0.1  # of the gradient that a clip leaves
_NEAR = 0.1  # of the travel, where the parameters are now
_SETTLED = 100  # steps by which they have come further than assumed, as a rule
_TUNERS = (YellowFinTuner, GroupwiseTuner)
_ACTIVE, _GRAD_SCALE = (GATE.index(name) for name in ("active", "grad_scale"))

Values = dict[str, float]


def explained(optimizer: FusedOptimizer) -> str:
    """The text of `FusedOptimizer.explain`."""
    if isinstance(optimizer._tuner, GroupwiseTuner):
        lines, notes = _of_each_group(optimizer, optimizer._tuner)
    else:
        lines, notes = _of_all_groups(optimizer, optimizer._tuner)
    notes += _of_groups(optimizer, tunes=isinstance(optimizer._tuner, _TUNERS))
    notes += of_parameters(optimizer.param_groups)
    return with_notes(lines, notes)


def _of_all_groups(optimizer: FusedOptimizer, tuner: Any) -> tuple[list[str], list[str]]:
    found = dict(optimizer.diagnostics())
    tunes = isinstance(tuner, YellowFinTuner)
    if tunes:
        found = dict(zip(STATE_FIELDS, tuner.state.tolist())) | found
    lines, groups = [_header(optimizer, found)], optimizer.param_groups
    if not _has_moved(optimizer, found):
        return lines, list(_of_silence(optimizer, groups, found)) if tunes else []
    told = [("gradient", _gradient(found))]
    if tunes:
        told = _of_tuner(tuner, float(groups[0]["lr"]), found)
    told += _groups(optimizer, tuner.lrs(groups))
    return lines + aligned(told), list(_of_numbers(found, skipped_last=_skipped_last(tuner)))


def _of_each_group(optimizer: FusedOptimizer, whole: GroupwiseTuner) -> tuple[list[str], list[str]]:
    lines, notes = [f"{class_name(optimizer)}, each group tuned for itself"], []
    groups = optimizer.param_groups
    whole.parts(groups)  # brings the tuners into their order
    for index, (tuner, group) in enumerate(zip(whole.tuners, groups)):
        found = dict(zip(STATE_FIELDS, tuner.state.tolist())) | tuner.diagnostics([group])
        taken = _taken(found) if found["step"] else "no step was taken yet" + _skipped(found)
        still = ", stands still" if float(group["lr"]) == 0.0 else ""
        lines.append(f"group {index}: {size(group)}, {taken}{still}")
        if found["step"]:
            lines += aligned(_of_tuner(tuner, float(group["lr"]), found))
        if found["step"]:
            looks = _of_numbers(found, skipped_last=_skipped_last(tuner))
        else:
            looks = _of_silence(optimizer, [group], found)
        notes += [f"group {index}: {note}" for note in looks]
    return lines, notes


def _has_moved(optimizer: FusedOptimizer, found: Values) -> bool:
    steps = found.get("step")
    return bool(optimizer.state) if steps is None else steps > 0.0


def _skipped_last(tuner: YellowFinTuner | Gate) -> bool:
    """Whether the last step was refused, of one that has been taken."""
    row = tuner.coefficients_on(torch.device("cpu"))[:1].flatten().tolist()
    return len(row) > 0 and row[_ACTIVE] == 0.0 and row[_GRAD_SCALE] != 0.0


def _header(optimizer: FusedOptimizer, found: Values) -> str:
    name = class_name(optimizer)
    if not _has_moved(optimizer, found):
        return f"{name}: no step was taken yet{_skipped(found)}"
    return f"{name}, {_taken(found)}" if "step" in found else name + _skipped(found)


def _taken(found: Values) -> str:
    return f"{int(found['step']):,} steps taken{_skipped(found)}"


def _skipped(found: Values) -> str:
    skipped = int(found["skipped_steps"])
    return f", {skipped:,} skipped" if skipped else ""


# ---- the numbers


def _of_tuner(tuner: YellowFinTuner, lr: float, found: Values) -> list[Line]:
    options = tuner.options
    lines = [("step size", f"{short(found['lr'])}{_made_of(options, lr, found)}")]
    lines.append(("momentum", _momentum(found)))
    if options.robust:
        where = " in the metric" if options.preconditioned else ""
        words = f"as far as the parameters have come at least{where}, or were assumed to at first"
        travel, now = short(found["radius"]), short(_distance(found))
        lines.append(("travel", f"{travel}, {words}; now {now}"))
    return [*lines, ("gradient", _gradient(found))]


def _made_of(options: YellowFinOptions, lr: float, found: Values) -> str:
    """The factors of the step size; lr, which a schedule may have changed since, is one of them."""
    if not options.robust:
        return ", SingleStep's times lr"
    if options.preconditioned and not found["grad_sq_sum"]:
        return ", as long as a first step is: a percent of the parameters' size"
    momentum = found.get("target_momentum", found["momentum"])  # a closed loop leaves lr as it is
    others = {"(1 - momentum)": 1.0 - momentum}
    if options.preconditioned:
        others["gradient's root mean square"] = found["scale"]
        others["metric's"] = found["metric_scale"]
    others["travel"] = found["radius"]
    gradients = math.sqrt(found["grad_sq_sum"])
    stretch = STRETCH if options.preconditioned else 1.0
    rest = stretch * math.prod(others.values()) / gradients
    used = found["lr"] / rest if rest else lr
    now = "" if math.isclose(used, lr, rel_tol=0.01) else f" (now {short(lr)})"
    factors = [f"lr {short(used)}{now}", *(f"{name} {short(x)}" for name, x in others.items())]
    if options.preconditioned:
        factors.insert(0, f"{STRETCH:g}")
    return f" = {' x '.join(factors)} / gradients so far {short(gradients)}"


def _distance(found: Values) -> float:
    """What the last look at the parameters' growth says of how far they are from their start."""
    return math.sqrt(max(abs(found["growth"]) - found["walk"], 0.0))


def _momentum(found: Values) -> str:
    wanted = found.get("target_momentum", found["momentum"])
    words = (
        f"{short(wanted)}, SingleStep's for distance {short(found['distance'])}, variance "
        f"{short(found['variance'])}, curvature from {short(found['h_min'])} to "
        f"{short(found['h_max'])}"
    )
    if "target_momentum" not in found:
        return words
    return (
        f"{short(found['momentum'])}, corrected for a mean staleness of "
        f"{found['staleness']:.1f}; wanted {words}"
    )


def _gradient(found: Values) -> str:
    norm, clip = found["grad_norm"], found.get("clip_coefficient", 1.0)
    if math.isnan(norm):
        if found["skipped_steps"]:
            return "its norm has not been finite so far"
        return "its norm is not measured: there is no clip that needs it"
    return f"norm {short(norm)}" + (f", clipped to {100 * clip:.3g}% of it" if clip < 1.0 else "")


def _groups(optimizer: FusedOptimizer, lrs: list[float]) -> list[Line]:
    lines = []
    for index, (group, lr) in enumerate(zip(optimizer.param_groups, lrs)):
        still = lr == 0.0 and float(group["lr"]) == 0.0
        moves = "stands still" if still else f"step size {short(lr)}"
        lines.append(("" if index else "groups", f"{index}: {size(group)}, {moves}"))
    return lines


# ---- what looks wrong


def _of_silence(
    optimizer: FusedOptimizer, groups: list[dict[str, Any]], found: Values
) -> Iterator[str]:
    """Of groups that have taken no step, though their state was made for one."""
    begun = optimizer._layout.begun
    if any(begun(optimizer.state.get(param)) for param in params_of(groups)):
        if found["skipped_steps"]:
            yield "no gradient so far was finite: look at the loss, and at the scale of GradScaler"
        else:
            yield "every gradient so far was 0 in every element: nothing can be learnt from it"


def _of_numbers(found: Values, *, skipped_last: bool) -> Iterator[str]:
    skipped, steps = found["skipped_steps"], found.get("step", math.inf)
    if skipped and math.isnan(found["grad_norm"]):
        yield "no gradient so far was finite: look at the loss, and at the scale of GradScaler"
    elif skipped and skipped_last and found["grad_norm"]:
        yield (
            "the last step was skipped, as its gradient was not finite; what is said of a step is "
            "of the one before"
        )
    if skipped >= steps:
        yield (
            f"{int(skipped):,} steps were skipped and {int(steps):,} taken: gradients are not "
            "finite more often than not; look at the loss, and at the scale of GradScaler"
        )
    travel = found.get("radius", 0.0)
    if steps >= _SETTLED and travel > 0.0 and _distance(found) < _NEAR * travel:
        yield (
            f"the step is that of a travel of {short(travel)}, and the parameters' lengths tell "
            f"of {short(_distance(found))}: they have turned back, or have not come as far as was "
            "assumed at first"
        )
    if found["grad_norm"] == 0.0:
        yield "the last gradient was 0 in every element: nothing can be learnt from it"
    if found.get("clip_coefficient", 1.0) < _SHORT_CLIP:
        yield "the last gradient was far larger than those before it; is there a broken batch?"


def _of_groups(optimizer: FusedOptimizer, *, tunes: bool) -> Iterator[str]:
    groups = optimizer.param_groups
    lrs = [float(group["lr"]) for group in groups]
    largest = max(*lrs, *(float(group.get("initial_lr", 0.0)) for group in groups))
    if not any(lrs):
        yield "lr is 0 in every group: the next step moves nothing"
    elif tunes and largest <= HARDLY_MOVES:
        yield (
            f"lr {short(largest)} looks like a learning rate; here it multiplies the step size "
            "that is tuned: leave it out, or set 1.0"
        )
    if optimizer.state and (idle := _without_gradient(optimizer)):
        yield f"{len(idle)} parameters have never had a gradient: {some(idle)}"


def _without_gradient(optimizer: FusedOptimizer) -> list[str]:
    """Names, or positions, of those that ask for one."""
    begun = optimizer._layout.begun
    return [
        name
        for name, param in named(optimizer.param_groups)
        if param.requires_grad and not begun(optimizer.state.get(param))
    ]
