"""Arguments that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Threads = Annotated[int, typer.Option(min=1, help="CPU threads for torch.")]
Out = Annotated[Path, typer.Option(help="Folder for the figure and the numbers.")]

# One thread is quick enough for so small a net. Where other programs hold the cores, two threads
# wait for each other at every layer: measured on a busy machine, 8 times the time of one.
THREADS = 1


def made_folder(path: Path) -> Path:
    """The folder of `--out`, which is made if it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(
            f"cannot make the folder {path}: {error.strerror}; name one you may write to",
            param_hint="'--out'",
        ) from None
    return path
