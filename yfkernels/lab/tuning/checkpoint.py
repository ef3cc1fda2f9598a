"""Saving a run whole or not at all, and the random states that belong to it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yfkernels._saving import load_plain, save_whole

NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Writes a run's state; a kill at any moment leaves the one before, or this one."""
    save_whole(folder / NAME, state)


def load(folder: Path) -> dict[str, Any]:
    """What `save` wrote.

    Raises:
        FileNotFoundError: nothing yet.
        ValueError: it cannot be read.
    """
    return load_plain(folder / NAME, "remove it, or leave --resume out")


def random_states() -> dict[str, Any]:
    """Those of torch, NumPy and Python, as plain values and tensors."""
    numpy: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *place = numpy
    return {
        "torch": torch.get_rng_state(),
        "numpy": (name, keys.tolist(), *place),
        "python": random.getstate(),
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Puts back what `random_states` saw."""
    torch.set_rng_state(states["torch"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])


def seed_all(seed: int) -> None:
    """Seeds the same three."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
