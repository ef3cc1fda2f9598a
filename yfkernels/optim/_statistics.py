"""What belongs to no parameter: the tuner's state, where programs and torch look for it.

It is a float64 tensor, the same from step to step, and lives in the first of the parameter groups
that it is for, under the tuner's key: every program that copies `state` and `param_groups` copies
it. Most tuners have one for all groups; one that tunes each group for itself has one in each.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from yfkernels.tuners.tuner import SavedTuner, Tuner

Groups = list[dict[str, Any]]


def begin(tuner: Tuner, groups: Groups) -> None:
    """Begins anew, in place."""
    for part, own in tuner.parts(groups):
        part.clear()
        part.withdraw(own)


def publish(tuner: Tuner, groups: Groups) -> None:
    """Puts the state, and what can be read, into the groups.

    Not before the first step, so that groups of new optimizers can be compared.
    """
    for part, own in tuner.parts(groups):
        for group in own[:1]:
            group[tuner.key] = part.state
        for group in own[1:]:  # a copy of the first, maybe
            group.pop(tuner.key, None)
    tuner.publish(groups)


def is_published(tuner: Tuner, groups: Groups) -> bool:
    """Whether the groups have had it since a step was taken."""
    return tuner.key in groups[0]


def is_adopted(tuner: Tuner, groups: Groups) -> bool:
    """Whether the state in the groups is the tuner's, and the groups are where they were."""
    for part, own in tuner.parts(groups):  # which looks where they are
        if own[0].get(tuner.key) is not part.state:
            return False
    return tuner.in_place


def adopt(tuner: Tuner, groups: Groups) -> None:
    """Takes over a state that a program has put into the groups, or begins anew.

    Raises:
        RuntimeError: it is not the state of such a tuner.
    """
    accepted: list[tuple[SavedTuner, Groups, Tensor | None]] = []
    for part, own in tuner.parts(groups):
        holders = [group for group in own if group.get(tuner.key) is not None]
        found = holders[0][tuner.key] if holders else None
        if found is None:
            accepted.append((part, own, None))
        elif found is not part.state:
            # a copy, as it may be what another part has
            accepted.append((part, own, part.accepted(found, holders[0]).clone()))
    for part, own, state in accepted:
        if state is None:
            part.clear()
            part.withdraw(own)
        else:
            part.state.copy_(state)
            own[0][tuner.key] = part.state  # by which it is known from now on
