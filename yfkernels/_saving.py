"""Files of state that are written whole or not at all, and hold nothing but plain values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_whole(path: Path, state: dict[str, Any]) -> None:
    """Writes a state; a kill at any moment leaves the file as it was, or this one."""
    written = path.with_name(f"{path.name}.new")
    with written.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)


def load_plain(path: Path, fix: str) -> dict[str, Any]:
    """What `save_whole` wrote. Tensors, numbers, strings and their containers: nothing runs.

    Args:
        path: the file.
        fix: what to do if it cannot be read.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch's own, pickle's and zipfile's
        raise ValueError(f"cannot read {path}: {fix}") from error
    return state
