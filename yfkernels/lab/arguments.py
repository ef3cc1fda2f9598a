"""Arguments that commands share, and how they tell what they refuse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from yfkernels.lab.options import OptionError

Threads = Annotated[int, typer.Option(min=1, help="CPU threads for torch.")]
Out = Annotated[Path, typer.Option(help="Folder for the figure and the numbers.")]

# One thread is quick enough for so small a net. Where other programs hold the cores, two threads
# wait for each other at every layer: measured on a busy machine, 8 times the time of one.
THREADS = 1
INTERRUPTED = 130  # exit status, as a shell has it


def example(arguments: str) -> str:
    """The last line of a command's help."""
    return f"Example: yfkernels {arguments}"


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


def one_of(names: Iterable[str]) -> str:
    """A choice as the help shows it."""
    return f"[{'|'.join(names)}]"


@contextmanager
def refusals() -> Iterator[None]:
    """Errors of options are told as typer tells its own."""
    try:
        yield
    except OptionError as error:
        hint = f"'--{error.option.replace('_', '-')}'"
        raise typer.BadParameter(f"{error.value!r}; {error.fix}", param_hint=hint) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
