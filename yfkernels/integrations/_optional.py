"""Packages that only one integration needs."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def required(name: str) -> Any:
    """The module of that name.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"yfkernels.integrations.{name} needs {name}: pip install {name}"
        ) from error
