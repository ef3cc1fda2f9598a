"""The parts of torchvision, which is needed for some data sets and networks only."""

from __future__ import annotations

import importlib
from typing import Any

from yfkernels.lab.options import OptionError


def torchvision_part(part: str, *, option: str, value: str, use: str, others: str) -> Any:
    """A module of torchvision.

    Args:
        part: its name, such as "datasets".
        option: what needs it, as `Options` names it.
        value: of the option.
        use: what torchvision does for it, as the beginning of a sentence.
        others: what to do without torchvision.

    Raises:
        OptionError: it cannot be imported.
    """
    try:
        return importlib.import_module(f"torchvision.{part}")
    except (ImportError, OSError, RuntimeError) as error:  # its build has to suit torch's
        raise OptionError(
            option,
            value,
            f"{use} torchvision, which cannot be imported ({error}): install the torchvision that "
            f"belongs to your torch, or {others}",
        ) from error
