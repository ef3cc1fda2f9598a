"""What hypergradients have made of the learning rates, in words and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.optim import Optimizer

from yfkernels.optim._tuned_lr import TUNED, next_tuning
from yfkernels.optim._wording import (
    Group,
    aligned,
    class_name,
    of_parameters,
    short,
    size,
    with_notes,
)


def tuning_explained(
    tuner: object, base: Optimizer, form: str, skipped: int, of_groups: Sequence[str]
) -> str:
    """The text of `HD.explain` and `MARTHE.explain`.

    Args:
        tuner: of which class.
        base: whose learning rates it tunes.
        form: how they follow.
        skipped: steps that were refused.
        of_groups: what the tuner says of each group besides.
    """
    groups = base.param_groups
    name = f"{class_name(tuner)} over {type(base).__name__}, {form} form"
    begun = any(TUNED in group for group in groups)
    lines = [name if begun else f"{name}: no step was taken yet"]
    for index, (group, own) in enumerate(zip(groups, of_groups)):
        lines.append(f"group {index}: {size(group)}")
        lines += aligned([("learning rate", _made_of(group)), ("tuned by", own)])
    notes = list(of_parameters(groups))
    if skipped:
        notes.append(
            f"{skipped:,} steps or hypergradients were not finite and were left out: look at the "
            "loss, and at the scale of GradScaler"
        )
    for index, group in enumerate(groups):
        notes += [f"group {index}: {note}" for note in _of_rate(group)]
    return with_notes(lines, notes)


def _made_of(group: Group) -> str:
    """The factors of the learning rate."""
    lr, given, schedule = next_tuning(group)
    if not given:
        return "0, as it was given"
    factors = f"given {short(given)} x tuned {short(lr / given)}"
    factors += f" x schedule {short(schedule)}" if schedule != 1.0 else ""
    return f"{short(lr * schedule)} = {factors}"


def _of_rate(group: Group) -> Iterator[str]:
    lr, given, _ = next_tuning(group)
    if not given:
        yield "lr was given as 0, and what is tuned is a factor on it: give one to begin with"
    elif not lr:
        yield "the learning rate was tuned down to 0: begin again with a smaller hyper_lr"
