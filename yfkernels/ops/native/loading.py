"""Loads yfkernels._C, if it was built from the same sources as this package."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from yfkernels.ops import constants
from yfkernels.ops.rules import RULES
from yfkernels.ops.watch import Place, Seen

_RECORD = Path(__file__).parents[2] / "_build.json"


def build_record() -> dict[str, str]:
    """What setup.py wrote about the build: code, reason, archs_from; empty if it has not run."""
    record: dict[str, str] = json.loads(_RECORD.read_text()) if _RECORD.exists() else {}
    return record


def without(what: str) -> str:
    """Why something is missing that setup.py left out, and how to get it."""
    reason = build_record().get("reason")
    if reason is None:
        return f"{what}: run `make build` or `python setup.py build_ext --inplace` in the checkout"
    if reason.startswith("YFK_BUILD="):
        return f"{what}: {reason} was set when it was installed"
    return f"{what}: {reason}. Then install yfkernels again, with `pip install -v` to see the build"


def _load() -> tuple[Any, str | None]:
    try:
        module: Any = import_module("yfkernels._C")
    except ModuleNotFoundError:
        return None, without("the extension yfkernels._C was not built")
    except ImportError as error:
        return None, f"the extension yfkernels._C cannot be loaded: {error}"
    expected = {
        "COLUMNS": constants.COLUMNS,
        "ROW_WORDS": len(constants.ROW),
        "STATE_WORDS": len(constants.STATE_FIELDS),
        "STATE_FORMAT": constants.STATE_FORMAT,
        "GROUP_WORDS": len(constants.GROUP_FIELDS),
        "GATE_WORDS": len(constants.GATE_STATE),
        "COEFFICIENT_WORDS": [len(rule.fields) for rule in RULES],
        "SEEN": [value for name, value in vars(Seen).items() if name.isupper()],
        "PLACES": list(Place),
        "SUMS": len(constants.SUMS),
        "TILE": constants.TILE,
    }
    layout = {name: getattr(module, name, None) for name in expected}
    if layout != expected:
        return None, "the extension yfkernels._C was built from other sources; build it again"
    return module, None


compiled, reason = _load()
"""The module, or None; and why there is none."""


def build_info() -> dict[str, str] | None:
    """Compiler, CUDA version, architectures and instruction set; None without the extension."""
    return None if compiled is None else dict(compiled.build_info())
