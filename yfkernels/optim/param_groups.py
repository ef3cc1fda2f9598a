"""Parameter groups that exempt biases and normalization layers from weight decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from yfkernels._checks import finite, require, require_number

NORM_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)  # batch and instance norms first

Predicate = Callable[[str, nn.Parameter], bool]


def param_groups(
    model: nn.Module,
    weight_decay: float,
    no_decay: str | Iterable[str] | Predicate = (),
) -> list[dict[str, Any]]:
    """Splits a model's parameters into one group with weight decay and one without.

    The group without decay gets tensors of fewer than two dimensions, parameters called ``bias``,
    and all parameters of torch's normalization layers, whatever their shape (``LayerNorm((8, 8))``
    has two-dimensional weights). By default LAMB uses no trust ratio for this group.

    The groups work with any torch optimizer. They hold the names of their parameters in
    ``param_names``, the key under which torch keeps the names of named parameters.

    Args:
        model: the module whose trainable parameters are split; frozen ones
            (``requires_grad=False``) are left out. Call this before a wrapper that flattens
            parameters (FSDP 1, ZeRO 3), because the rules look at shapes.
        weight_decay: weight decay of the first group, >= 0; that of the second is 0.
        no_decay: further parameters without decay, as one or several patterns for full names as in
            ``model.named_parameters()``, with ``*`` for any characters, ``"*.embed.weight"``. A
            tied parameter has no decay if any of its names matches. Or a function of name and
            parameter, which replaces all rules above; it sees the first name of a tied parameter.

    Returns:
        One or two groups, each in the order of ``model.parameters()``; an empty group is left out.

    Raises:
        TypeError: an argument has a type that is not listed above.
        ValueError: ``weight_decay`` is negative or not finite; a pattern matches no parameter; no
            parameter is trainable, or one has no shape yet.

    Example:
        >>> model = torch.nn.TransformerEncoderLayer(64, 4)
        >>> groups = param_groups(model, weight_decay=0.01, no_decay="linear2.*")
        >>> optimizer = yfkernels.LAMB(groups, lr=0.01)
        >>> optimizer.param_groups[0]["param_names"]
        ['self_attn.in_proj_weight', 'self_attn.out_proj.weight', 'linear1.weight']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"Invalid model type: {type(model).__name__}; give a torch.nn.Module")
    require_number("weight_decay", weight_decay)
    ok = finite(weight_decay) and weight_decay >= 0.0
    require(ok, "weight_decay", weight_decay, "finite and >= 0")

    names, of_norm_layers = _names(model)
    if not any(parameter.requires_grad for parameter in names):
        raise ValueError("model has no trainable parameter; set requires_grad on those to train")
    for parameter, (name, *_) in names.items():
        if is_lazy(parameter):
            raise ValueError(
                f"parameter {name!r} has no shape yet; run the model on one batch first"
            )
    if callable(no_decay):
        undecayed = {p for p, (name, *_) in names.items() if no_decay(name, p)}
    else:
        undecayed = of_norm_layers | _matching(names, _patterns(no_decay))
        undecayed |= {p for p, aliases in names.items() if p.ndim < 2 or _is_bias(aliases)}

    groups: list[dict[str, Any]] = []
    for without, decay in ((False, weight_decay), (True, 0.0)):
        members = [p for p in names if p.requires_grad and (p in undecayed) == without]
        if members:
            groups.append(
                {
                    "params": members,
                    # As a key, not as (name, parameter) pairs: torch before 2.6 takes no pairs.
                    "param_names": [names[p][0] for p in members],
                    "weight_decay": decay,
                }
            )
    return groups


def _names(model: nn.Module) -> tuple[dict[nn.Parameter, list[str]], set[nn.Parameter]]:
    """All names of each parameter, and the parameters of normalization layers."""
    names: dict[nn.Parameter, list[str]] = {}
    of_norm_layers = set()
    for prefix, module in model.named_modules(remove_duplicate=False):
        own = module.named_parameters(prefix, recurse=False, remove_duplicate=False)
        for name, parameter in own:
            names.setdefault(parameter, []).append(name)
            if isinstance(module, NORM_LAYERS):
                of_norm_layers.add(parameter)
    return names, of_norm_layers


def _patterns(no_decay: Any) -> list[str]:
    patterns = [no_decay] if isinstance(no_decay, str) else no_decay
    if isinstance(patterns, Iterable):
        patterns = list(patterns)
        if all(isinstance(pattern, str) for pattern in patterns):
            return patterns
    raise TypeError(
        f"Invalid no_decay type: {type(no_decay).__name__} ({no_decay!r}); "
        "give name patterns or a function of name and parameter"
    )


def _matching(names: dict[nn.Parameter, list[str]], patterns: list[str]) -> set[nn.Parameter]:
    matching = set()
    for pattern in patterns:
        matches = {
            parameter
            for parameter, aliases in names.items()
            if any(fnmatchcase(alias, pattern) for alias in aliases)
        }
        # Otherwise a misspelled pattern would decay the parameters it was meant to exempt.
        fix = "a pattern for a parameter's full name, such as '*.weight'; this matches none"
        require(bool(matches), "no_decay", pattern, fix)
        matching |= matches
    return matching


def _is_bias(aliases: list[str]) -> bool:
    return any(alias.rpartition(".")[2] == "bias" for alias in aliases)
