"""YellowFin: momentum SGD that tunes its own learning rate and momentum."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from yfkernels._checks import require
from yfkernels.ops.tuner import STATE_FIELDS, STATE_FORMAT
from yfkernels.optim._rule import RuleOptimizer
from yfkernels.optim.yellowfin_options import in_words, rule_of, tuner_options
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
        "preconditioner",
    )
)

_IN_STATE = {"log_smooth": "log_smooth", "polyak": "momentum_form"}
_HARDLY_MOVES = 0.1  # as a multiplier; as a learning rate, the largest that is common


class YellowFin(RuleOptimizer):
    r"""Measures its step size and momentum from the gradients: there is no learning rate to tune.

    Each step reads the gradients once for their norm, tunes, and applies the update in one more
    pass. By default momentum is SingleStep's (the paper's rule), the step size follows from how far
    the parameters have come (as DoG's does), and each parameter's step is scaled as Adam scales it.
    `robust=False` is the published algorithm, which takes both from SingleStep. Formulas:
    docs/yellowfin.md.

    Args:
        params: parameters, parameter groups or named parameters.
        lr: multiplier on the tuned step size, a float or a one-element tensor. Leave it at 1.0;
            schedulers may drive it. If no group begins above 0.1, as learning rates of other
            optimizers do, a UserWarning says so, but for `robust=False`. Per group.
        beta: smoothing of every running average, in [0, 1). None for 0.99, or 0.999 without
            `robust`.
        window: steps over which the curvature range is taken.
        weight_decay: how strongly parameters are drawn to zero, in one of two ways (the next
            argument). It is not part of the statistics. Per group.
        decoupled_weight_decay: decay the parameters directly (AdamW) instead of through the
            gradient. None for what suits the mode: True with a preconditioner, False without. Per
            group.
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
            Needs preconditioner=None, as a preconditioner does that itself.
        initial_lr: step size of the first step, before anything is measured; without `robust`.
        initial_momentum: momentum of the first step, in [0, 1). With a preconditioner of the first
            two, and no less than 0.5.
        trust_ratio: scale each tensor's step to the tensor, as LAMB does: by ‖p‖ / ‖u‖, where u is
            its velocity; 1 if either is 0. A third pass: 12 bytes more a float32 parameter. Needs
            robust=False.
        robust: bound the curvature range and take the step size from how far the parameters have
            come (docs/yellowfin.md). False for the published algorithm, which is as fast at first
            and unreliable later.
        preconditioner: "compact" measures and steps in the shape of Adam's metric, a step size for
            each parameter, and keeps the average of squares in one byte: 5 bytes of state a
            parameter; weight decay must be decoupled. "diagonal" keeps it in four: 8 bytes, as
            Adam. With either, lr is the step along g / sqrt(average of g²), and lr / (1 - momentum)
            compares with AdamW's, also in the decay. None for one step size for all: 4 bytes.
            "auto" for "compact", or None without `robust`.
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

    Sources: Zhang, Mitliagkas, Ré, "YellowFin and the Art of Momentum Tuning", arXiv 1706.03471;
    the step size with `robust`: Ivgi, Hinder, Carmon, "DoG is SGD's Best Friend", arXiv 2302.12022.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> opt = YellowFin(model.parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> opt.step()
        >>> opt.diagnostics()["step"]
        1.0
    """

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
        decoupled_weight_decay: bool | None = None,
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
        preconditioner: str | None = "auto",
        stochastic_rounding: bool = False,
        maximize: bool = False,
        capturable: bool = False,
        backend: str = "auto",
    ) -> None:
        options = tuner_options(
            beta=beta,
            window=window,
            clip=clip,
            max_norm=max_norm,
            variance=variance,
            momentum_form=momentum_form,
            log_smooth=log_smooth,
            sparsity_debias=sparsity_debias,
            initial_lr=initial_lr,
            initial_momentum=initial_momentum,
            trust_ratio=trust_ratio,
            robust=robust,
            preconditioner=preconditioner,
        )
        self._tuner = YellowFinTuner(options)
        self._rule = rule_of(options, preconditioner)
        self._adapts = options.trust_ratio
        if decoupled_weight_decay is None:
            decoupled_weight_decay = options.preconditioned
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
        if options.robust:
            self._warn_of_learning_rates()

    @property
    def _state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        if self._rule.coded:
            return "momentum_buffer", "exp_avg_sq_codes"
        second = "exp_avg_sq" if self._tuner.options.preconditioned else "grad_avg"
        return "momentum_buffer", second

    def __repr__(self) -> str:
        chosen = in_words(self._tuner.options, self._rule) | {
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

    def _warn_of_learning_rates(self) -> None:
        """Without this, a learning rate copied from another optimizer would just not train."""
        lrs = [group["lr"] for group in self.param_groups]
        on_host = (float(lr) for lr in lrs if not (isinstance(lr, Tensor) and lr.is_cuda))
        largest = max(on_host, default=1.0)
        if 0.0 < largest <= _HARDLY_MOVES:
            warnings.warn(
                f"lr={largest:g} is not a learning rate but a multiplier on the step size that "
                f"YellowFin tunes: at {_HARDLY_MOVES:g} or less training hardly moves. Leave lr "
                "out, or pass lr=1.0",
                stacklevel=3,  # the line that constructs the optimizer
            )

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if self._rule.coded and group["weight_decay"]:
            # beside a small gradient the decay alone would leave the range of the codes
            need = (
                "0 with preconditioner='compact', the default, or go with "
                "decoupled_weight_decay=True; 'diagonal' and None take an L2 penalty"
            )
            require(group["decoupled_weight_decay"], "weight_decay", group["weight_decay"], need)

    def _global_state(self) -> dict[str, Tensor]:
        return {"tuner": self._tuner.state, "tuner_options": self._options_in_state()}

    def _options_in_state(self) -> Tensor:
        """Those that say what the numbers of the tuner's state and the velocities mean."""
        options = self._tuner.options
        chosen = [getattr(options, name) for name in _IN_STATE]
        return torch.tensor(chosen, dtype=torch.float64)

    def _check_global_state(self, saved: dict[str, Any]) -> None:
        state, options = saved["tuner"], self._tuner.options
        if state.numel() and state[0] != STATE_FORMAT:
            raise RuntimeError(
                f"the state_dict's tuner has format {float(state[0])}, this version of yfkernels "
                f"reads format {STATE_FORMAT}"
            )
        head = dict(zip(STATE_FIELDS, state.tolist()))
        modes = {
            "robust": (head.get("radius", 0.0) > 0.0, options.robust, "robust=False"),
            "a preconditioner": (
                head.get("scale", 0.0) > 0.0,
                options.preconditioned,
                "preconditioner=None",
            ),
        }
        chosen = in_words(options, self._rule)
        for mode, (before, now, without) in modes.items():
            if head.get("step", 0.0) > 0.0 and before != now:
                raise RuntimeError(
                    f"the state_dict was saved {'with' if before else 'without'} {mode}, this "
                    f"optimizer has robust={chosen['robust']} and preconditioner="
                    f"{chosen['preconditioner']!r}: construct it as it was"
                    f"{'' if before else f', with {without}'}"
                )
        meant = saved["tuner_options"].tolist(), self._options_in_state().tolist()
        for name, before, now in zip(_IN_STATE.values(), *meant):
            if before != now:
                raise RuntimeError(
                    f"the state_dict was saved with another {name}, this optimizer has "
                    f"{name}={chosen[name]!r}: construct it as it was"
                )
        if state.shape != (options.state_words,):
            names = ("window", "preconditioner" if options.robust else "variance")
            needed = " and ".join(f"{name}={chosen[name]!r}" for name in names)
            raise RuntimeError(
                f"the state_dict's tuner has shape {tuple(state.shape)}, but {needed} need "
                f"({options.state_words},): construct the optimizer with the options it was "
                "saved with"
            )

    def _load_global_state(self, saved: dict[str, Tensor]) -> None:
        self._tuner.load(saved["tuner"])
