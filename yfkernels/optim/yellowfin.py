"""YellowFin: momentum SGD that tunes its own learning rate and momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from yfkernels._checks import check_whole, require
from yfkernels.ops.averaging import WeightAverage
from yfkernels.ops.constants import GROUP_FIELDS
from yfkernels.ops.options import YellowFinOptions
from yfkernels.optim._fused import FusedOptimizer
from yfkernels.optim._group_options import Group, GroupOptions
from yfkernels.tuners.closed_loop import ClosedLoop
from yfkernels.tuners.groupwise import GroupwiseTuner
from yfkernels.tuners.yellowfin import YellowFinTuner


class YellowFin(FusedOptimizer):
    r"""Measures its step size and momentum from the gradients: there is no learning rate to tune.

    Each step reads the gradients once for their norm, tunes, and applies the update in one more
    pass. By default, momentum follows SingleStep (the paper's rule), the step size follows from the
    distance that the parameters have traveled (as in DoG), and each parameter's step is scaled as
    in Adam. `robust=False` is the published algorithm, where both follow SingleStep. Formulas:
    docs/optimizers/yellowfin.md.

    Args:
        params: parameters, parameter groups or named parameters.
        lr: multiplier on the tuned step size, a float or a one-element tensor. Leave it at 1.0;
            schedulers may change it. If it stays at 0.1 or below and does not rise, it looks like a
            learning rate meant for another optimizer: after three steps a UserWarning says so,
            except with `robust=False`. Per group.
        beta: smoothing of every running average, in [0, 1). None for 0.99, or 0.999 with
            `robust=False`.
        window: number of steps over which the curvature range is taken.
        weight_decay: strength of weight decay, of the kind that the next argument selects. It is
            not part of the statistics. Per group.
        decoupled_weight_decay: True decays the parameters directly (AdamW), False through the
            gradient (L2 penalty). None for True with a preconditioner and False without one. Per
            group.
        clip: "adaptive" guards the statistics and the update against exploding gradients; None
            does not.
        max_norm: clips the global gradient norm to this value first; None for no such clip.
        variance: for `robust=False` only. "exact" (or None) keeps an average of the gradient, with
            8 bytes of state per parameter; "sketch" estimates its norm from 4096 signed sums, with
            4 bytes.
        momentum_form: "buffer" is torch.optim.SGD's momentum, as in the authors' code; "polyak"
            keeps the step size inside the velocity, as in the paper. None for "polyak", or "buffer"
            with `robust=False`; the robust mode requires "polyak".
        log_smooth: smooth the logarithm of the curvature range instead of the range itself.
        sparsity_debias: correct the statistics for gradients that are mostly zeros (embeddings).
            Requires preconditioner=None, because a preconditioner does that itself.
        initial_lr: step size of the first step, before anything is measured; for `robust=False`
            only.
        initial_momentum: momentum of the first step, in [0, 1). With a preconditioner, of the first
            two steps, and at least 0.5.
        trust_ratio: scale each tensor's step as LAMB does, by ‖p‖ / ‖u‖, where u is its velocity; 1
            if either norm is 0. Takes a third pass, of 12 more bytes per float32 parameter.
            Requires robust=False.
        robust: bound the curvature range and take the step size from the distance that the
            parameters have traveled (docs/optimizers/yellowfin.md). False for the published
            algorithm, which is as fast at first and unreliable later.
        preconditioner: "compact" measures and steps in Adam's metric, with a step size for each
            parameter, and stores the average of squares in one byte: 5 bytes of state per
            parameter. Weight decay must be decoupled. "diagonal" stores it in four bytes: 8 bytes
            of state, as Adam. With either, lr is the step along g / sqrt(average of g²), and
            lr / (1 - momentum) is comparable to AdamW's lr, also in the decay. None for one step
            size for all parameters: 4 bytes. "auto" for "compact", or None with `robust=False`.
        momentum_dtype: of the velocity. torch.float8_e4m3fn keeps it in one byte, rounded
            stochastically, in units that follow the length of the steps: 2 bytes of state per
            parameter with preconditioner="compact", which it requires. None for torch.float32.
        tune: "global" has one step size and momentum for all parameters, up to each group's lr.
            "group" has a tuner for each parameter group, with statistics, distance, clips and a
            number of steps of its own: for low-rank adapters beside embeddings, two networks in
            one optimizer, layers that are unfrozen or added late. `max_norm` is then of each
            group's norm. Takes as many launches for each group as otherwise for all. Requires
            robust=True.
        closed_loop: correct the momentum for stale gradients, so that optimizer and asynchronous
            workers together have the tuned one; it may then be negative. True or a ClosedLoop for
            its options. Requires momentum_form="polyak", its default here. Not capturable.
        stochastic_rounding: round bfloat16 and float16 parameters stochastically instead of keeping
            a float32 master copy.
        average: a `WeightAverage` to keep beside the weights, or None; see `averaged`.
        maximize: ascend instead of descend. Per group.
        capturable: tune on the device: no host synchronization, safe in torch.cuda.graph. No effect
            on CPU parameters.
        backend: "auto", "native", "triton" or "torch".
        process_group: the processes that hold the other parts of the model, if the parameters do
            not say so themselves as DTensors (FSDP2) do: FullyShardedDataParallel's
            `process_group`, or the stages of a pipeline. ZeroRedundancyOptimizer's group is found
            automatically.
        foreach, differentiable: accepted because torch's optimizers have them. `foreach` has no
            effect; `differentiable` must be False.
        fused: True unscales gradients and skips steps inside step() under GradScaler, as torch's
            fused optimizers do. Otherwise GradScaler does both, at the cost of one more pass over
            the gradients.

    Raises:
        ValueError: an option out of its range; no parameters.
        RuntimeError: the requested backend cannot run on the parameters' device.

    The step size and momentum of the last step can be read in the parameter groups, as `tuned_lr`
    and `momentum`: zero-dimensional tensors that change with every step. They are there for loggers
    and for schedulers that look for such a key; assigning to them has no effect. The tuner's state
    is in the first group, as `tuner`; with `tune="group"` each group has its own.

    A step with a non-finite gradient changes nothing but `skipped_steps`. Parameters of bfloat16 or
    float16 keep float32 state and a float32 master copy. Parameters whose gradient is None are left
    out of a step.

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

    _tuner: YellowFinTuner | GroupwiseTuner

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
        momentum_dtype: torch.dtype | None = None,
        tune: str = "global",
        closed_loop: bool | ClosedLoop = False,
        stochastic_rounding: bool = False,
        average: WeightAverage | None = None,
        maximize: bool = False,
        capturable: bool = False,
        backend: str = "auto",
        process_group: Any = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        loop = ClosedLoop.of(closed_loop)
        if loop is not None:
            momentum_form = momentum_form or "polyak"
            _check_loop(momentum_form, trust_ratio=trust_ratio, capturable=capturable)
        by_group = _tunes_groups(tune, robust=robust, closed=loop is not None)
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
            momentum_dtype=momentum_dtype,
        )
        if loop is not None:
            need = "None or torch.float32 with closed_loop, which reads the velocity"
            require(not options.in_float8, "momentum_dtype", momentum_dtype, need)
        if decoupled_weight_decay is None:
            decoupled_weight_decay = options.preconditioned
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "tune": tune,
        }
        super().__init__(
            params,
            defaults,
            options.rule,
            GroupwiseTuner(options) if by_group else YellowFinTuner(options, loop),
            _CODED if options.rule.stored.coded else _PLAIN,
            by_norms=options.trust_ratio,
            backend=backend,
            capturable=capturable,
            stochastic_rounding=stochastic_rounding,
            average=average,
            process_group=process_group,
            foreach=foreach,
            fused=fused,
            differentiable=differentiable,
        )

    def __repr__(self) -> str:
        chosen = self._global_values()
        del chosen["differentiable"], chosen["average"], chosen["tune"]  # groups show that
        lines = "".join(f"    {name}: {value}\n" for name, value in chosen.items())
        return super().__repr__().replace("(\n", f"(\n{lines}", 1)

    @torch._disable_dynamo  # type: ignore[attr-defined]  # as FusedOptimizer's
    def step(self, closure: Callable[[], Any] | None = None, *, staleness: int = 0) -> Any:
        """Takes one step.

        Args:
            closure: re-evaluates the model and returns the loss; called with gradients enabled.
            staleness: steps taken since the parameters of this gradient were read; for
                `closed_loop`, which an asynchronous server tells it.

        Returns:
            What the closure returned, or None.
        """
        require(staleness >= 0, "staleness", staleness, ">= 0")
        if isinstance(self._tuner, YellowFinTuner) and self._tuner.feedback is not None:
            self._tuner.feedback.staleness = staleness
        return super().step(closure)

    # ---- what the tuner chose

    def diagnostics(self, group: int = 0) -> dict[str, float]:
        """What the last step measured and used, as floats. On CUDA this waits for the device.

        A skipped step changes nothing here but `skipped_steps`.

        Args:
            group: a parameter group's position. Without `tune="group"` all but lr is the same in
                all of them.

        Returns:
            Numbers by their names:

            - lr: the step size of the group, multiplier and cap included.
            - momentum, h_min, h_max, variance, distance: the results and inputs of SingleStep.
            - distance_traveled: by the parameters since their start, estimated from below; 0 with
              `robust=False`.
            - grad_norm: norm of the whole gradient, unscaled, before any clip.
            - clip_coefficient: the product of all clip factors on the gradient.
            - step: number of steps taken.
            - skipped_steps: number of steps skipped because of a non-finite gradient.
            - target_momentum, total_momentum, staleness: with `closed_loop`; SingleStep's
              momentum, the last reading, the mean staleness. `momentum` is then the corrected one.

        Raises:
            TypeError, ValueError: there is no such group.
        """
        check_whole("group", group, least=0)
        count = len(self.param_groups)
        require(group < count, "group", group, f"below {count}, the number of parameter groups")
        return self._tuner.diagnostics(self.param_groups, group)

    def tuned_lrs(self) -> list[float]:
        """The step size of the last step in each group; 0.0 before the first."""
        return self._tuner.lrs(self.param_groups)

    def trust_ratios(self) -> dict[str, float]:
        """The trust ratio that each tensor's last step was scaled by, by parameter name.

        Unnamed parameters are listed by position. Empty until this object takes a step.

        Raises:
            RuntimeError: the optimizer was constructed without trust_ratio=True.
        """
        if not self._by_norms:
            raise RuntimeError("YellowFin has trust ratios only with trust_ratio=True")
        return self._trust_ratios()


def _tunes_groups(tune: str, *, robust: bool, closed: bool) -> bool:
    require(tune in ("global", "group"), "tune", tune, "'global' or 'group'")
    by_group = tune == "group"
    need = "'global' with robust=False, which would learn from a group without gradients"
    require(robust or not by_group, "tune", tune, need)
    need = "'global' with closed_loop, which reads one momentum of the whole model"
    require(not (closed and by_group), "tune", tune, need)
    return by_group


def _check_loop(momentum_form: str, *, trust_ratio: bool, capturable: bool) -> None:
    need = "'polyak' or None with closed_loop"
    require(momentum_form == "polyak", "momentum_form", momentum_form, need)
    need = "False with closed_loop"
    require(not trust_ratio, "trust_ratio", trust_ratio, f"{need}, which reads the velocity")
    require(not capturable, "capturable", capturable, f"{need}, which runs on the host")


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
