"""The optimizers of an asynchronous run; YellowFin closes the loop unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from yfkernels import ClosedLoop, YellowFin
from yfkernels.lab.options import OptionError
from yfkernels.lab.recipes import Recipe, options_of, recipe_of
from yfkernels.lab.registry import over_parameters

# `closed_loop` of YellowFin: what it stands for here
LOOPS: dict[Any, ClosedLoop] = {
    True: ClosedLoop(),
    False: ClosedLoop(gain=0.0, compensate=False),  # changes nothing, and measures
    "paper": ClosedLoop(every=1, compensate=False),
}
NAMES = {True: "closed loop", False: "open loop", "paper": "the paper's closed loop"}


def read_optimizer(text: str) -> Recipe:
    """Reads ``name`` or ``name:option=value,option=value``, as `read_recipe` does.

    YellowFin's `closed_loop` is true (the default here), false, or paper, for the loop as the paper
    has it. With false the total momentum is measured all the same, except where that changes the
    optimizer: with `momentum_form=buffer`, the default of `robust=false`, and with a trust ratio.

    Raises:
        OptionError: no such optimizer, or it refuses the options.
    """
    name, _, settings = text.partition(":")
    try:
        given = options_of(settings)
        if name.strip().lower() == "yellowfin":
            return _yellowfin(name, settings, given)
        return recipe_of(name, settings, given)
    except ValueError as error:
        raise OptionError("optimizer", text, str(error)) from error


def _yellowfin(name: str, settings: str, given: Mapping[str, Any]) -> Recipe:
    asked = given.get("closed_loop", True)
    if asked not in LOOPS:
        raise ValueError("closed_loop is true, false or paper")
    robust = given.get("robust", True)
    buffered = given.get("momentum_form", None if robust else "buffer") == "buffer"
    measured = not (buffered or given.get("trust_ratio"))
    loop = LOOPS[asked] if asked or measured else False
    chosen = recipe_of(name, settings, {**given, "closed_loop": loop})
    others = {option: value for option, value in given.items() if option != "closed_loop"}
    return replace(
        chosen,
        label=f"{chosen.label}, {NAMES[asked]}",
        factory=over_parameters(YellowFin, closed_loop=loop),
        options=others,
        given=others,
    )
