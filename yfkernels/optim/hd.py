"""HD: the learning rate of any optimizer with a closed form, by hypergradient descent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from yfkernels._checks import check_positive, require
from yfkernels.ops.table import TensorTable
from yfkernels.ops.tangents import ADAM, Family, Projection, stored
from yfkernels.optim._base_steps import BaseSteps
from yfkernels.optim._closed_forms import closed_form, steps_of
from yfkernels.optim._standing import Standing
from yfkernels.optim._tangents import (
    AS_STORED,
    WHOLE,
    Member,
    Passes,
    coefficients_by_place,
    gather,
    recall_head,
)
from yfkernels.optim._tuned_lr import TUNED, begin_step, last_tuning, learn, tuned_lr
from yfkernels.optim._tuning_explanation import tuning_explained
from yfkernels.optim._wording import short
from yfkernels.optim._wrapper import Wrapper
from yfkernels.sharding.processes import Division
from yfkernels.sharding.shards import ShardGroup, Sharding, grad_part, like, local
from yfkernels.tuners.hypergradient import NORMALIZED, Normalized, normalized_step

FORMS = ("normalized", "multiplicative", "additive")
OWN = "lr_derivative"  # in the state of a parameter: B of its last step
SKIPPED = "skipped_steps"  # in a group
STATE = "tuning"  # likewise: of the normalized form
HYPER_LR = {"normalized": NORMALIZED, "multiplicative": 0.02, "additive": 1e-6}
ADAM_HYPER_LR = 1e-8  # additive

_Recalled = tuple[Projection, Mapping[str, float]]


class _Kind(NamedTuple):
    """How the steps of a group are differentiated, and whether its slots forget the last one."""

    family: Family
    forgets: bool


class _Taken(NamedTuple):
    """A step: whose, by the identity of each parameter, and of what kind in each group."""

    owners: list[int]
    kinds: list[_Kind]


class HD(Wrapper):
    r"""Hypergradient descent: the learning rate follows the gradient that it has itself.

    The last step moved the parameters by lr B, B = -u - weight_decay w its direction. The next
    gradient g tells how the loss would have changed with a longer step, and lr goes there:

        normalized       lr <- lr exp(-hyper_lr c / sqrt(sum of all c²)),  c = <g, B> / (‖g‖ ‖B‖),
                         or exp(-3 c) where training is unstable: a brake, see below
        multiplicative   lr <- lr (1 - hyper_lr c)
        additive         lr <- max(lr - hyper_lr <g, B>, 0)

    The brake acts where c > 0 and ‖g‖ grows by half in a step, and five times as much as it usually
    changes.

    It wraps an optimizer and is one: `backward()`, then `step()`. Groups and state are the base's.
    `group["lr"]` stays what the user or a schedule makes it; the learning rate in use is in
    `group["tuned_lr"]` and `diagnostics()`, and a schedule acts as a factor on it: what is tuned is
    the rate where the schedule is at its largest, and a step that the schedule has made small
    weighs as little. A step costs one sum over all tensors more, and waits for it.

    A step whose gradient is not finite, or too large for the square of its norm to be a float32,
    changes nothing and is counted.

    Args:
        base: torch.optim.SGD, Adam or AdamW, or QHM or QHAdam of this package, without amsgrad and
            max_norm. Its learning rates are where the tuning begins.
        form: "normalized" and "multiplicative" do not depend on the scale of the loss; "additive"
            is the paper's.
        hyper_lr: step size of the learning rate, below 1 in the multiplicative form. Default: 0.3;
            multiplicative 0.02; additive 1e-6, and 1e-8 for Adam.
        backend: "auto", "native", "triton" or "torch".
        process_group: the processes that hold the other parts of the model, if the parameters do
            not say so themselves as DTensors (FSDP2) do.

    Raises:
        TypeError: the base has no closed form.
        ValueError: an option out of its range.

    Memory: none for Adam, AdamW and SGD with plain momentum; one number a parameter for the others.

    Source: Baydin et al., "Online learning rate adaptation with hypergradient descent", ICLR 2018.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> opt = HD(torch.optim.AdamW(model.parameters(), lr=1e-4))
        >>> for _ in range(2):
        ...     opt.zero_grad()
        ...     model(torch.ones(1, 4)).square().sum().backward()
        ...     opt.step()
        >>> opt.diagnostics()["lr"][0] > 1e-4
        True
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        form: str = "normalized",
        hyper_lr: float | None = None,
        backend: str = "auto",
        process_group: Any = None,
    ) -> None:
        self._form = closed_form(base, "HD")
        require(form in FORMS, "form", form, f"one of {', '.join(FORMS)}")
        self._tuning_form = form
        self.hyper_lr = hyper_lr
        for group in base.param_groups:
            self._form.check(group)
        super().__init__(base)
        self._passes = Passes(backend)
        self._division = Division(process_group)
        self._steps = BaseSteps(base, "HD")
        self._standing: Standing | None = None
        self._last = _Taken([], [])

    def _check_group(self, group: dict[str, Any]) -> None:
        self._form.check(group)

    @property
    def form(self) -> str:
        """How the learning rate follows."""
        return self._tuning_form

    @property
    def hyper_lr(self) -> float | None:
        """Step size of the learning rate; None: the form's default."""
        return self._hyper_lr

    @hyper_lr.setter
    def hyper_lr(self, value: float | None) -> None:
        if value is not None:
            check_positive("hyper_lr", value)
            fits = self.form != "multiplicative" or value < 1.0
            require(fits, "hyper_lr", value, "below 1, or a step could turn lr negative")
        self._hyper_lr = value

    # ---- the step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the base at a learning rate that the gradient has corrected.

        Args:
            closure: computes the loss with its gradients and returns it.
        """
        self._steps.check_owner()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._form.check(group)
        members, sharding, table = self._found()
        if not members and not sharding:
            return loss
        for group in self.param_groups:
            self._begin(group)
        sums = self._passes.project(members, len(self.param_groups), sharding, table)
        if not all(math.isfinite(each["e_sq"]) for each in sums):
            for group in self.param_groups:
                group[SKIPPED] = group.get(SKIPPED, 0) + 1
            return loss
        for group, each in zip(self.param_groups, sums):
            learn(group, self._next_lr(group, each))
            begin_step(group)
        kinds = self._kinds()
        kept = [m for m in members if kinds[m.group].forgets]
        if table is None:
            self._make_room(kept)
        self._passes.own_derivatives(kept, table)
        self._steps.take()
        if table is None:
            for m in kept:  # only now: Adam takes a state that has anything in it for its own
                self.state[m.owner].setdefault(OWN, like(m.owner, m.columns[m.family.tangent()]))
            self._stand(members, sharding)
        return loss

    # ---- who takes part

    def _kinds(self) -> list[_Kind]:
        """Of each group."""
        groups = self.param_groups
        return [_Kind(self._form.family(g), self._form.recall(g, 1) is None) for g in groups]

    def _found(self) -> tuple[list[Member], Sharding, TensorTable | None]:
        """The members of this step, how they are split, and the table in which they stand."""
        standing = self._standing if self._last.kinds == self._kinds() else None
        if standing is not None and standing.holds(self.param_groups, self.state):
            self._instruct(standing.members)
            return standing.members, WHOLE, standing.table
        self._standing = None
        shards = {
            p: self._division.shard_group(p) for group in self.param_groups for p in group["params"]
        }
        return self._members(shards), self._sharding(shards), None

    def _stand(self, members: list[Member], sharding: Sharding) -> None:
        """After two steps of the same members the next ones look for what has changed alone."""
        now = _Taken([id(m.owner) for m in members], self._kinds())
        again, self._last = now == self._last, now
        if not again or sharding or len(set(now.kinds)) != 1:
            return
        family, forgets = now.kinds[0]
        states = [(name, family.slot(k)) for k, name in enumerate(family.slots)]
        states += [(OWN, family.tangent())] if forgets else []
        self._standing = Standing.of(members, self._passes, self.param_groups, self.state, states)

    def _instruct(self, members: list[Member]) -> None:
        """What the passes of this step do with members that stand."""
        steps = steps_of(self.state, [m.owner for m in members])
        coefficients = coefficients_by_place(self._form, self.param_groups, _last_lr)
        recalled = self._recalled_by_place()
        for m in members:
            m.taken = steps.get(m.owner, 0)
            m.step = coefficients(m.group, bool(m.family.slots), m.taken)
            known = recalled(m.group, max(m.taken, 1))
            m.projection, m.recall = known or (stored(m.family.tangent()), AS_STORED)

    def _members(self, shards: Mapping[Tensor, ShardGroup | None]) -> list[Member]:
        """The parameters with gradients, and what is known of their last step."""
        grads = {
            p: grad_part(p.grad, p)
            for group in self.param_groups
            for p in group["params"]
            if p.grad is not None
        }
        members = gather(self._form, self.base, grads, _last_lr)
        recalled = self._recalled_by_place()
        for m in members:
            m.shard = shards[m.owner]
            known = recalled(m.group, max(m.taken, 1))
            if known is not None and m.columns:
                m.projection, m.recall = known
            elif (own := self.state.get(m.owner, {}).get(OWN)) is not None:
                m.columns[m.family.tangent()] = local(own)
                m.projection = stored(m.family.tangent())
        return members

    def _recalled_by_place(self) -> Callable[[int, int], _Recalled | None]:
        """How slots tell the direction of the last step, if they do: by group and number."""

        @cache
        def at(index: int, step: int) -> _Recalled | None:
            group = self.param_groups[index]
            recalled = self._form.recall(group, step)
            if recalled is None:
                return None
            projection, given = recalled
            return projection, recall_head(given, self._form.decay(group), _last_lr(group))

        return at

    def _make_room(self, members: list[Member]) -> None:
        """For what tells the direction of this step, and for slots that are to come."""
        for m in members:
            wanted = [m.family.tangent(), *map(m.family.slot, range(len(m.family.slots)))]
            for column in wanted:
                if column not in m.columns:
                    m.columns[column] = torch.zeros_like(m.param)

    def _sharding(self, shards: Mapping[Tensor, ShardGroup | None]) -> Sharding:
        """How the parameters are split over processes, the same on each."""
        groups = dict.fromkeys(shards.values())
        between = next((self._division.between(shards, p.device) for p in shards), None)
        return Sharding(tuple(group for group in groups if group is not None), between)

    # ---- the learning rate

    def _begin(self, group: dict[str, Any]) -> None:
        """All that steps put into a group is there from the first: torch's DCP reads no more."""
        group.setdefault(SKIPPED, 0)
        if self.form == "normalized":
            group.setdefault(STATE, tuple(Normalized()))

    def _next_lr(self, group: dict[str, Any], sums: dict[str, float]) -> float:
        """Where the hypergradient takes the learning rate of a group."""
        lr, _, factor = last_tuning(group)
        dot = sums["e_dot_own"] * (-factor if group["maximize"] else factor)
        norms = math.sqrt(sums["e_sq"]), math.sqrt(sums["own_sq"])
        sizes = norms[0] * norms[1]
        if not math.isfinite(dot) or not sizes > 0.0:
            return lr
        hyper_lr = self._hyper_lr_of(group)
        if self.form == "normalized":
            state = Normalized(*group.get(STATE, ()))
            lr, state = normalized_step(lr, dot, norms, state, hyper_lr)
            group[STATE] = tuple(state)
            return lr
        if self.form == "multiplicative":
            return lr * (1.0 - hyper_lr * dot / sizes)
        return max(lr - hyper_lr * dot, 0.0)

    def _hyper_lr_of(self, group: dict[str, Any]) -> float:
        if self.hyper_lr is not None:
            return self.hyper_lr
        if self.form == "additive" and self._form.family(group) is ADAM:
            return ADAM_HYPER_LR
        return HYPER_LR[self.form]

    def diagnostics(self) -> dict[str, Any]:
        """What the tuning has come to: `lr` and `hyper_lr` of each group, and `skipped_steps`."""
        return {
            "lr": [tuned_lr(group) for group in self.param_groups],
            "hyper_lr": [self._hyper_lr_of(group) for group in self.param_groups],
            "skipped_steps": self._skipped(),
        }

    def explain(self) -> str:
        """The learning rate of each group and its factors, and what looks wrong.

        For people: the words may change with any version. `diagnostics()` has the numbers. A base
        of this package has an `explain()` of its own, in `base`.
        """
        own = [f"hyper_lr {short(self._hyper_lr_of(group))}" for group in self.param_groups]
        return tuning_explained(self, self.base, self.form, self._skipped(), own)

    def _skipped(self) -> int:
        return max((group.get(SKIPPED, 0) for group in self.param_groups), default=0)

    def __getstate__(self) -> dict[str, Any]:
        # addresses and identities are of this process
        return {**super().__getstate__(), "_standing": None, "_last": _Taken([], [])}


def _last_lr(group: dict[str, Any]) -> float:
    """Of the last step."""
    return float(group.get(TUNED, 0.0))
