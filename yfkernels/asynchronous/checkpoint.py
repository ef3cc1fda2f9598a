"""What a server's checkpoint must have, looked at before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yfkernels.asynchronous.batches import Batches
from yfkernels.asynchronous.flat import FlatBuffers
from yfkernels.asynchronous.staleness import StalenessRule

_SAVED = ("version", "parameters", "optimizer", "log", "batches", "staleness_rule")


def check(
    state_dict: Mapping[str, Any],
    buffers: FlatBuffers,
    batches: Batches | None,
    rule: StalenessRule | None,
) -> None:
    """Raises ValueError unless a server of these would load it.

    The optimizer looks at its own part.
    """
    if missing := [name for name in _SAVED if name not in state_dict]:
        lacking = ", ".join(missing)
        raise ValueError(
            f"Invalid state_dict: it lacks {lacking}; give what Server.state_dict() returned"
        )
    if not buffers.fit(state_dict["parameters"]):
        saved, own = (
            [(len(flat), flat.dtype) for flat in flats]
            for flats in (state_dict["parameters"], buffers.parameters)
        )
        raise ValueError(
            f"Invalid state_dict: its flat parameters are {saved}, the model's {own}; construct "
            "the server with the same model"
        )
    parts = {"batches": batches, "staleness_rule": rule}
    for name, part in parts.items():
        if (part is None) != (state_dict[name] is None):
            how = "without" if state_dict[name] is None else "with"
            raise ValueError(
                f"Invalid state_dict: it was saved {how} {name}; construct the server {how} it"
            )
    if batches is not None:
        batches.check(state_dict["batches"])
