"""Scales of ReLU layers that leave the function of a network as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import nn

from yfkernels._checks import check_positive

Named: TypeAlias = tuple[str, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# For a > 0 they give a f(x) for a x.
_HOMOGENEOUS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.Flatten,
    nn.Unflatten,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.Identity,
)


def rescale_relu_layers(model: nn.Module, a: float) -> list[tuple[str, str]]:
    """Multiplies layers by a and the next ones by 1 / a, which leaves the network's function.

    The first layer's weight and bias are multiplied by a, the weight of the second by 1 / a; the
    third and the fourth make the next pair, and so on. Between the two of a pair only ReLU,
    LeakyReLU, pooling, Flatten, Unflatten, Dropout and Identity may stand. Undo it by 1 / a, which
    is exact if a is a power of two.

    Args:
        model: an nn.Sequential, of which some modules may be nn.Sequential; changed in place.
        a: finite and > 0.

    Returns:
        The names of the two layers of each pair.

    Raises:
        TypeError: the model is no nn.Sequential, or `a` is no number.
        ValueError: `a` out of its range, no pair, another module between two layers, a layer that
            occurs twice or shares a parameter, or has hooks. Nothing has changed then.

    Source: Dinh et al., "Sharp minima can generalize for deep nets", arXiv 1703.04933.

    Example:
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)
        ... )
        >>> rescale_relu_layers(model, 5.0)
        [('0', '2')]
    """
    check_positive("a", a)
    pairs = _pairs(model)
    _check_unshared(model, [named for pair in pairs for named in pair])
    with torch.no_grad():
        for (_, first), (_, second) in pairs:
            first.weight.mul_(a)
            if first.bias is not None:
                first.bias.mul_(a)
            second.weight.div_(a)
    return [(first, second) for (first, _), (second, _) in pairs]


def _flattened(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        raise TypeError(
            f"Invalid model type: {type(model).__name__}; give an nn.Sequential, which runs its "
            "modules one after the other"
        )
    for name, module in model._modules.items():
        assert module is not None
        if isinstance(module, nn.Sequential):
            yield from _flattened(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module


def _pairs(model: nn.Module) -> list[tuple[Named, Named]]:
    pairs: list[tuple[Named, Named]] = []
    first: Named | None = None
    others: list[str] = []  # which do not pass a scale on
    before = 0  # of these come before `first`
    for name, module in _flattened(model):
        hooked = bool(module._forward_hooks or module._forward_pre_hooks)  # such as weight_norm
        if isinstance(module, _LAYERS) and type(module) in _LAYERS and not hooked:
            if first is None:
                first, before = (name, module), len(others)
                continue
            if others[before:]:
                raise ValueError(
                    f"Invalid model: {', '.join(others[before:])} between {first[0]} and {name} "
                    "does not pass a scale on; only ReLU, LeakyReLU, pooling, Flatten, Unflatten, "
                    "Dropout and Identity may stand there"
                )
            pairs.append((first, (name, module)))
            first = None
        elif type(module) not in _HOMOGENEOUS or hooked:
            with_hooks = " with hooks" if hooked else ""
            others.append(f"{name} ({type(module).__name__}{with_hooks})")
    if not pairs:
        met = f"; it has {', '.join(others)}" if others else ""
        raise ValueError(
            "Invalid model: it has no two Linear or Conv layers that follow one another with "
            f"nothing but ReLU, pooling and the like between them{met}"
        )
    return pairs


def _check_unshared(model: nn.Module, layers: Sequence[Named]) -> None:
    uses = Counter(
        id(p)
        for _, module in model.named_modules(remove_duplicate=False)
        for p in module._parameters.values()
        if p is not None
    )
    for name, layer in layers:
        for kind, p in layer._parameters.items():
            if p is not None and uses[id(p)] > 1:
                raise ValueError(
                    f"Invalid model: {name}.{kind} is used by several layers, which would all be "
                    "rescaled; give each its own"
                )
