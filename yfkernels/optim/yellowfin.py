"""YellowFin: momentum SGD that tunes its own learning rate and momentum."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from yfkernels._checks import finite, require, require_number
from yfkernels.ops.rules import YELLOWFIN, YELLOWFIN_ROBUST, YELLOWFIN_SKETCH
from yfkernels.ops.tuner import STATE_FIELDS, STATE_FORMAT, TunerOptions
from yfkernels.optim._rule import RuleOptimizer
from yfkernels.tuning.yellowfin import YellowFinTuner

_GLOBAL_OPTIONS = frozenset(
    (
        "beta",
        "window",
        "clip",
        "max_norm",
        "variance",
        "momentum_form",
        "log_smooth",
        "sparsity_debias",
        "initial_lr",
        "initial_momentum",
        "trust_ratio",
        "robust",
    )
)


class YellowFin(RuleOptimizer):
    r"""Momentum SGD whose step size and momentum are measured from the gradients.

    Each step reads the gradients once for four global statistics (squared norm, its range over a
    window, variance, distance), solves SingleStep for momentum and step size, and applies the
    update in one more pass. See docs/yellowfin.md for the formulas.

    Args:
        params: parameters, parameter groups or named parameters.
        lr: multiplier on the tuned step size, a float or a one-element tensor. Leave it at 1.0;
            schedulers may drive it. Per group.
        beta: smoothing of every running average, in [0, 1). None for 0.99, or 0.999 without
            `robust`.
        window: steps over which the curvature range is taken.
        weight_decay: L2 penalty. It is not part of the statistics. Per group.
        decoupled_weight_decay: decay the parameters directly (AdamW) instead of through the
            gradient. Per group.
        clip: "adaptive" guards the statistics and the update against exploding gradients; None
            does not.
        max_norm: clips the global gradient norm to this value first; None for no such clip.
        variance: without `robust`, which needs none: "exact" (None) keeps an average of the
            gradient, 8 bytes of state a parameter; "sketch" estimates its norm from 4096 signed
            sums, 4 bytes.
        momentum_form: "buffer" is torch.optim.SGD's momentum, as in the authors' code; "polyak"
            keeps the step size inside the velocity, as in the paper. None for "polyak", or "buffer"
            without `robust`; the robust mode needs "polyak".
        log_smooth: smooth the logarithm of the curvature range rather than the range.
        sparsity_debias: correct the statistics for gradients that are mostly zeros (embeddings).
        initial_lr: step size of the first step, before anything is measured; without `robust`.
        initial_momentum: momentum of the first step, in [0, 1).
        trust_ratio: scale each tensor's step to the tensor, as LAMB does: by ‖p‖ / ‖u‖, where u is
            its velocity; 1 if either is 0. A third pass: 12 bytes more a float32 parameter. Needs
            robust=False.
        robust: bound the curvature range and take the step size from how far the parameters have
            come (docs/yellowfin.md): as fast, and reliable to the end. False for the published
            algorithm.
        stochastic_rounding: round bfloat16 and float16 parameters stochastically, without a float32
            master copy.
        maximize: ascend instead of descend. Per group.
        capturable: tune on the device: no host synchronisation, safe in torch.cuda.graph. Without
            effect on CPU parameters.
        backend: "auto", "native", "triton" or "torch".

    Raises:
        ValueError: an option out of its range; no parameters.
        RuntimeError: the backend asked for by name cannot serve the parameters' device.

    A step with a non-finite gradient changes nothing but `skipped_steps`. Parameters of bfloat16
    or float16 keep float32 state and a float32 master copy. Parameters whose gradient is None take
    no part in a step.

    Source: Zhang, Mitliagkas, Ré, "YellowFin and the Art of Momentum Tuning", arXiv 1706.03471.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> opt = YellowFin(model.parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> opt.step()
        >>> opt.diagnostics()["step"]
        1.0
    """

    _state_names = ("momentum_buffer", "grad_avg")
    _global_options = RuleOptimizer._global_options | _GLOBAL_OPTIONS
    _tunes_on_host = True
    _tuner: YellowFinTuner

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        *,
        beta: float | None = None,
        window: int = 20,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        clip: str | None = "adaptive",
        max_norm: float | None = None,
        variance: str | None = None,
        momentum_form: str | None = None,
        log_smooth: bool = True,
        sparsity_debias: bool = False,
        initial_lr: float = 1e-4,
        initial_momentum: float = 0.0,
        trust_ratio: bool = False,
        robust: bool = True,
        stochastic_rounding: bool = False,
        maximize: bool = False,
        capturable: bool = False,
        backend: str = "auto",
    ) -> None:
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
        if robust:
            need = "None in the robust mode, which keeps no average; or pass robust=False"
            require(variance is None, "variance", variance, need)
            need = "'polyak' in the robust mode; 'buffer' goes with robust=False"
            require(momentum_form == "polyak", "momentum_form", momentum_form, need)
            need = "False in the robust mode, which bounds the step itself; or pass robust=False"
            require(not trust_ratio, "trust_ratio", trust_ratio, need)
        ok = finite(initial_lr) and initial_lr >= 0.0
        require(ok, "initial_lr", initial_lr, "finite and >= 0")
        ok = 0.0 <= initial_momentum < 1.0
        require(ok, "initial_momentum", initial_momentum, "in [0, 1)")
        self._tuner = YellowFinTuner(
            TunerOptions(
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
            )
        )
        self._rule = YELLOWFIN_SKETCH if variance == "sketch" else YELLOWFIN
        if robust:
            self._rule = YELLOWFIN_ROBUST
        self._adapts = bool(trust_ratio)
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(
            params,
            defaults,
            backend=backend,
            capturable=capturable,
            stochastic_rounding=bool(stochastic_rounding),
        )

    def __repr__(self) -> str:
        options = self._tuner.options
        chosen = {
            "beta": options.beta,
            "window": options.window,
            "clip": "adaptive" if options.adaptive_clip else None,
            "max_norm": None if math.isinf(options.max_norm) else options.max_norm,
            "variance": None if options.robust else "sketch" if options.sketch else "exact",
            "momentum_form": "polyak" if options.polyak else "buffer",
            "log_smooth": options.log_smooth,
            "sparsity_debias": options.sparsity_debias,
            "initial_lr": options.initial_lr,
            "initial_momentum": options.initial_momentum,
            "trust_ratio": self._adapts,
            "robust": options.robust,
            "stochastic_rounding": self._stochastic_rounding,
            "capturable": self._capturable,
            "backend": self._backend,
        }
        lines = "".join(f"    {name}: {value}\n" for name, value in chosen.items())
        return super().__repr__().replace("(\n", f"(\n{lines}", 1)

    # ---- what the tuner chose

    def diagnostics(self) -> dict[str, float]:
        """What the last step that was taken measured and used, as floats; on CUDA this waits.

        A skipped step leaves everything as it was but `skipped_steps`.

        Returns:
            lr: the step size of the first group, multiplier and cap included.
            momentum, h_min, h_max, variance, distance: SingleStep's result and inputs.
            radius: how far the parameters have come, estimated from below; 0 without `robust`.
            grad_norm: norm of the whole gradient, unscaled, before any clip.
            clip_coefficient: the factor all clips together put on the gradient.
            step: steps taken. skipped_steps: steps refused for a non-finite gradient.
        """
        values = self._tuner.values()
        names = (
            "lr",
            "momentum",
            "h_min",
            "h_max",
            "variance",
            "distance",
            "radius",
            "grad_norm",
            "clip_coefficient",
            "step",
        )
        return {name: values[name] for name in names} | {"skipped_steps": values["skipped"]}

    def tuned_lrs(self) -> list[float]:
        """The step size the last step used in each group; empty until this object takes one."""
        return self._tuner.lrs()

    def trust_ratios(self) -> dict[str, float]:
        """The factor trust_ratio=True put on the last move of each tensor, by parameter name.

        Parameters without names go by their position. Empty until this object takes a step.

        Raises:
            RuntimeError: the optimizer was constructed without trust_ratio=True.
        """
        if not self._adapts:
            raise RuntimeError("YellowFin has trust ratios only with trust_ratio=True")
        return self._trust_ratios()

    # ---- one step

    def _group_values(self, group: dict[str, Any], lr: float) -> list[float]:
        return [
            lr,
            float(group["weight_decay"]),
            1.0 if group["decoupled_weight_decay"] else 0.0,
            -1.0 if group["maximize"] else 1.0,
        ]

    # ---- checks and saved state

    def _global_state(self) -> dict[str, Tensor]:
        return {"tuner": self._tuner.saved()}

    def _check_global_state(self, saved: dict[str, Any]) -> None:
        state, options = saved["tuner"], self._tuner.options
        if state.numel() and state[0] != STATE_FORMAT:
            raise RuntimeError(
                f"the state_dict's tuner has format {float(state[0])}, this version of yfkernels "
                f"reads format {STATE_FORMAT}"
            )
        if state.shape != (options.state_words,):
            raise RuntimeError(
                f"the state_dict's tuner has shape {tuple(state.shape)}, but window="
                f"{options.window}{self._variance_in_words()} need "
                f"({options.state_words},): construct the optimizer with the options it was "
                "saved with"
            )
        saved_robust = bool(state[STATE_FIELDS.index("radius")] > 0.0)
        if state[STATE_FIELDS.index("step")] > 0.0 and saved_robust != options.robust:
            raise RuntimeError(
                f"the state_dict was saved with robust={saved_robust}, this optimizer has robust="
                f"{options.robust}: construct it with robust={saved_robust} to go on"
            )

    def _variance_in_words(self) -> str:
        options = self._tuner.options
        return (
            "" if options.robust else f" and variance={'sketch' if options.sketch else 'exact'!r}"
        )

    def _load_global_state(self, saved: dict[str, Tensor]) -> None:
        self._tuner.load(saved["tuner"])
