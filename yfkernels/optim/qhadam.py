"""QHAdam: Adam with quasi-hyperbolic averages."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from yfkernels._checks import (
    check_betas,
    check_pair,
    check_positive,
    finite,
    require,
)
from yfkernels.ops import rules
from yfkernels.optim._gated import GatedOptimizer


class QHAdam(GatedOptimizer):
    r"""Adam whose two averages are mixed with the gradient of the step.

        p <- p - lr [(1 - nu1) g + nu1 m^] / (sqrt((1 - nu2) g² + nu2 v^) + eps)

    with m^ = m / (1 - beta1^t), v^ = v / (1 - beta2^t) and t the steps the parameter itself has
    taken. One launch, 28 bytes a float32 parameter, as torch's fused Adam.

    Args:
        params: parameters, parameter groups or named parameters.
        lr: learning rate, a float or a one-element tensor. Per group, as are all options up to
            `decoupled_weight_decay`, and `maximize`.
        nus: weights of the averages; (1, 1) is Adam, (beta1, 1) is NAdam once beta1^t has faded.
        betas: smoothing of the averages of the gradient and of its square, each in [0, 1).
        eps: added to the denominator, > 0.
        weight_decay: L2 penalty, added to the gradient.
        decoupled_weight_decay: shrink the parameters by 1 - lr * weight_decay instead (AdamW).
        skip_nonfinite: measure the gradient first (4 bytes more a parameter) and skip a step in
            which it is not finite. Without, only GradScaler's verdict is heeded.
        stochastic_rounding: round bfloat16 and float16 parameters stochastically, without a
            float32 master copy.
        maximize: ascend instead of descend.
        capturable: safe in torch.cuda.graph; give lr as a CUDA tensor to change it between replays.
        backend: "auto", "native", "triton" or "torch".

    Raises:
        ValueError: an option out of its range; no parameters.
        RuntimeError: the backend asked for by name cannot serve the parameters' device.

    Source: Ma & Yarats, "Quasi-hyperbolic momentum and Adam for deep learning", ICLR 2019.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> opt = QHAdam(model.parameters())
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> opt.step()
    """

    _state_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        *,
        nus: tuple[float, float] = (0.7, 1.0),
        betas: tuple[float, float] = (0.995, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        skip_nonfinite: bool = False,
        stochastic_rounding: bool = False,
        maximize: bool = False,
        capturable: bool = False,
        backend: str = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "nus": nus,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
        }
        super().__init__(
            params,
            rules.QHADAM,
            defaults,
            skip_nonfinite=skip_nonfinite,
            stochastic_rounding=stochastic_rounding,
            capturable=capturable,
            backend=backend,
        )

    def _coefficients(self, group: dict[str, Any]) -> dict[str, float]:
        (beta1, beta2), (nu1, nu2) = group["betas"], group["nus"]
        return {
            "beta1": float(beta1),
            "beta2": float(beta2),
            "nu1": float(nu1),
            "nu2": float(nu2),
            "eps": float(group["eps"]),
        }

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_betas(group["betas"])
        check_positive("eps", group["eps"])
        check_pair("nus", group["nus"])
        nu1, nu2 = group["nus"]
        require(finite(nu1), "nus[0]", nu1, "finite; in [0, 1] for a weighted mean")
        require(0.0 <= nu2 <= 1.0, "nus[1]", nu2, "in [0, 1]: it is under a square root")
