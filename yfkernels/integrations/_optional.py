"""Packages that only one integration needs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# where the module's name is not what pip calls the package
_PACKAGES = {"ignite": "pytorch-ignite"}


def required(module: str) -> Any:
    """The module of that name.

    Raises:
        ImportError: its package is not installed; says what to install.
    """
    name = module.partition(".")[0]
    try:
        return import_module(module)
    except ImportError as error:
        package = _PACKAGES.get(name, name)
        raise ImportError(
            f"yfkernels.integrations.{name} needs {name}, which cannot be imported ({error}): "
            f"pip install {package}"
        ) from error
