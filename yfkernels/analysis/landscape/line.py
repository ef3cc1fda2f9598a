"""Models on the line through two others."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from yfkernels._checks import finite, require, require_number


def interpolated(model: nn.Module, other: nn.Module, share: float) -> nn.Module:
    """A new model with the weights (1 - share) x + share y, of x in one model and y in another.

    Between a solution of small batches, share 0, and one of large batches, share 1, the loss shows
    how wide each valley is along the line. Buffers are those of `model`; the statistics of
    BatchNorm mean nothing between two models: take them anew with
    `torch.optim.swa_utils.update_bn(loader, result)`.

    Args:
        model, other: of the same structure.
        share: of the other; below 0 and above 1 it is beyond the two.

    Raises:
        ValueError: their parameters differ in names or shapes, or `share` is not finite.

    Example:
        >>> one, two = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        >>> middle = interpolated(one, two, 0.5)
        >>> torch.allclose(middle.weight, (one.weight + two.weight) / 2)
        True

    Source: Goodfellow et al., arXiv 1412.6544; Keskar et al., arXiv 1609.04836, figure 3.
    """
    require_number("share", share)
    require(finite(share), "share", share, "finite")
    ends = dict(model.named_parameters()), dict(other.named_parameters())
    shapes = [{name: tuple(p.shape) for name, p in end.items()} for end in ends]
    require(shapes[0] == shapes[1], "other", shapes[1], f"parameters as of model: {shapes[0]}")
    result = deepcopy(model)
    with torch.no_grad():
        for name, p in result.named_parameters():
            p.copy_(torch.lerp(ends[0][name].double(), ends[1][name].double().to(p.device), share))
    return result
