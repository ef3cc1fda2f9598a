"""Options of parameter groups: what they may be, and the numbers that a tuner makes of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from yfkernels._checks import finite, require, require_number
from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.rules import Rule

Group = dict[str, Any]
WHOLE = ("average", "tune")  # options that are of the whole optimizer, and saved in the groups


@dataclass(frozen=True)
class GroupOptions:
    """How an optimizer reads its parameter groups.

    Attributes:
        check: raises ValueError or TypeError for a group with a bad option; that of lr and
            weight_decay, which all optimizers have, comes before it.
        values: the numbers that the tuner takes, from a group and its learning rate.
        defining: names of the options without which saved state has no meaning.
        notice: says what is strange about groups that are all right each for itself, and returns
            whether it has; called when options have changed, until it has.
    """

    check: Callable[[Group], None]
    values: Callable[[Group, float], list[float]]
    defining: frozenset[str]
    notice: Callable[[list[Group]], bool] | None = None

    def check_all(self, group: Group) -> None:
        """Raises ValueError or TypeError for a bad option."""
        lr, decay = group["lr"], group["weight_decay"]
        require_number("lr", lr)
        require_number("weight_decay", decay)
        if isinstance(lr, Tensor):
            require(lr.numel() == 1, "lr", lr, "a float: Tensor lr must be 1-element")
        if not (isinstance(lr, Tensor) and lr.is_cuda):  # a look at it would wait for the device
            require(finite(lr) and float(lr) >= 0.0, "lr", lr, "finite and >= 0")
        require(finite(decay) and decay >= 0.0, "weight_decay", decay, "finite and >= 0")
        self.check(group)

    def check_numbered(self, index: int, group: Group) -> None:
        """The same, and the error says which group it is."""
        try:
            self.check_all(group)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} (parameter group {index})") from None


def make_average_plain(group: Group) -> None:
    """Wrappers that repeat an optimizer's options in its groups put the object there."""
    if isinstance(group.get("average"), WeightAverage):
        group["average"] = group["average"].settings()


def settings(rule: Rule, group: Group, lr: float, **own: float) -> list[float]:
    """The coefficients of a rule whose coefficients are the user's settings.

    Args:
        rule: the rule.
        group: the parameter group.
        lr: its learning rate.
        own: the rule's own fields, and max_norm if it clips.
    """
    sign = -1.0 if group["maximize"] else 1.0
    values = {
        "active": 1.0,
        "grad_scale": sign,
        "sign": sign,
        "max_norm": math.inf,
        "lr": lr,
        "weight_decay": float(group["weight_decay"]),
        "decoupled": 1.0 if group["decoupled_weight_decay"] else 0.0,
        **own,
    }
    return [values[name] for name in rule.fields]


class GroupReader:
    """Reads the groups in every step, and looks at what was assigned since the last one.

    Args:
        options: how.
        names: of the options; torch and wrappers put other things into groups.
    """

    def __init__(self, options: GroupOptions, names: Sequence[str]) -> None:
        self._options = options
        self._names = tuple(names)
        self._checked: dict[int, list[Any]] = {}  # each group's options when last looked at
        self._notice = options.notice

    def read(
        self, groups: list[Group], defaults: Group, *, lr_on_device: bool
    ) -> tuple[list[list[float]], dict[int, Tensor]]:
        """The tuner's numbers for each group; and, by group, lrs that must stay on the device.

        Args:
            groups: the live parameter groups.
            defaults: for options that a wrapper has not loaded.
            lr_on_device: whether a learning rate on a device is to be read there, by kernels.
        """
        values, device_lrs = [], {}
        news = [self._check_again(index, group, defaults) for index, group in enumerate(groups)]
        if self._notice is not None and any(news) and self._notice(groups):
            self._notice = None
        for index, group in enumerate(groups):
            lr = group["lr"]
            if isinstance(lr, Tensor) and lr.is_cuda and lr_on_device:
                device_lrs[index], lr = lr, 0.0
            values.append(self._options.values(group, float(lr)))
        return values, device_lrs

    def _check_again(self, index: int, group: Group, defaults: Group) -> bool:
        """Whether there was something new; a NaN, for one, would reach every parameter."""
        options = [group.get(name) for name in self._names]
        known = self._checked.get(index, ())
        if len(known) == len(options) and all(map(operator.is_, options, known)):
            lr = group["lr"]
            if not isinstance(lr, Tensor) or lr.is_cuda:
                return False  # one on the host may have been written in place
        make_average_plain(group)
        for name in self._names:
            group.setdefault(name, defaults[name])
        for name in WHOLE:
            if name in defaults:
                value, whole = group[name], defaults[name]
                require(value == whole, name, value, f"{whole!r}, as in the whole optimizer")
        self._options.check_numbered(index, group)
        self._checked[index] = [group.get(name) for name in self._names]
        return True
