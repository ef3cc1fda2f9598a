"""MARTHE and RTHO: learning rates that follow the gradient of a validation loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from yfkernels._checks import check_positive, require, require_number
from yfkernels.curvature import (
    METHODS,
    Closure,
    HessianProduct,
    Tensors,
    discover,
    find_modules,
    gradient,
    validation_gradient,
)
from yfkernels.ops.memory import new_state, same_layout
from yfkernels.ops.tangents import stored
from yfkernels.optim._closed_forms import closed_form, steps_of
from yfkernels.optim._tangents import Member, Passes, head
from yfkernels.optim._tuned_lr import applied, tune, tuned_lr
from yfkernels.sharding.processes import is_flat
from yfkernels.sharding.shards import is_dtensor
from yfkernels.tuners.hypergradient import Descent, Rule


class MARTHE:
    r"""Tunes the learning rates of an optimizer by the gradient of a validation loss.

    Beside each parameter w stands Z, the derivative of w to the learning rate through the steps
    that were taken, of which each step keeps mu:

        Z <- mu A Z + B,    lr <- max(lr - hyper_lr <grad E(w), Z>, 0)

    A and B are the derivatives of the whole step, momentum and decay included, to its state and to
    lr; A has the Hessian of the training loss in it, times Z. mu = 0 is hypergradient descent on
    the validation loss, mu = 1 is RTHO, and by default mu adapts.

    `step` owns the order of calls; the base's own step() is refused meanwhile. `group["lr"]` stays
    what the user or a schedule makes it, and a schedule acts as a factor on the learning rate that
    is tuned, which is in `group["tuned_lr"]` and `diagnostics()`. With several groups Z is the
    derivative to a common shift of their learning rates, and each group's follows the part that
    acts through its own parameters.

    Args:
        base: torch.optim.SGD, Adam or AdamW, or QHM or QHAdam of this package, without amsgrad and
            max_norm, over whole parameters in one process.
        mu: how much of Z each step keeps, in [0, 1]; None: the authors' adaptive rule.
        hyper_lr: step size of the learning rate, the paper's beta. None: a form that is free of
            scale, lr <- lr (1 - 0.02 <e, Z> / (‖e‖ ‖Z‖)), e = grad E; with alpha, 1e-8.
        alpha: step size of hyper_lr, hyper_lr <- max(hyper_lr + alpha Delta Delta', 0) for two
            hypergradients in a row, 1e-15 to 1e-6 in the paper; None: hyper_lr is fixed.
        clip: bound on a hypergradient.
        validate_every: steps between two validations.
        hvp: how the Hessian is multiplied: "auto", "reverse", "jvp", "central" or "forward"; see
            `yfkernels.curvature.gradient_and_product`.
        model: the model, where its modules cannot be found out by watching the closure.
        backend: "auto", "native", "triton" or "torch".

    Raises:
        TypeError: the base has no closed form, or an argument is no number.
        ValueError: an option out of its range.

    Memory: 1, 2 or 3 numbers a parameter (SGD; with momentum, QHM; Adam), and during a step two
    more.

    Source: Donini, Franceschi, Majumder, Pontil, Frasconi, "MARTHE: Scheduling the Learning Rate
    Via Online Hypergradients", IJCAI 2020, arXiv 1910.08525.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> opt = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        >>> tuner = MARTHE(opt)
        >>> x, x_val = torch.ones(2, 4), torch.ones(1, 4)
        >>> def loss_of(x): return model(x).square().mean()
        >>> for _ in range(3):
        ...     loss = tuner.step(lambda: loss_of(x), lambda: loss_of(x_val))
        >>> tuner.diagnostics()["lr"][0] > 1e-3
        True
    """

    def __init__(
        self,
        base: Optimizer,
        *,
        mu: float | None = None,
        hyper_lr: float | None = None,
        alpha: float | None = None,
        clip: float = 100.0,
        validate_every: int = 1,
        hvp: str = "auto",
        model: nn.Module | None = None,
        backend: str = "auto",
    ) -> None:
        self._form = closed_form(base, type(self).__name__)
        for name, value in (("mu", mu), ("hyper_lr", hyper_lr), ("alpha", alpha)):
            if value is not None:
                require_number(name, value)
        require(mu is None or 0.0 <= mu <= 1.0, "mu", mu, "in [0, 1], or None to adapt")
        for name, value in (("hyper_lr", hyper_lr), ("alpha", alpha)):
            ok = value is None or (math.isfinite(value) and value >= 0.0)
            require(ok, name, value, "finite and >= 0, or None")
        check_positive("clip", clip)
        ok = isinstance(validate_every, int) and validate_every >= 1
        require(ok, "validate_every", validate_every, "a whole number from 1 on")
        require(hvp in METHODS, "hvp", hvp, f"one of {', '.join(METHODS)}")
        for group in base.param_groups:
            self._form.check(group)
        self.base = base
        self.rule = Rule(mu, hyper_lr, alpha, float(clip))
        self.validate_every = validate_every
        self._product = HessianProduct(hvp, None if model is None else list(model.modules()))
        self._passes = Passes(backend)
        self._tangents: dict[Tensor, list[Tensor]] = {}
        self._descents: list[Descent] = []
        self._steps = self._skipped = 0
        self._stepping = False
        base.register_step_pre_hook(self._refuse_by_hand)

    def _refuse_by_hand(self, *_: object) -> None:
        if not self._stepping:
            raise RuntimeError(
                f"{type(self.base).__name__}.step() was called while {type(self).__name__} tunes "
                "its learning rate; call step() of the tuner alone"
            )

    # ---- the step

    def step(self, training_closure: Closure, validation_closure: Closure | None = None) -> Tensor:
        """One step of the base, and the learning rate for the next.

        Args:
            training_closure: computes the training loss of this step's minibatch and returns it;
                calls no backward(). It may be called more than once (hvp="central").
            validation_closure: the same of a validation minibatch. Modules are in eval mode
                meanwhile. None: the learning rate stays.

        Returns:
            The training loss before the step, detached.

        Raises:
            TypeError, ValueError: a closure returns something else than such a loss; nothing has
                changed then.
        """
        for closure in (training_closure, validation_closure):
            if closure is not None and not callable(closure):
                raise TypeError(
                    f"Invalid closure type: {type(closure).__name__}; give functions that return "
                    "the loss, such as lambda: loss_fn(model(x), y)"
                )
        groups = self.base.param_groups
        for group in groups:
            self._form.check(group)
        self._refuse_parts()
        while len(self._descents) < len(groups):
            self._descents.append(Descent.begin(self.rule))
        loss, members, products = self._differentiate(training_closure)
        if not members:
            return loss
        if not self._usable(members, products):
            self._skipped += 1
            return loss
        with torch.no_grad():
            self._passes.advance(members)
            self._move(members)
        self._steps += 1
        if validation_closure is not None and self._steps % self.validate_every == 0:
            self._validate(validation_closure, members)
        return loss

    def _refuse_parts(self) -> None:
        """Gradients are taken here, where no wrapper adds them up over processes."""
        parts = any(is_dtensor(p) or is_flat(p) for p in self._params())
        wrapped = any(
            isinstance(module, nn.parallel.DistributedDataParallel)
            for module in self._product.modules or ()
        )
        if parts or wrapped:
            raise RuntimeError(
                f"{type(self).__name__} takes its gradients without backward(), which is where "
                "DistributedDataParallel and FSDP add them up over processes: train the plain "
                "model in one process, or use HD"
            )

    def _params(self) -> list[Tensor]:
        return [p for group in self.base.param_groups for p in group["params"] if p.requires_grad]

    def _differentiate(self, closure: Closure) -> tuple[Tensor, list[Member], Tensors | None]:
        """The loss, the parameters that it reaches, and H z for z = mu Zw; None where z is 0."""
        params = self._params()
        if any(d.mu for d in self._descents) and self._tangents:
            if self._product.settled == "jvp" and self._product.modules is None:  # resumed
                self._product.modules = find_modules(closure, params)
            result = self._product(closure, params, self._damped())
            loss, grads, products = result.loss, result.grads, result.products
        else:
            products = None
            if self._product.modules is None:
                loss, grads, self._product.modules = discover(closure, params)
                self._refuse_parts()
            else:
                loss, grads = gradient(closure, params)
        return loss, self._members(params, grads, products), products

    def _damped(self) -> list[Tensor]:
        """z of every parameter."""
        vectors = []
        for group, descent in zip(self.base.param_groups, self._descents):
            for p in group["params"]:
                if p.requires_grad:
                    z = self._tangents.get(p)
                    vectors.append(torch.zeros_like(p) if z is None else descent.mu * z[0])
        return vectors

    def _members(
        self, params: list[Tensor], gradients: Tensors, products: Tensors | None
    ) -> list[Member]:
        members = []
        differentiated = products is not None
        grads = dict(zip(params, gradients))
        probes = dict(zip(params, products or [None] * len(params)))
        steps = steps_of(self.base.state, [p for p, grad in grads.items() if grad is not None])
        for index, (group, descent) in enumerate(zip(self.base.param_groups, self._descents)):
            family, decay, lr = self._form.family(group), self._form.decay(group), tuned_lr(group)
            for p in group["params"]:
                grad = grads.get(p)
                if grad is None:
                    continue
                state = self.base.state.get(p, {})
                slots = [state.get(name) for name in family.slots]
                begun = all(slot is not None for slot in slots)
                product = probes[p]
                probe = new_state(p, grad.dtype) if product is None else _laid_out(product, p)
                columns = {family.probe: probe}
                for k, slot in enumerate(slots):
                    columns[family.slot(k)] = new_state(p, grad.dtype) if slot is None else slot
                for k, z in enumerate(self._tangent(p, family.tangents)):
                    columns[family.tangent(k)] = z
                step = head(
                    damping=descent.mu if differentiated else 0.0,
                    maximize=bool(group["maximize"]),
                    decay=decay,
                    lr=lr,
                    keeps_own=True,
                )
                step |= self._form.coefficients(group, begun=begun, step=steps.get(p, 0) + 1)
                members.append(Member(index, p, grad, columns, family, step))
        return members

    def _tangent(self, p: Tensor, columns: int) -> list[Tensor]:
        """Z of a parameter: zeros in the beginning."""
        z = self._tangents.get(p)
        if z is None or len(z) != columns:
            dtype = p.dtype if p.dtype == torch.float64 else torch.float32
            z = self._tangents[p] = [new_state(p, dtype) for _ in range(columns)]
        return z

    def _usable(self, members: list[Member], products: Tensors | None) -> bool:
        """Whether the gradient is finite; where only H z is not, Z begins anew."""
        projection = stored(None) if products is None else stored(members[0].family.probe)
        for m in members:
            m.projection = projection
        sums = self._passes.project(members, len(self.base.param_groups))
        if not all(math.isfinite(each["e_sq"]) for each in sums):
            return False
        if not all(math.isfinite(each["own_sq"]) for each in sums):
            for m in members:
                m.step["damping"] = 0.0
        return True

    def _move(self, members: list[Member]) -> None:
        """The base's step, at the tuned learning rates."""
        reached = {m.param for m in members}
        for p in self._params():
            if p not in reached:
                p.grad = None
        for m in members:
            m.param.grad = m.grad
        for group in self.base.param_groups:
            tune(group, tuned_lr(group))
        self._stepping = True
        try:
            with applied(self.base.param_groups):
                self.base.step()
        finally:
            self._stepping = False

    # ---- the learning rate

    def _validate(self, closure: Closure, members: list[Member]) -> None:
        params = [m.param for m in members]
        _, grads = validation_gradient(closure, params, self._product.modules)
        there = []
        for m, grad in zip(members, grads):
            if grad is not None:
                m.grad = grad
                m.projection = stored(m.family.probe, m.family.tangent())
                there.append(m)
        count = len(self.base.param_groups)
        sums = self._passes.project(there, count)
        if self.rule.hyper_lr is None and self.rule.alpha is None:
            for m in there:
                m.projection = stored(m.family.tangent())
            for each, sizes in zip(sums, self._passes.project(there, count)):
                each["tangent_sq"] = sizes["own_sq"]
        for group, descent, each in zip(self.base.param_groups, self._descents, sums):
            if group["maximize"]:
                each |= {name: -each[name] for name in ("e_dot_own", "e_dot_tangent")}
            tune(group, descent.follow(self.rule, tuned_lr(group), each))

    def diagnostics(self) -> dict[str, Any]:
        """What the tuning has come to.

        Returns:
            `lr`, `mu`, `hyper_lr` and `hypergradient` of each group; `skipped`: steps and
            hypergradients that were not finite.
        """
        descents = self._descents or [Descent.begin(self.rule) for _ in self.base.param_groups]
        return {
            "lr": [tuned_lr(group) for group in self.base.param_groups],
            "mu": [d.mu for d in descents],
            "hyper_lr": [d.hyper_lr for d in descents],
            "hypergradient": [d.last for d in descents],
            "skipped": self._skipped + sum(d.skipped for d in descents),
        }

    # ---- saving

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: the base's state_dict is in it."""
        params = [p for group in self.base.param_groups for p in group["params"]]
        return {
            "base": self.base.state_dict(),
            "tangents": {i: self._tangents[p] for i, p in enumerate(params) if p in self._tangents},
            "groups": [d.state_dict() for d in self._descents],
            "steps": self._steps,
            "skipped": self._skipped,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where another tuner of the same parameters has stopped, bit for bit."""
        for name in ("base", "tangents", "groups", "steps", "skipped"):
            require(name in state_dict, "state_dict", sorted(state_dict), f"one with {name!r}")
        params = [p for group in self.base.param_groups for p in group["params"]]
        tangents = {}
        for index, z in state_dict["tangents"].items():
            p = params[index]
            for each in z:
                ok = each.shape == p.shape
                require(ok, f"tangents[{index}]", tuple(each.shape), f"of shape {tuple(p.shape)}")
            tangents[p] = [_laid_out(each.to(p.device), p, copy=True) for each in z]
        self.base.load_state_dict(state_dict["base"])
        self._tangents = tangents
        self._descents = [Descent(**each) for each in state_dict["groups"]]
        self._steps, self._skipped = state_dict["steps"], state_dict["skipped"]


class RTHO(MARTHE):
    """MARTHE with mu = 1: Z keeps all steps, real-time hyperparameter optimization.

    Args:
        base: as for MARTHE.
        options: of MARTHE, but for mu.

    Source: Franceschi et al., "Forward and reverse gradient-based hyperparameter optimization",
    ICML 2017.
    """

    def __init__(self, base: Optimizer, **options: Any) -> None:
        if "mu" in options:
            raise TypeError("Invalid option 'mu': RTHO is MARTHE with mu = 1; leave it out")
        super().__init__(base, mu=1.0, **options)


def _laid_out(tensor: Tensor, like: Tensor, *, copy: bool = False) -> Tensor:
    """A tensor in the order in memory that another one has."""
    if not copy and same_layout(tensor, like):
        return tensor
    out = new_state(like, tensor.dtype)
    out.copy_(tensor)
    return out
