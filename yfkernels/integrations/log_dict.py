"""The last step of an optimizer as numbers for a logger, whichever framework has wrapped it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from yfkernels.optim.hd import HD
from yfkernels.optim.lamb import LAMB
from yfkernels.optim.marthe import MARTHE
from yfkernels.optim.qhadam import QHAdam
from yfkernels.optim.qhm import QHM
from yfkernels.optim.yellowfin import YellowFin

_OURS = (YellowFin, LAMB, QHM, QHAdam, HD, MARTHE)
# Where wrappers keep the optimizer: Accelerate, Lightning and Fabric; ZeRO; fastai; timm's
# Lookahead.
_INSIDE = ("optimizer", "optim", "opt", "_base_optimizer")
_DEPTH = 10  # of wrappers in wrappers; some lead back to themselves
# of YellowFin's diagnostics, besides lr and momentum
_OF_TUNER = ("grad_norm", "clip_coefficient", "distance_traveled", "skipped_steps", "staleness")


def unwrapped(optimizer: Any) -> Any:
    """The optimizer of this package inside what a framework has put around it.

    Args:
        optimizer: one of this package, as it is or as Accelerate, Lightning, Fabric, ZeRO, fastai
            or timm's Lookahead has wrapped it, one in another too.

    Raises:
        TypeError: there is none in it.

    Example:
        >>> opt = QHM(torch.nn.Linear(2, 1).parameters())
        >>> unwrapped(opt) is opt
        True
    """
    inner = optimizer
    for _ in range(_DEPTH):
        if isinstance(inner, _OURS):
            return inner
        held = [getattr(inner, name, None) for name in _INSIDE]
        inner = next((each for each in held if each is not None and each is not inner), None)
    names = ", ".join(kind.__name__ for kind in _OURS)
    raise TypeError(
        f"Invalid optimizer type: {type(optimizer).__qualname__}; give {names}, as it is or as "
        "Accelerate, Lightning, Fabric, ZeRO, fastai or timm's Lookahead has wrapped it"
    )


def log_dict(optimizer: Any, prefix: str = "") -> dict[str, float]:
    """What the last step was, for ``logger.log(log_dict(opt))``.

    On CUDA this waits for the device: log every so many steps.

    Args:
        optimizer: one of this package, as it is or as a framework has wrapped it.
        prefix: of every key, such as "train/".

    Returns:
        Under the same keys for every optimizer, as far as it knows them. Before the first step
        there is nothing; but HD and MARTHE have what they begin with.

        lr: the step size that was used; YellowFin's is measured.
        momentum: YellowFin's, QHM's beta, the first of betas.
        grad_norm: norm of the whole gradient before any clip, if it was measured.
        clip_coefficient: the product of all clips, of YellowFin.
        distance_traveled: of the parameters since the start, at least; of YellowFin.
        hyper_lr, hypergradient: of HD and MARTHE.
        skipped_steps: steps refused because something was not finite.
        staleness: the mean of it, with `closed_loop`.

        With several groups, what each has for itself ends in "/0", "/1", ...: lr and momentum if
        they were set to differ, all that HD and MARTHE tune, everything with ``tune="group"``.
        That depends on the settings, not on the values of a step: each key is one curve.

    Raises:
        TypeError: `optimizer` is none of this package.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> opt = YellowFin(layer.parameters())
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> opt.step()
        >>> sorted(log_dict(opt, "opt/"))[:3]
        ['opt/clip_coefficient', 'opt/distance_traveled', 'opt/grad_norm']
    """
    inner = unwrapped(optimizer)
    if isinstance(inner, YellowFin):
        found = _of_yellowfin(inner)
    elif isinstance(inner, HD | MARTHE):
        found = _of_hypergradients(inner)
    else:
        found = _of_settings(inner)
    return {prefix + key: value for key, value in found.items()}


def _of_yellowfin(optimizer: YellowFin) -> dict[str, float]:
    groups = optimizer.param_groups
    by_group = optimizer._tuner.by_group
    seen = [optimizer.diagnostics(group) for group in range(len(groups) if by_group else 1)]
    if not any(each["step"] or each["skipped_steps"] for each in seen):
        return {}
    lrs = [each["lr"] for each in seen]
    if len(lrs) < len(groups):  # only these differ, and are read in one go
        lrs += optimizer.tuned_lrs()[1:]
    found = _spread("lr", lrs, by_group or _lrs_differ(groups))
    found |= _spread("momentum", [each["momentum"] for each in seen], by_group)
    for name in _OF_TUNER:
        if name in seen[0]:
            found |= _spread(name, [each[name] for each in seen], by_group)
    return found


def _of_settings(optimizer: LAMB | QHM | QHAdam) -> dict[str, float]:
    """Those whose step size is the user's."""
    seen = optimizer.diagnostics()
    if not optimizer.state and not seen["skipped_steps"]:
        return {}
    groups = optimizer.param_groups
    found = _spread("lr", optimizer._tuner.lrs(groups), _lrs_differ(groups))
    betas = [group["betas"][0] if "betas" in group else group["beta"] for group in groups]
    found |= _spread("momentum", list(map(_number, betas)))
    if seen["grad_norm"] == seen["grad_norm"]:
        found["grad_norm"] = seen["grad_norm"]
    found["skipped_steps"] = seen["skipped_steps"]
    return found


def _of_hypergradients(optimizer: HD | MARTHE) -> dict[str, float]:
    seen = optimizer.diagnostics()
    found = {"skipped_steps": float(seen["skipped_steps"])}
    for name in ("lr", "hyper_lr", "hypergradient"):
        if name in seen:
            found |= _spread(name, list(map(_number, seen[name])), apart=True)
    return found


def _lrs_differ(groups: list[dict[str, Any]]) -> bool:
    """Whether they were set to; a warm-up makes all of them 0 for a while."""
    return len({_number(group.get("initial_lr", group["lr"])) for group in groups}) > 1


def _spread(name: str, values: list[float], apart: bool = False) -> dict[str, float]:
    """One number for all groups, or one of each: if they differ, or always if `apart`."""
    if len(values) == 1 or (not apart and len(set(values)) == 1):
        return {name: values[0]}
    return {f"{name}/{group}": value for group, value in enumerate(values)}


def _number(value: float | Tensor) -> float:
    return float(value)
