"""Convolutions whose second derivative is three of their kind.

torch's own takes the second derivative to the weight as a convolution with a kernel as large as the
image, which no library is made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

_aten: Any = torch.ops.aten
CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
Numbers: TypeAlias = int | Sequence[int]


def convolution(
    function: Any,  # of CONVOLUTIONS
    input: Tensor,  # from here on the arguments of torch.conv2d
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers | str = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Any:
    """As `function`, and with its values and gradients."""
    if isinstance(padding, str) or not _is_taken(input, weight):
        return function(input, weight, bias, stride, padding, dilation, groups)
    sides = weight.dim() - 2
    stride, padding, dilation = (_each(n, sides) for n in (stride, padding, dilation))
    # not transposed, and no padding of the output
    return _Forward.apply(
        input, weight, bias, (stride, padding, dilation, False, [0] * sides, groups)
    )


def _is_taken(x: Tensor, weight: Tensor) -> bool:
    """The rest is torch's: autocast, other devices, inputs without a batch."""
    known = x.device.type in ("cpu", "cuda") and x.dtype == weight.dtype and x.is_floating_point()
    return known and x.dim() == weight.dim() and not torch.is_autocast_enabled(x.device.type)


def _each(numbers: Numbers, sides: int) -> list[int]:
    numbers = [numbers] if isinstance(numbers, int) else list(numbers)
    return numbers * sides if len(numbers) == 1 else numbers


class _Forward(Function):
    """y = x * w + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_sizes = None if bias is None else [len(bias)]
        ctx.how = how
        y: Tensor = _aten.convolution.default(x, weight, bias, *how)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        needed = list(ctx.needs_input_grad[:3])
        return *_Backward.apply(*grads, *ctx.saved_tensors, ctx.bias_sizes, ctx.how, needed), None


class _Backward(Function):
    """The gradients to x, w and the bias; those to x and w are bilinear in g and w, g and x."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        bias_sizes: Any,
        how: Any,
        needed: list[bool],
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, weight)
        ctx.how = how
        return _aten.convolution_backward.default(g, x, weight, bias_sizes, *how, needed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        """The gradient of <v_x, gx> + <v_weight, gw> + <v_bias, sum of g>."""
        v_x, v_weight, v_bias = grads
        g, x, weight = ctx.saved_tensors
        to_g = None if v_bias is None else v_bias.view(1, -1, *[1] * (g.dim() - 2)).expand_as(g)
        for image, kernel in ((v_x, weight), (x, v_weight)):
            if image is not None and kernel is not None:
                term = _aten.convolution.default(image, kernel, None, *ctx.how)
                to_g = term if to_g is None else term.add_(to_g)
        _, x_needed, weight_needed, *_ = ctx.needs_input_grad
        needed = [x_needed and v_weight is not None, weight_needed and v_x is not None, False]
        to_x = to_weight = None
        if any(needed):
            # to x with the kernel v_weight, and to the weight with the image v_x: one call
            image, kernel = x if v_x is None else v_x, weight if v_weight is None else v_weight
            to_x, to_weight, _ = _aten.convolution_backward.default(
                g, image, kernel, None, *ctx.how, needed
            )
        return to_g, to_x, to_weight, None, None, None
