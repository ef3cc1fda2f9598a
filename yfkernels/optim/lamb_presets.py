"""The optimizers that are called LAMB in other libraries, as options of `yfkernels.LAMB`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from yfkernels._checks import require

_T = TypeVar("_T")

_COMMON: Mapping[str, Any] = {
    "eps": 1e-6,
    "max_grad_norm": 1.0,
    "bias_correction": True,
    "grad_averaging": True,
    "always_adapt": False,
    "trust_clip": None,
    "trust_norm_bounds": None,
    "decoupled_weight_decay": False,
}

_DEEPSPEED = {
    "eps": 1e-8,
    "max_grad_norm": None,
    "bias_correction": "lr",
    "always_adapt": True,
    "trust_clip": (0.01, 10.0),
}
_V3 = {
    "max_grad_norm": None,
    "bias_correction": False,
    "always_adapt": True,
    "trust_norm_bounds": (0.0, 10.0),
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # arXiv 1904.00962 v5, algorithm 2
    "paper": {**_COMMON, "max_grad_norm": None, "always_adapt": True},
    # apex.optimizers.FusedLAMB
    "apex": _COMMON,
    # timm.optim.Lamb
    "timm": _COMMON,
    # NVIDIA's NVLAMB: apex with use_nvlamb=True, timm with always_adapt=True
    "nvlamb": {**_COMMON, "always_adapt": True},
    # deepspeed.ops.lamb.FusedLamb
    "deepspeed": {**_COMMON, **_DEEPSPEED},
    # version 3 of the paper: cybertronai/pytorch-lamb and its copies
    "v3": {**_COMMON, **_V3},
}
"""What each preset fixes."""

_WEIGHT_DECAY = {"deepspeed": 0.0, "v3": 0.0}  # defaults that may be overridden; otherwise 0.01


class _Default:
    """The default of an option that a preset may fix; its repr is the default without a preset."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def default(value: _T) -> _T:
    """A default that can be distinguished from the same value given by the user."""
    return cast(_T, _Default(value))


def resolve(preset: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of LAMB, from a preset and the constructor's arguments.

    Raises:
        ValueError: an unknown preset, or an argument that contradicts it.
    """
    if preset is None:
        return {k: v.value if isinstance(v, _Default) else v for k, v in given.items()}
    names = ", ".join(map(repr, PRESETS))
    known = isinstance(preset, str) and preset in PRESETS
    require(known, "preset", preset, f"one of {names}, or None")
    chosen = dict(PRESETS[preset])
    chosen["weight_decay"] = _WEIGHT_DECAY.get(preset, 0.01)
    options = {
        name: chosen.get(name, value.value) if isinstance(value, _Default) else value
        for name, value in given.items()
    }
    require_agreement(preset, options)
    return options


def _plain(name: str, value: Any) -> Any:
    """A value in the form that the presets use: tuples for pairs, None for no bound."""
    if isinstance(value, list):
        return tuple(value)
    no_bound = name in ("max_grad_norm", "trust_clip") and not value
    return None if no_bound else value


def require_agreement(preset: str | None, options: Mapping[str, Any]) -> None:
    """Raises ValueError for an option that contradicts the preset."""
    for name, value in ({} if preset is None else PRESETS[preset]).items():
        if _plain(name, options[name]) != value:
            own = {k: v for k, v in PRESETS[str(preset)].items() if v != _COMMON[k]}
            written_out = ", ".join(f"{k}={v!r}" for k, v in own.items()) or "the defaults"
            raise ValueError(
                f"Invalid {name} value: {options[name]!r}; preset {preset!r} fixes it at "
                f"{value!r}: leave it out, or start from the preset's options without its name: "
                f"{written_out}"
            )
