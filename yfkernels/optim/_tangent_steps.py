"""Steps of an optimizer that carry Z along, and the hypergradients after them."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from yfkernels._warn import warn
from yfkernels.curvature import (
    Closure,
    HessianProduct,
    Tensors,
    discover,
    gradient,
    validation_gradient,
)
from yfkernels.ops.memory import laid_out, new_state
from yfkernels.ops.tangents import stored
from yfkernels.optim._base_steps import BaseSteps
from yfkernels.optim._closed_forms import ClosedForm
from yfkernels.optim._kept_tangents import KeptTangents
from yfkernels.optim._tangents import Member, Passes, gather
from yfkernels.optim._tuned_lr import begin_step, last_tuning, tuned_lr
from yfkernels.sharding.processes import is_flat
from yfkernels.sharding.shards import is_dtensor

NEXT_TO_NONE = 1e-30  # of Z, where H z counts


class TangentSteps:
    """Takes the steps of `base`, whose own step() is refused meanwhile.

    Args:
        base: the optimizer.
        form: of its steps.
        owner: what the tuner is called, for messages.
        product: multiplies by the Hessian.
        backend: "auto", or the name of one.

    Attributes:
        tangents: Z of every parameter.
        skipped: steps that were left out because their gradient was not finite.
    """

    def __init__(
        self, base: Optimizer, form: ClosedForm, owner: str, product: HessianProduct, backend: str
    ) -> None:
        self._base, self._form, self._owner, self._product = base, form, owner, product
        # None: every call is watched, since a later one may use modules that the first did not.
        self._modules = product.modules
        self._found: list[nn.Module] | None = product.modules
        self._passes = Passes(backend)
        self._steps = BaseSteps(base, owner)
        self.tangents = KeptTangents()
        self.skipped = 0

    @property
    def params(self) -> list[Tensor]:
        """Of all groups, the frozen ones too."""
        return [p for group in self._base.param_groups for p in group["params"]]

    def take(self, closure: Closure, mus: Sequence[float]) -> tuple[Tensor, list[Member]]:
        """One step, at the tuned learning rates.

        Args:
            closure: computes the training loss.
            mus: of each group, how much of Z the step keeps.

        Returns:
            The loss before the step, and the parameters that have a Z after it: none where the
            gradient is not finite.
        """
        self._steps.check_owner()
        self._refuse_parts()
        for p in self.params:
            self.tangents.check(p)
        loss, members, products = self._differentiate(closure, mus)
        if not members:
            raise _unreached("training_closure")
        if not self._usable(members, products):
            self.skipped += 1
            return loss, []
        with torch.no_grad():
            self._passes.advance(members)
            idle = self._keep_idle(members, mus)
            self._move(members)
        return loss, [*members, *idle]

    def hypergradients(self, closure: Closure, members: list[Member]) -> list[dict[str, float]]:
        """Of each group e·B, e·Zw, ‖e‖², ‖B‖² and ‖Zw‖², e being the gradient after the step.

        The products are times the schedule's factor, as derivatives to the rate that is tuned.

        Args:
            closure: computes the validation loss.
            members: that have a Z.
        """
        params = [m.owner for m in members]
        loss, grads = validation_gradient(closure, params, self._modules)
        reached = [(m, grad) for m, grad in zip(members, grads) if grad is not None]
        if not reached:
            raise _unreached("validation_closure")
        for m, grad in reached:
            m.grad = grad
            own = m.family.probe if m.family.probe in m.columns else None
            m.projection = stored(own, m.family.tangent())
        sums = self._passes.project([m for m, _ in reached], len(self._base.param_groups))
        if not math.isfinite(loss.item()):  # of an empty minibatch the gradient may still be: 0
            warn(f"The validation loss is {loss:g}; has it diverged, or is the minibatch empty?")
            sums = [dict.fromkeys(each, math.nan) for each in sums]
        for group, each in zip(self._base.param_groups, sums):
            factor = last_tuning(group).factor * (-1.0 if group["maximize"] else 1.0)
            each |= {name: factor * each[name] for name in ("e_dot_own", "e_dot_tangent")}
        return sums

    def _refuse_parts(self) -> None:
        """Gradients are taken here, where no wrapper adds them up over processes."""
        parts = any(is_dtensor(p) or is_flat(p) for p in self.params)
        wrapped = any(
            isinstance(module, nn.parallel.DistributedDataParallel) for module in self._found or ()
        )
        if parts or wrapped:
            raise RuntimeError(
                f"{self._owner} takes its gradients without backward(), which is where "
                "DistributedDataParallel and FSDP add them up over processes: train the plain "
                "model in one process, or use HD"
            )

    def _differentiate(
        self, closure: Closure, mus: Sequence[float]
    ) -> tuple[Tensor, list[Member], Tensors | None]:
        """The loss, the parameters that it reaches, and H z for z = mu Zw; None where z is 0."""
        params = [p for p in self.params if p.requires_grad]
        if not self.tangents or not any(mus):
            loss, grads = self._gradient(closure, params)
            return loss, self._members(params, grads, None, mus), None
        vectors = [
            self.tangents.damped(p, mu)
            for group, mu in zip(self._base.param_groups, mus)
            for p in group["params"]
            if p.requires_grad
        ]
        loss, grads, products = self._product(closure, params, vectors)
        return loss, self._members(params, grads, products, mus), products

    def _gradient(self, closure: Closure, params: list[Tensor]) -> tuple[Tensor, Tensors]:
        if self._found is not None:
            return gradient(closure, params)
        loss, grads, self._found = discover(closure, params)
        self._refuse_parts()
        return loss, grads

    def _members(
        self,
        params: list[Tensor],
        gradients: Tensors,
        products: Tensors | None,
        mus: Sequence[float],
    ) -> list[Member]:
        """The parameters that the loss reaches, with Z, H z and the slots that are to come."""
        written = {
            p
            for group in self._base.param_groups
            if self._form.writes_gradients(group)
            for p in group["params"]
        }
        grads = _own_gradients(params, gradients, written)
        probes = dict(zip(params, products or ()))
        members = gather(self._form, self._base, grads, tuned_lr)
        for m in members:
            family = m.family
            for k in range(len(family.slots)):
                if family.slot(k) not in m.columns:
                    m.columns[family.slot(k)] = new_state(m.owner, m.grad.dtype)
            for k, z in enumerate(self.tangents.of(m.owner, family.tangents)):
                m.columns[family.tangent(k)] = z
            probe = probes.get(m.owner)
            if probe is None:
                probe = new_state(m.owner, m.grad.dtype)
            m.columns[family.probe] = laid_out(probe, m.owner)
            # Of a group that keeps nothing H z still counts: it has the Z of the others in it.
            mu = 0.0 if products is None else max(mus[m.group], NEXT_TO_NONE)
            m.step = m.step | {"damping": mu, "keeps_own": 1.0}
        return members

    def _keep_idle(self, members: list[Member], mus: Sequence[float]) -> list[Member]:
        """Z of what the loss did not reach, and the base leaves alone: Z <- mu Z, and B = 0."""
        moved = {m.owner for m in members}
        idle = []
        for index, group in enumerate(self._base.param_groups):
            family = self._form.family(group)
            for p in group["params"]:
                if p in moved or not p.requires_grad or not self.tangents.has(p):
                    continue
                z = self.tangents.of(p, family.tangents)
                for each in z:
                    each.mul_(mus[index])
                columns = {family.tangent(): z[0]}
                idle.append(Member(index, p, p.detach(), z[0], columns, family))
        return idle

    def _usable(self, members: list[Member], products: Tensors | None) -> bool:
        """Whether the gradient is finite; where only H z is not, Z begins anew."""
        for m in members:
            m.projection = stored(None if products is None else m.family.probe)
        sums = self._passes.project(members, len(self._base.param_groups))
        if not all(math.isfinite(each["e_sq"]) for each in sums):
            return False
        if not all(math.isfinite(each["own_sq"]) for each in sums):
            for m in members:
                m.step["damping"] = 0.0
        return True

    def _move(self, members: list[Member]) -> None:
        """The base's step, at the tuned learning rates."""
        grads = {m.owner: m.grad for m in members}
        for p in self.params:  # the frozen ones too: the base would move them by an old gradient
            p.grad = grads.get(p)
        for group in self._base.param_groups:
            begin_step(group)
        self._steps.take()

    # ---- saving

    def state_dict(self) -> dict[str, Any]:
        return {
            "base": self._base.state_dict(),
            "tangents": self.tangents.state_dict(self.params),
            "skipped": self.skipped,
            "fell_back": self._product.fell_back,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        tangents = KeptTangents.load(state_dict["tangents"], self.params)
        self._base.load_state_dict(state_dict["base"])
        self.tangents, self.skipped = tangents, state_dict["skipped"]
        self._product.fell_back = state_dict["fell_back"]


def _unreached(closure: str) -> ValueError:
    return ValueError(
        f"Invalid {closure}: its loss depends on none of the optimizer's parameters, so it has no "
        "gradient; compute it with the model whose parameters the optimizer has, not with a copy"
    )


def _own_gradients(
    params: Sequence[Tensor], gradients: Tensors, written: Set[Tensor]
) -> dict[Tensor, Tensor]:
    """Gradients as backward() would leave them: laid out as the parameter, in memory of their own.

    What torch.autograd.grad returns may be transposed or expanded, one tensor for two parameters,
    or one that a custom Function has stored and the user still holds. The base's fused kernels take
    the layout for granted, and some steps write into the gradients.

    Args:
        params: the parameters.
        gradients: of each.
        written: those of `params` whose gradients the base writes into.
    """
    own: dict[Tensor, Tensor] = {}
    taken: set[int] = set()
    for p, grad in zip(params, gradients):
        if grad is None:
            continue
        place = grad.untyped_storage().data_ptr() if grad.layout is torch.strided else 0
        own[p] = laid_out(grad, p, copy=place in taken or p in written)
        taken.add(place)
    return own
