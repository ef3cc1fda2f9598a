"""Two moments of the gradient, in float32 or in a byte each."""

from __future__ import annotations

from yfkernels._checks import require
from yfkernels.ops.rules import Rule, Stored


def by_bits(state_bits: int, in_floats: Rule, in_bytes: Rule) -> Rule:
    """The rule that keeps moments in so many bits.

    Raises:
        ValueError: there is none.
    """
    require(state_bits in (8, 32), "state_bits", state_bits, "8 or 32")
    return in_bytes if state_bits == 8 else in_floats


def check_betas_of(rule: Rule, betas: tuple[float, float]) -> None:
    """In bytes the first moment is relative to the root of the second, which must not decay faster.

    Raises:
        ValueError: it does.
    """
    first, second = betas
    slower = rule.stored != Stored.MOMENTS or first**2 <= second
    require(slower, "betas", betas, "betas[0]**2 <= betas[1] with state_bits=8")
