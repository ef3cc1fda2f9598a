"""Optimizers whose step can be differentiated in closed form, as a hypergradient tuner needs it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from yfkernels._checks import require
from yfkernels.ops.rules import QHADAM_BYTES
from yfkernels.ops.tangents import ADAM, MOMENTUM, PLAIN, Family, Projection, preconditioned, stored
from yfkernels.optim.qhadam import QHAdam
from yfkernels.optim.qhm import QHM

Group = dict[str, Any]
Coefficients = dict[str, float]


class ClosedForm(Protocol):
    """A kind of optimizer, seen as one of the families of ops/tangents.py."""

    def check(self, group: Group) -> None:
        """Raises ValueError if an option of a group leaves the closed form."""
        ...

    def family(self, group: Group) -> Family:
        """The family of a group's steps."""
        ...

    def decay(self, group: Group) -> tuple[float, float]:
        """Weight decay: (in the gradient, beside it)."""
        ...

    def writes_gradients(self, group: Group) -> bool:
        """Whether a step may write into the gradients."""
        ...

    def coefficients(self, group: Group, *, begun: bool, step: int) -> Coefficients:
        """What the family wants besides its head, for the step that comes.

        Args:
            group: the parameter group.
            begun: whether the tensor has slots already.
            step: number of the step, from 1; of no meaning where the optimizer counts none.
        """
        ...

    def recall(self, group: Group, step: int) -> tuple[Projection, Coefficients] | None:
        """How the slots tell the direction of the last step, of that number; None if they don't."""
        ...


class _SGD:
    def check(self, group: Group) -> None:
        pass

    def family(self, group: Group) -> Family:
        return MOMENTUM if group["momentum"] else PLAIN

    def decay(self, group: Group) -> tuple[float, float]:
        return float(group["weight_decay"]), 0.0

    def writes_gradients(self, group: Group) -> bool:
        # torch's foreach form adds the buffer to them; None: torch chooses a form by the device
        may_be_foreach = group["foreach"] is not False and not group.get("fused")
        return bool(group["nesterov"]) and may_be_foreach

    def coefficients(self, group: Group, *, begun: bool, step: int) -> Coefficients:
        momentum = float(group["momentum"])
        if not momentum:
            return {}
        plain, averaged = (1.0, momentum) if group["nesterov"] else (0.0, 1.0)
        fresh = 1.0 - float(group["dampening"]) if begun else 1.0
        return {"momentum": momentum, "fresh": fresh, "plain": plain, "averaged": averaged}

    def recall(self, group: Group, step: int) -> tuple[Projection, Coefficients] | None:
        if not group["momentum"] or group["nesterov"]:
            return None
        return stored(MOMENTUM.slot(0)), {}


class _QHM:
    def check(self, group: Group) -> None:
        _refuse_clip(group)

    def family(self, group: Group) -> Family:
        return MOMENTUM

    def decay(self, group: Group) -> tuple[float, float]:
        return _decay(group, bool(group["decoupled_weight_decay"]))

    def writes_gradients(self, group: Group) -> bool:
        return False

    def coefficients(self, group: Group, *, begun: bool, step: int) -> Coefficients:
        beta, nu = float(group["beta"]), float(group["nu"])
        return {"momentum": beta, "fresh": 1.0 - beta, "plain": 1.0 - nu, "averaged": nu}

    def recall(self, group: Group, step: int) -> tuple[Projection, Coefficients] | None:
        return None


class _Adam:
    """torch's Adam, and QHAdam, of which it is a special case."""

    def check(self, group: Group) -> None:
        require(not group.get("amsgrad"), "amsgrad", True, "False: a maximum has no closed form")
        _refuse_clip(group)

    def family(self, group: Group) -> Family:
        return ADAM

    def decay(self, group: Group) -> tuple[float, float]:
        return _decay(group, bool(group.get("decoupled_weight_decay", False)))

    def writes_gradients(self, group: Group) -> bool:
        return False

    def coefficients(self, group: Group, *, begun: bool, step: int) -> Coefficients:
        beta1, beta2 = map(float, group["betas"])
        nu1, nu2 = map(float, group.get("nus", (1.0, 1.0)))
        return {
            "beta1": beta1,
            "fresh1": 1.0 - beta1,
            "beta2": beta2,
            "fresh2": 1.0 - beta2,
            "plain1": 1.0 - nu1,
            "averaged1": nu1 / (1.0 - beta1**step),
            "plain2": 1.0 - nu2,
            "averaged2": nu2 / (1.0 - beta2**step),
            "eps": float(group["eps"]),
        }

    def recall(self, group: Group, step: int) -> tuple[Projection, Coefficients] | None:
        known = self.coefficients(group, begun=True, step=step)
        if known["plain1"] or known["plain2"]:
            return None
        named = ("averaged1", "averaged2", "eps")
        return preconditioned(ADAM.slot(0)), {name: known[name] for name in named}


class _AdamW(_Adam):
    def decay(self, group: Group) -> tuple[float, float]:
        return _decay(group, decoupled=True)


def _decay(group: Group, decoupled: bool) -> tuple[float, float]:
    decay = float(group["weight_decay"])
    return (0.0, decay) if decoupled else (decay, 0.0)


def _refuse_clip(group: Group) -> None:
    clip = group.get("max_norm")
    require(not clip, "max_norm", clip, "None: a clip has no closed form")


_FORMS: dict[type[Optimizer], ClosedForm] = {
    SGD: _SGD(),
    Adam: _Adam(),
    AdamW: _AdamW(),
    QHM: _QHM(),
    QHAdam: _Adam(),
}


def closed_form(base: Optimizer, owner: str) -> ClosedForm:
    """How the step of an optimizer is differentiated.

    Args:
        base: the optimizer, or one of a subclass that leaves the step to its parent.
        owner: who asks, for messages.

    Raises:
        TypeError: `base` is no optimizer, none of those with a closed form, or steps otherwise.
        ValueError: it keeps its moments in bytes.
    """
    kind = type(base)
    known = next((parent for parent in kind.__mro__ if parent in _FORMS), None)
    if known is not None and _own_steps(kind, known) is None:
        in_bytes = isinstance(base, QHAdam) and base._rule == QHADAM_BYTES
        require(not in_bytes, "state_bits", 8, f"32: {owner} reads the moments in float32")
        return _FORMS[known]
    rooms = {"torch": "torch.optim", "yfkernels": "yfkernels"}
    names = [f"{rooms[each.__module__.partition('.')[0]]}.{each.__name__}" for each in _FORMS]
    unknown = "others"
    if known is not None:
        unknown = (
            f"a subclass with a {_own_steps(kind, known)} of its own, which may step otherwise"
        )
    raise TypeError(
        f"Invalid base type: {kind.__module__}.{kind.__qualname__}; {owner} wraps an optimizer and "
        f"knows how the steps of {', '.join(names)} depend on the learning rate, but not those of "
        f"{unknown}: give it one of them, such as {owner}(torch.optim.SGD(params, lr))"
    )


def _own_steps(kind: type, known: type) -> str | None:
    """What a subclass has replaced of its parent's step and of the private parts of it."""
    for name in dir(known):
        is_private = name.startswith("_") and not name.startswith("__")
        if (name == "step" or is_private) and _unhooked(kind, name) is not _unhooked(known, name):
            return name
    return None


def _unhooked(kind: type, name: str) -> object:
    """An attribute of a class, without the wrapper that torch puts around step()."""
    found = inspect.getattr_static(kind, name)
    return found.__wrapped__ if getattr(found, "hooked", False) else found


def steps_of(
    state: Mapping[Tensor, Mapping[str, Any]], params: Sequence[Tensor]
) -> dict[Tensor, int]:
    """How many steps each of these parameters has taken, where the optimizer counts them."""
    counts = {p: state[p]["step"] for p in params if "step" in state.get(p, {})}
    if not counts:
        return {}
    device = next(iter(counts.values())).device
    together = torch.stack([count.to(device) for count in counts.values()])
    return dict(zip(counts, map(int, together.flatten().tolist())))  # waits once
