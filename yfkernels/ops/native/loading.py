"""Loads yfkernels._C, if it was built from the same sources as this package."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from yfkernels.ops import constants
from yfkernels.ops.native.module import Module
from yfkernels.ops.options import TUNER_OPTIONS
from yfkernels.ops.rules import RULES, BiasCorrection, Measure, Rule
from yfkernels.ops.tangents import FAMILIES, PROJECTED, PROJECTION, PROJECTIONS
from yfkernels.ops.watch import Place, Seen

_RECORD = Path(__file__).parents[2] / "_build.json"


def build_record() -> dict[str, str]:
    """What setup.py wrote about the build: code, reason, archs_from; empty if it has not run."""
    record: dict[str, str] = json.loads(_RECORD.read_text()) if _RECORD.exists() else {}
    return record


def layout() -> dict[str, Any]:
    """What both languages must agree on, as this package has it."""
    return {
        "row": list(constants.ROW),
        "slot": list(constants.SUMS),
        "state": list(constants.STATE_FIELDS),
        "group": list(constants.GROUP_FIELDS),
        "gate_state": list(constants.GATE_STATE),
        "settings": list(constants.SETTINGS),
        "options": list(TUNER_OPTIONS),
        "rules": list(map(_described, RULES)),
        "families": [
            {
                "name": f.name,
                "fields": list(f.fields),
                "slots": len(f.slots),
                "tangents": f.tangents,
            }
            for f in FAMILIES
        ],
        "projections": [{"name": p.name, "columns": p.columns} for p in PROJECTIONS],
        "projection": list(PROJECTION),
        "projected": list(PROJECTED),
        "numbers": constants.numbers(),
        "seen": {name: value for name, value in vars(Seen).items() if name.isupper()},
        "places": {place.name: int(place) for place in Place},
        "measures": {measure.name: int(measure) for measure in Measure},
        "corrections": {correction.name: int(correction) for correction in BiasCorrection},
    }


def _described(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "fields": list(rule.fields),
        "states": rule.states,
        "move_sums": rule.move_sums,
        "stored": int(rule.stored),
    }


def differences(theirs: dict[str, Any]) -> list[str]:
    """The entries of a module's layout that are not those of this package."""
    ours = layout()
    return sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )


def _load() -> tuple[Module | None, str | None]:
    try:
        module: Any = import_module("yfkernels._C")
    except ModuleNotFoundError:
        return None, "the extension yfkernels._C was not built"
    except ImportError as error:
        return None, f"the extension yfkernels._C cannot be loaded: {error}"
    wrong = differences(module.layout()) if hasattr(module, "layout") else ["layout"]
    if wrong:
        return None, (
            "the extension yfkernels._C was built from other sources, which differ in "
            f"{', '.join(wrong)}; build it again"
        )
    return module, None


compiled, reason = _load()
"""The module, or None; and why there is none."""


def build_info() -> dict[str, str] | None:
    """Compiler, CUDA version, architectures and instruction set; None without the extension."""
    return None if compiled is None else dict(compiled.build_info())
