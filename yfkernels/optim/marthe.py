"""MARTHE: learning rates that follow the gradient of a validation loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from yfkernels._checks import is_count, require
from yfkernels.curvature import METHODS, Closure, HessianProduct
from yfkernels.optim._closed_forms import closed_form
from yfkernels.optim._tangent_steps import TangentSteps
from yfkernels.optim._tuned_lr import last_tuning, learn, tuned_lr
from yfkernels.optim._tuning_explanation import tuning_explained
from yfkernels.optim._wording import short
from yfkernels.tuners.hypergradient import Descent, Rule


class MARTHE:
    r"""Tunes the learning rates of an optimizer by the gradient of a validation loss.

    Beside each parameter w stands Z, the derivative of w with respect to the learning rate through
    the steps that were taken, of which each step keeps mu:

        Z <- mu A Z + B,    lr <- max(lr - hyper_lr <grad E(w), Z>, 0)

    A and B are the derivatives of the whole step, momentum and decay included, to its state and to
    lr; A has the Hessian of the training loss in it, times Z. mu = 0 is hypergradient descent on
    the validation loss, mu = 1 is RTHO, and by default mu adapts.

    `step` owns the order of calls; the base's own step() is refused meanwhile. `group["lr"]` stays
    what the user or a schedule makes it, and a schedule acts as a factor on the learning rate in
    use, which is in `group["tuned_lr"]` and `diagnostics()`: what is tuned is the rate where the
    schedule is at its largest, and a step that it has made small weighs as little. With several
    groups Z is the derivative with respect to a common shift of their learning rates, and each
    group's follows the part that acts through its own parameters.

    Args:
        base: torch.optim.SGD, Adam or AdamW, or QHM or QHAdam of this package, without amsgrad and
            max_norm, over whole parameters in one process.
        mu: how much of Z each step keeps, in [0, 1]; None: the authors' adaptive rule.
        hyper_lr: step size of the learning rate, the paper's beta. Default: 0.3 in the normalized
            form, 1e-8 in the additive one.
        alpha: step size of hyper_lr, hyper_lr <- max(hyper_lr + alpha Delta Delta', 0) for two
            hypergradients in a row, 1e-15 to 1e-6 in the paper; None: hyper_lr is fixed.
        clip: bound on a hypergradient of the additive form.
        form: "additive" is the paper's, above. "normalized" depends on no scale:
            lr <- lr exp(-hyper_lr c / sqrt(sum of all c²)), c = <e, Z> / (‖e‖ ‖Z‖), e = grad E.
            None for "normalized", or for "additive" where hyper_lr or alpha is given.
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
        >>> import torch
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
        form: str | None = None,
        validate_every: int = 1,
        hvp: str = "auto",
        model: nn.Module | None = None,
        backend: str = "auto",
    ) -> None:
        self._form = closed_form(base, type(self).__name__)
        for group in base.param_groups:
            self._form.check(group)
        self.rule = Rule(mu, hyper_lr, alpha, clip, form)
        need = "a whole number from 1 on"
        require(is_count(validate_every), "validate_every", validate_every, need)
        require(hvp in METHODS, "hvp", hvp, f"one of {', '.join(METHODS)}")
        self.base = base
        self.validate_every = validate_every
        product = HessianProduct(hvp, None if model is None else model.modules())
        self._steps = TangentSteps(base, self._form, type(self).__name__, product, backend)
        self._descents: list[Descent] = []
        self._taken = 0

    # ---- the step

    def step(self, training_closure: Closure, validation_closure: Closure | None = None) -> Tensor:
        """One step of the base, and the learning rate for the next.

        Args:
            training_closure: computes the training loss of this step's minibatch and returns it;
                calls no backward(). It may be called more than once, and has to be of the same
                minibatch then: draw it before.
            validation_closure: the same of a validation minibatch, drawn before too: the random
                state is put back after it. Modules are in eval mode meanwhile. None: the learning
                rate stays.

        Returns:
            The training loss before the step, detached.

        Raises:
            TypeError, ValueError: a closure returns something else than such a loss, or one that
                depends on no parameter of the base. If it was the first, nothing has changed but
                what it changed itself, such as BatchNorm's statistics; if it was the second, the
                step was taken and the learning rate stays.
            RuntimeError: a parameter has changed its shape, or is complex; or another tuner was
                made over the base.
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
        self._descents = self._of_groups()
        loss, members = self._steps.take(training_closure, [d.mu for d in self._descents])
        self._taken += bool(members)
        if members and validation_closure is not None and self._taken % self.validate_every == 0:
            all_sums = self._steps.hypergradients(validation_closure, members)
            for group, descent, sums in zip(groups, self._descents, all_sums):
                learn(group, descent.follow(self.rule, last_tuning(group).lr, sums))
        return loss

    @property
    def mu(self) -> float | None:
        """How much of Z each step keeps; None: it adapts, see diagnostics()."""
        return self.rule.mu

    @mu.setter
    def mu(self, value: float | None) -> None:
        self.rule = replace(self.rule, mu=value)
        for descent in self._descents:
            descent.mu = Descent.begin(self.rule).mu

    @property
    def form(self) -> str:
        """How the learning rates follow."""
        return str(self.rule.form)

    @property
    def hyper_lr(self) -> float | None:
        """Step size of the learning rates; where alpha moves it, its first value."""
        return self.rule.hyper_lr

    @hyper_lr.setter
    def hyper_lr(self, value: float | None) -> None:
        self._begin_anew(replace(self.rule, hyper_lr=value))

    @property
    def alpha(self) -> float | None:
        """Step size of hyper_lr."""
        return self.rule.alpha

    @alpha.setter
    def alpha(self, value: float | None) -> None:
        self._begin_anew(replace(self.rule, alpha=value))

    def _begin_anew(self, rule: Rule) -> None:
        self.rule = rule
        for descent in self._descents:
            descent.hyper_lr = Descent.begin(rule).hyper_lr

    def diagnostics(self) -> dict[str, Any]:
        """What the tuning has come to.

        Returns:
            `lr`, `mu`, `hyper_lr` and `hypergradient` of each group; `skipped_steps`: steps and
            hypergradients that were not finite.
        """
        descents = self._of_groups()
        return {
            "lr": [tuned_lr(group) for group in self.base.param_groups],
            "mu": [d.mu for d in descents],
            "hyper_lr": [d.hyper_lr for d in descents],
            "hypergradient": [d.last for d in descents],
            "skipped_steps": self._skipped(),
        }

    def explain(self) -> str:
        """The learning rate of each group and its factors, and what looks wrong.

        For people: the words may change with any version. `diagnostics()` has the numbers. A base
        of this package has an `explain()` of its own, in `base`.
        """
        own = [
            f"hyper_lr {short(d.hyper_lr)}, the last hypergradient {short(d.last)}, "
            f"mu {short(d.mu)}"
            for d in self._of_groups()
        ]
        return tuning_explained(self, self.base, self.form, self._skipped(), own)

    def _of_groups(self) -> list[Descent]:
        """How each group's learning rate goes on."""
        new = len(self.base.param_groups) - len(self._descents)
        return self._descents + [Descent.begin(self.rule) for _ in range(new)]

    def _skipped(self) -> int:
        return self._steps.skipped + sum(d.skipped for d in self._descents)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: the base's state_dict is in it."""
        groups = [d.state_dict() for d in self._descents]
        return {**self._steps.state_dict(), "groups": groups, "steps": self._taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where another tuner of the same parameters has stopped, bit for bit."""
        for name in ("base", "tangents", "groups", "steps", "skipped", "fell_back"):
            require(name in state_dict, "state_dict", sorted(state_dict), f"one with {name!r}")
        descents = [Descent(**each) for each in state_dict["groups"]]
        self._steps.load_state_dict(state_dict)
        self._descents, self._taken = descents, state_dict["steps"]
