"""YellowFin: momentum SGD that tunes its own learning rate and momentum."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from yfkernels._checks import require
from yfkernels.ops.constants import GROUP_FIELDS
from yfkernels.ops.options import YellowFinOptions
from yfkernels.optim._fused import FusedOptimizer
from yfkernels.optim._group_options import Group, GroupOptions
from yfkernels.tuners.yellowfin import YellowFinTuner


class YellowFin(FusedOptimizer):
    r"""Measures its step size and momentum from the gradients: there is no learning rate to tune.

    Each step reads the gradients once for their norm, tunes, and applies the update in one more
    pass. By default momentum is SingleStep's (the paper's rule), the step size follows from how far
    the parameters have come (as DoG's does), and each parameter's step is scaled as Adam scales it.
    `robust=False` is the published algorithm, which takes both from SingleStep. Formulas:
    docs/yellowfin.md.

    Args:
        params: parameters, parameter groups or named parameters.
        lr: multiplier on the tuned step size, a float or a one-element tensor. Leave it at 1.0;
            schedulers may drive it. If it is never above 0.1 and does not rise, as learning rates
            meant for other optimizers are not and do not, a UserWarning says so after three steps,
            but for `robust=False`. Per group.
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
        process_group: the processes that have other parts of the model, where parameters do not
            show it as DTensors (FSDP2) do: FullyShardedDataParallel's `process_group`, the stages
            of a pipeline. ZeroRedundancyOptimizer's is found by itself.
        foreach, differentiable: accepted as torch's optimizers have them; without effect, and
            False.
        fused: unscale gradients and skip steps in step() under GradScaler, as torch's fused
            optimizers do; else GradScaler does, with a pass more over the gradients.

    Raises:
        ValueError: an option out of its range; no parameters.
        RuntimeError: the backend asked for by name cannot serve the parameters' device.

    The step size and momentum of the last step can be read in the parameter groups, as `tuned_lr`
    and `momentum`: tensors of no dimension that change with every step. They are there for loggers
    and schedulers that look for such a key; what is assigned to them has no effect. The tuner's
    state is in the first group, as `tuner`.

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
        process_group: Any = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        options = YellowFinOptions.of(
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
            options.rule,
            YellowFinTuner(options),
            _CODED if options.rule.coded else _PLAIN,
            by_norms=options.trust_ratio,
            backend=backend,
            capturable=capturable,
            stochastic_rounding=stochastic_rounding,
            process_group=process_group,
            foreach=foreach,
            fused=fused,
            differentiable=differentiable,
        )

    def __repr__(self) -> str:
        chosen = self._global_values()
        del chosen["differentiable"]
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
        return super().diagnostics()

    def tuned_lrs(self) -> list[float]:
        """The step size the last step used in each group; empty until this object takes one."""
        return self._tuner.lrs()

    def trust_ratios(self) -> dict[str, float]:
        """The factor trust_ratio=True put on the last move of each tensor, by parameter name.

        Parameters without names go by their position. Empty until this object takes a step.

        Raises:
            RuntimeError: the optimizer was constructed without trust_ratio=True.
        """
        if not self._by_norms:
            raise RuntimeError("YellowFin has trust ratios only with trust_ratio=True")
        return self._trust_ratios()


def _check(group: Group) -> None:
    """lr and weight_decay are all there is."""


def _check_coded(group: Group) -> None:
    # beside a small gradient the decay alone would leave the range of the codes
    need = (
        "0 with preconditioner='compact', the default, or go with "
        "decoupled_weight_decay=True; 'diagonal' and None take an L2 penalty"
    )
    decay = group["weight_decay"]
    require(not decay or group["decoupled_weight_decay"], "weight_decay", decay, need)


def _values(group: Group, lr: float) -> list[float]:
    values = {
        "lr": lr,
        "weight_decay": float(group["weight_decay"]),
        "decoupled": 1.0 if group["decoupled_weight_decay"] else 0.0,
        "sign": -1.0 if group["maximize"] else 1.0,
    }
    return [values[name] for name in GROUP_FIELDS]


_DEFINING = frozenset(("decoupled_weight_decay",))
_PLAIN = GroupOptions(_check, _values, _DEFINING)
_CODED = GroupOptions(_check_coded, _values, _DEFINING)
