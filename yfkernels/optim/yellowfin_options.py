"""YellowFin's global options: which values go together, and what the tuner makes of them."""

from __future__ import annotations

import math

from yfkernels._checks import finite, require, require_number
from yfkernels.ops.rules import (
    YELLOWFIN,
    YELLOWFIN_COMPACT,
    YELLOWFIN_DIAGONAL,
    YELLOWFIN_ROBUST,
    YELLOWFIN_SKETCH,
    Rule,
)
from yfkernels.ops.tuner import TunerOptions

_PRECONDITIONED = {"compact": YELLOWFIN_COMPACT, "diagonal": YELLOWFIN_DIAGONAL}


def _preconditioner_for(asked: str | None, robust: bool) -> str | None:
    """What "auto" stands for; anything else is as it was asked for."""
    if asked != "auto":
        return asked
    return "compact" if robust else None


def tuner_options(
    *,
    beta: float | None,
    window: int,
    clip: str | None,
    max_norm: float | None,
    variance: str | None,
    momentum_form: str | None,
    log_smooth: bool,
    sparsity_debias: bool,
    initial_lr: float,
    initial_momentum: float,
    trust_ratio: bool,
    robust: bool,
    preconditioner: str | None,
) -> TunerOptions:
    """The options as the tuner takes them; arguments and errors are those of `YellowFin`."""
    if beta is None:
        beta = 0.99 if robust else 0.999
    if momentum_form is None:
        momentum_form = "polyak" if robust else "buffer"
    numbers = {"beta": beta, "initial_lr": initial_lr, "initial_momentum": initial_momentum}
    for name, value in numbers.items():
        require_number(name, value)
    if max_norm is not None:
        require_number("max_norm", max_norm)
    require(0.0 <= beta < 1.0, "beta", beta, "in [0, 1)")
    require(isinstance(window, int) and window >= 1, "window", window, "an integer >= 1")
    require(clip in ("adaptive", None), "clip", clip, "'adaptive' or None")
    positive = max_norm is None or (finite(max_norm) and max_norm > 0.0)
    require(positive, "max_norm", max_norm, "finite and > 0, or None for no clip")
    ok = variance in ("exact", "sketch", None)
    require(ok, "variance", variance, "'exact' or 'sketch', or None for 'exact'")
    forms = ("buffer", "polyak")
    require(momentum_form in forms, "momentum_form", momentum_form, "'buffer' or 'polyak'")
    ok = finite(initial_lr) and initial_lr >= 0.0
    require(ok, "initial_lr", initial_lr, "finite and >= 0")
    require(0.0 <= initial_momentum < 1.0, "initial_momentum", initial_momentum, "in [0, 1)")
    ok = preconditioner in ("auto", *_PRECONDITIONED, None)
    need = "'auto', 'compact' or 'diagonal', or None for neither"
    require(ok, "preconditioner", preconditioner, need)
    if robust:
        published = "; or pass robust=False, for the published algorithm"
        way = published if preconditioner in ("auto", None) else ""
        need = f"None in the robust mode, which keeps no average{way}"
        require(variance is None, "variance", variance, need)
        need = f"'polyak' in the robust mode{way}"
        require(momentum_form == "polyak", "momentum_form", momentum_form, need)
        need = f"False in the robust mode, which bounds the step itself{way}"
        require(not trust_ratio, "trust_ratio", trust_ratio, need)
    preconditioned = _preconditioner_for(preconditioner, robust) is not None
    if preconditioned:
        need = "None with robust=False; the preconditioned mode is a robust one"
        require(robust, "preconditioner", preconditioner, need)
        need = (
            "False with a preconditioner, which scales rare gradients up itself; or pass "
            "preconditioner=None"
        )
        require(not sparsity_debias, "sparsity_debias", sparsity_debias, need)
    return TunerOptions(
        beta=float(beta),
        max_norm=math.inf if max_norm is None else float(max_norm),
        initial_lr=float(initial_lr),
        initial_momentum=float(initial_momentum),
        window=window,
        adaptive_clip=clip == "adaptive",
        polyak=momentum_form == "polyak",
        log_smooth=bool(log_smooth),
        sparsity_debias=bool(sparsity_debias),
        sketch=variance == "sketch",
        trust_ratio=bool(trust_ratio),
        robust=bool(robust),
        preconditioned=preconditioned,
    )


def rule_of(options: TunerOptions, preconditioner: str | None) -> Rule:
    """The update that goes with the options."""
    if chosen := _preconditioner_for(preconditioner, options.robust):
        return _PRECONDITIONED[chosen]
    if options.robust:
        return YELLOWFIN_ROBUST
    return YELLOWFIN_SKETCH if options.sketch else YELLOWFIN


def in_words(options: TunerOptions, rule: Rule) -> dict[str, object]:
    """The options by the names of `YellowFin`'s arguments."""
    names = {rule: name for name, rule in _PRECONDITIONED.items()}
    sketched = "sketch" if options.sketch else "exact"
    return {
        "beta": options.beta,
        "window": options.window,
        "clip": "adaptive" if options.adaptive_clip else None,
        "max_norm": None if math.isinf(options.max_norm) else options.max_norm,
        "variance": None if options.robust else sketched,
        "momentum_form": "polyak" if options.polyak else "buffer",
        "log_smooth": options.log_smooth,
        "sparsity_debias": options.sparsity_debias,
        "initial_lr": options.initial_lr,
        "initial_momentum": options.initial_momentum,
        "trust_ratio": options.trust_ratio,
        "robust": options.robust,
        "preconditioner": names.get(rule),
    }
