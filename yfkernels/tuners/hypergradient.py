"""What a hypergradient does to a learning rate: the rules of MARTHE, HD and RTHO."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from yfkernels._checks import check_positive, require, require_number

FORMS = ("normalized", "additive")


@dataclass(frozen=True)
class Rule:
    """How a learning rate follows its hypergradient.

    Attributes:
        mu: how much of Z each step keeps, in [0, 1]; None: adaptive.
        hyper_lr: step size of the learning rate; None for the default of the form.
        alpha: step size of hyper_lr itself, in the additive form; None: it is fixed.
        clip: bound on the hypergradient, in the additive form.
        form: "normalized" or "additive". None for "normalized", or for "additive" where hyper_lr
            or alpha is given.

    Raises:
        TypeError: one is no number.
        ValueError: one is out of its range.
    """

    mu: float | None
    hyper_lr: float | None
    alpha: float | None
    clip: float
    form: str | None = None

    def __post_init__(self) -> None:
        if self.mu is not None:
            require_number("mu", self.mu)
            require(0.0 <= self.mu <= 1.0, "mu", self.mu, "in [0, 1], or None to adapt")
        for name, value in (("hyper_lr", self.hyper_lr), ("alpha", self.alpha)):
            if value is not None:
                require_number(name, value)
                ok = math.isfinite(value) and value >= 0.0
                require(ok, name, value, "finite and >= 0, or None")
        check_positive("clip", self.clip)
        for name in ("mu", "hyper_lr", "alpha", "clip"):
            if getattr(self, name) is not None:  # a tensor could change later
                object.__setattr__(self, name, float(getattr(self, name)))
        if self.form is None:
            free = self.hyper_lr is None and self.alpha is None
            object.__setattr__(self, "form", "normalized" if free else "additive")
        require(self.form in FORMS, "form", self.form, f"one of {', '.join(FORMS)}, or None")
        fits = self.alpha is None or self.form == "additive"
        require(fits, "alpha", self.alpha, "None in the normalized form; or give form='additive'")

    @property
    def first_hyper_lr(self) -> float:
        """The user's, or the default of the form."""
        if self.hyper_lr is not None:
            return self.hyper_lr
        return NORMALIZED if self.form == "normalized" else FIRST_HYPER_LR


# Of the normalized form; bench/NOTES.md has the experiment that chose it.
NORMALIZED = 0.3
FIRST_HYPER_LR = 1e-8  # additive; where alpha begins


class Normalized(NamedTuple):
    """The state of the normalized form.

    Attributes:
        squares: of all cosines, summed up.
        norm: of the last gradient; 0 before the first.
        usual: root mean square of what its logarithm has changed by in a step.
        changes: number of those.
    """

    squares: float = 0.0
    norm: float = 0.0
    usual: float = 0.0
    changes: float = 0.0


# The brake, BRAKE c: for a gradient that grows by half at least, and by so many times the usual.
GROWTH, UNUSUAL, BRAKE = math.log(1.5), 5.0, 3.0
LARGEST = 50.0  # change of the logarithm of a learning rate, whatever hyper_lr says


def normalized_step(
    lr: float, dot: float, norms: tuple[float, float], state: Normalized, hyper_lr: float
) -> tuple[float, Normalized]:
    """A step that depends on the scale of neither the loss nor the learning rate.

        c = dot / norms,   squares <- squares + c²,   lr <- lr exp(-hyper_lr c / sqrt(squares))

    AdaGrad on the logarithm of the learning rate, with the cosine c for its gradient: the first
    step is a factor of exp(±hyper_lr), and later ones become smaller. They would be too small to
    stop a training that has become unstable. So there is a brake: where c > 0 and the gradient
    grows by half or more, and by more than UNUSUAL times what it usually changes by, the factor is
    exp(-BRAKE c).

    Args:
        lr: the learning rate.
        dot: the hypergradient, <e, z>.
        norms: of e, the gradient, and of z.
        state: Normalized() in the beginning.
        hyper_lr: step size.

    Returns:
        (lr, state); the same ones where the cosine is not finite, or 0.

    Source: the normalized hypergradient with AdaGrad is of Gao, Chu, Ye, Udell, arXiv 2502.11229;
    the logarithm and the brake are ours.
    """
    cosine = dot / norms[0] / norms[1] if min(norms) > 0.0 else 0.0
    squares = state.squares + cosine * cosine
    if not math.isfinite(squares) or cosine == 0.0 or squares == 0.0:
        return lr, state
    fall = hyper_lr * cosine / math.sqrt(squares)
    usual, changes = state.usual, state.changes
    if state.norm > 0.0:
        change = math.log(norms[0]) - math.log(state.norm)
        bound = UNUSUAL * usual if changes else math.inf
        if cosine > 0.0 and change > max(bound, GROWTH):
            fall = max(fall, BRAKE * cosine)
        # What is unusual counts as little more than usual, or the next one would not be seen.
        square = min(change**2, max(bound, GROWTH) ** 2)
        usual = math.sqrt((usual**2 * changes + square) / (changes + 1.0))
        changes += 1.0
    fall = min(max(fall, -LARGEST), LARGEST)
    return lr * math.exp(-fall), Normalized(squares, norms[0], usual, changes)


@dataclass
class Descent:
    """The state of one learning rate.

    Attributes:
        mu: how much of Z the next step keeps.
        count: c of the adaptive rule: for how long mu has kept Z.
        hyper_lr: beta.
        last: the last hypergradient.
        normalized: the state of the normalized form.
        skipped: hypergradients that were not finite.
    """

    mu: float = 0.0
    count: float = 0.0
    hyper_lr: float = 0.0
    last: float = 0.0
    normalized: tuple[float, ...] = ()
    skipped: int = 0

    @classmethod
    def begin(cls, rule: Rule) -> Descent:
        return cls(mu=rule.mu or 0.0, hyper_lr=rule.first_hyper_lr)

    def follow(self, rule: Rule, lr: float, sums: dict[str, float]) -> float:
        """The next learning rate; if the hypergradient is not finite, the same.

        Args:
            rule: the user's choices.
            lr: the tuned learning rate.
            sums: e_dot_tangent and e_dot_own as derivatives to it, and for the normalized form
                e_sq and tangent_sq.

        Source: Donini et al., arXiv 1910.08525, algorithm 1 and section 4.
        """
        raw = sums["e_dot_tangent"]
        if not math.isfinite(raw):
            self.skipped += 1
            return lr
        delta = min(max(raw, -rule.clip), rule.clip)
        if rule.alpha is not None:
            self.hyper_lr = max(self.hyper_lr + rule.alpha * delta * self.last, 0.0)
        if rule.form == "normalized":
            norms = math.sqrt(sums["e_sq"]), math.sqrt(sums["tangent_sq"])
            state = Normalized(*self.normalized)
            lr, state = normalized_step(lr, raw, norms, state, self.hyper_lr)
            self.normalized = tuple(state)
        else:
            lr = max(lr - self.hyper_lr * delta, 0.0)
        if rule.mu is None:
            self._adapt(delta, sums["e_dot_own"])
        self.last = delta
        return lr

    def _adapt(self, delta: float, own: float) -> None:
        """mu is small where the history points elsewhere than the step itself."""
        ratio = delta / own if own and math.isfinite(own) else 0.0
        agreement = min(max(ratio, 0.0), 1.0)
        self.count = (self.count + 1.0) * self.mu
        self.mu = agreement ** (1.0 / (self.count + 1.0))

    def state_dict(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}
