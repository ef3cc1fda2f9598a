"""Launches kernels, and refuses one that would have to be loaded while a CUDA graph is captured.

Triton compiles a kernel anew for each combination of constants and of kinds of arguments. Ours
specialise on nothing else: not on where a tensor lies, nor on what a number is.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

# By kernel and device, the variants that have been launched: they are loaded. With what tells them
# apart in words of their own, because functions and types of Triton's are slow to hash.
_launched: dict[tuple[int, torch.device], dict[tuple[Any, ...], tuple[Any, ...]]] = {}


def launch(
    kernel: Any,
    programs: int,
    device: torch.device,
    purpose: str,
    arguments: tuple[Any, ...],
    **constants: Any,
) -> None:
    """Launches a kernel on the current device, which `device` is.

    Args:
        kernel: its function.
        programs: how many of them.
        device: where the arguments are.
        purpose: what a user knows it by: "measuring the gradients".
        arguments: in order, without the constants.
        constants: by name; and Triton's own options.

    Raises:
        RuntimeError: a graph is being captured, and no such kernel was launched before.
    """
    kinds = [getattr(argument, "dtype", type(argument)) for argument in arguments]
    values = [value if type(value) is int else id(value) for value in constants.values()]
    variant = (*kinds, *values)
    known = _launched.get((id(kernel), device))
    if known is None:
        known = _launched[id(kernel), device] = {}
    new = variant not in known
    if new and _captures(device):
        now = (*kinds, *constants.values())
        raise RuntimeError(_refusal(kernel, purpose, list(known.values()), now, list(constants)))
    kernel[(programs,)](*arguments, **constants)
    if new:
        known[variant] = (*kinds, *constants.values())


def was_launched(kernel: Any, device: torch.device) -> bool:
    """Whether some variant of the kernel was."""
    return bool(_launched.get((id(kernel), device)))


@triton.jit
def _nothing():
    pass


def load_nothing() -> None:
    """Does all that comes before a launch on the current device; raises what goes wrong."""
    compiled = _nothing.warmup(grid=(1,))
    assert compiled.run is not None  # loads it


@cache
def kept(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on a device, kept for good, as a captured graph may go on reading them."""
    if _captures(device):
        raise RuntimeError(
            f"a CUDA graph is being captured on {device}, and this step needs numbers there that "
            f"no step before it needed. {_ADVICE}"
        )
    return torch.tensor(values, dtype=dtype, device=device)


def scaler_numbers(
    device: torch.device, grad_scale: Tensor | None, found_inf: Tensor | None
) -> tuple[Tensor, Tensor]:
    """GradScaler's two numbers, or those that change nothing: a kernel takes them always."""
    scale = kept((1.0,), torch.float32, device)
    verdict = kept((0.0,), torch.float32, device)
    return (
        scale if grad_scale is None else grad_scale,
        verdict if found_inf is None else found_inf,
    )


_ADVICE = (
    "Take one step like the captured one before the capture: the same options, gradients and "
    "gradient scaling"
)


def _captures(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _refusal(
    kernel: Any,
    purpose: str,
    known: list[tuple[Any, ...]],
    variant: tuple[Any, ...],
    constants: list[str],
) -> str:
    """What is new about a launch, beside the one before that is most like it."""
    name = kernel.fn.__name__
    start = f"a CUDA graph is being captured, and {purpose} takes Triton's kernel {name!r}"
    why = "it would have to be loaded, which a capture forbids"
    if not known:
        return f"{start}, which was never launched here: {why}. {_ADVICE}"
    names = [name for name in kernel.arg_names if name not in constants] + constants
    both = min(
        (list(zip(names, old, variant)) for old in known),
        key=lambda pairs: sum(old != new for _, old, new in pairs),
    )
    new = [f"{name} = {_say(new)}, not {_say(old)}" for name, old, new in both if old != new]
    return f"{start} with what no step before it had ({'; '.join(new)}): {why}. {_ADVICE}"


def _say(kind: Any) -> str:
    if kind is type(None):
        return "None"
    return str(getattr(kind, "__name__", kind))
