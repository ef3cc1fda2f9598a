"""Packages that only one integration needs."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def required(module: str) -> Any:
    """The module of that name.

    Raises:
        ImportError: its package is not installed; says what to install.
    """
    name = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"yfkernels.integrations.{name} needs {name}, which cannot be imported ({error}): "
            f'pip install "yfkernels[{name}]"'
        ) from error
