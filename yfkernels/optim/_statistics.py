"""What belongs to no parameter: the tuner's state, where programs and torch look for it.

It is one float64 tensor, the same from step to step, and lives in the first parameter group under
the tuner's key: every program that copies `state` and `param_groups` copies it.
"""

from __future__ import annotations

from typing import Any

from yfkernels.tuners.tuner import Tuner

Groups = list[dict[str, Any]]


def begin(tuner: Tuner, groups: Groups) -> None:
    """Begins anew, in place."""
    tuner.clear()
    tuner.withdraw(groups)


def publish(tuner: Tuner, groups: Groups) -> None:
    """Puts the state, and what can be read, into the groups.

    Not before the first step, so that groups of new optimizers can be compared.
    """
    for group in groups[:1]:
        group[tuner.key] = tuner.state
    for group in groups[1:]:  # a copy of the first, maybe
        group.pop(tuner.key, None)
    tuner.publish(groups)


def is_published(tuner: Tuner, groups: Groups) -> bool:
    """Whether the groups have had it since a step was taken."""
    return tuner.key in groups[0]


def is_adopted(tuner: Tuner, groups: Groups) -> bool:
    """Whether the state in the groups is the tuner's."""
    return groups[0].get(tuner.key) is tuner.state


def adopt(tuner: Tuner, groups: Groups) -> None:
    """Takes over a state that a program has put into the groups, or begins anew.

    Raises:
        RuntimeError: it is not the state of such a tuner.
    """
    holders = [group for group in groups if group.get(tuner.key) is not None]
    if not holders:
        begin(tuner, groups)
    elif (found := holders[0][tuner.key]) is not tuner.state:
        tuner.state.copy_(tuner.accepted(found, holders[0]))
