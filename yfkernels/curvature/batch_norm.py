"""BatchNorm whose second derivative is a few passes; torch's own is forty plain operations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

_aten: Any = torch.ops.aten


def batch_norm(
    input: Tensor,  # the names are those of F.batch_norm
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """As F.batch_norm, and with its values and gradients."""
    if not training or weight is None or bias is None or not _is_taken(input, weight):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _Forward.apply(input, weight, bias, running_mean, running_var, momentum, eps)


def _is_taken(x: Tensor, weight: Tensor) -> bool:
    """The rest is torch's: mixed precision, and the error of one value a channel."""
    known = x.device.type in ("cpu", "cuda") and x.dtype == weight.dtype
    return known and x.dim() >= 2 and x.numel() > x.shape[1]


class _Forward(Function):
    """y = weight x̂ + bias with x̂ = (x - mean) / std, over all dimensions but the channels."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, mean, inverse_std = _aten.native_batch_norm.default(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )
        ctx.save_for_backward(x, weight, mean, inverse_std)
        ctx.eps = eps
        result: Tensor = y
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return *_Backward.apply(*grads, *ctx.saved_tensors, ctx.eps), None, None, None, None


class _Backward(Function):
    """gx = weight / std P g with P g = g - mean(g) - x̂ mean(g x̂), and the sums of g x̂ and of g."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        inverse_std: Tensor,
        eps: float,
    ) -> Any:
        gx, along, total = _passed_back(g, x, weight, mean, inverse_std, eps)
        ctx.save_for_backward(g, x, weight, mean, inverse_std, along, total)
        ctx.eps = eps
        return gx, along, total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradient of <v, gx> + <v_weight, along> + <v_bias, total>.

        It uses that P is symmetric, that dx̂ = P dx / std and that d(1 / std) = -mean(x̂ dx) / std².
        """
        v, v_weight, v_bias = grads
        g, x, weight, mean, r, g_along, g_total = ctx.saved_tensors
        to_g, v_along, v_total = _passed_back(v, x, weight, mean, r, ctx.eps)
        count = x.numel() // x.shape[1]
        a, b = v_along / count, g_along / count
        inner = _sums(v * g) - count * (a * b) - v_total * g_total / count  # <v, P g>
        shape = [1, -1] + [1] * (x.dim() - 2)
        # to x: -x̂ weight inner / count - weight (b P v + a P g) + v_weight P g, divided by std²
        # and std; below sorted by v, g, x̂ and 1
        by_v = -weight * r * r * b
        by_g = -weight * r * r * a + v_weight * r
        by_unit = -weight * r * r * inner / count - by_v * a - by_g * b
        constant = -(by_v * v_total + by_g * g_total) / count
        by_x = by_unit * r
        to_x = torch.addcmul((constant - by_x * mean).view(shape), v, by_v.view(shape))
        to_x.addcmul_(g, by_g.view(shape)).addcmul_(x, by_x.view(shape))
        to_g = to_g.addcmul_(x, (v_weight * r).view(shape))
        to_g += (v_bias - v_weight * r * mean).view(shape)
        return to_g, to_x, r * inner, None, None, None


def _passed_back(
    g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse_std: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = _aten.native_batch_norm_backward.default(
        g, x, weight, None, None, mean, inverse_std, True, eps, [True, True, True]
    )
    return result


def _sums(t: Tensor) -> Tensor:
    return t.sum([d for d in range(t.dim()) if d != 1])
