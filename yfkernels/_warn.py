"""Warnings that point at the user's line of code, however deep in the library they are raised."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

_INSIDE = tuple(
    str(Path(module.__file__ or "").parent) for module in (sys.modules["yfkernels"], torch)
)


def warn(message: str) -> None:
    """Issues a UserWarning at the innermost frame outside torch and this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
