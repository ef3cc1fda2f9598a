"""`python -m bench.convergence`: run, report, forget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fnmatch import filter as matching
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.common.environment import commit
from bench.common.results import RESULTS
from bench.convergence import runner
from bench.convergence.campaign import Campaign
from bench.convergence.cell import TUNING_SEEDS
from bench.convergence.contestants import CONTESTANTS
from bench.convergence.outside import Outside
from bench.convergence.store import Store
from bench.convergence.tasks import TASKS, data_of

STORED = RESULTS / "convergence"

app = typer.Typer(
    help="How fast and how far optimizers train real tasks, beside their rivals.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Tasks = Annotated[str, typer.Option(help="Names or patterns, separated by commas.")]
Contestants = Annotated[str, typer.Option(help="Names or patterns, separated by commas.")]
Seeds = Annotated[str, typer.Option(help="Of the measured trainings, separated by commas.")]
Modules = Annotated[
    list[str] | None,
    typer.Option("--module", help="Python file or module with more contestants; repeatable."),
]
Data = Annotated[Path | None, typer.Option(help="Folder that holds CIFAR's unpacked files.")]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]

SEEDS = "0,1,2,3,4"


@app.command()
def run(
    tasks: Tasks = "*",
    contestants: Contestants = "*",
    seeds: Seeds = SEEDS,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    minutes: Annotated[
        float, typer.Option(min=0.0, help="After so many no further training is started.")
    ] = math.inf,
    module: Modules = None,
    data: Data = None,
    out: Out = STORED,
) -> None:
    """Train what is not stored yet. May be stopped at any time, and goes on where it was."""
    console = Console()
    outside = _load(module, data, console)
    campaign = Campaign(
        {name: data_of(TASKS[name]) for name in _names(tasks, TASKS, "--tasks")},
        _available(_names(contestants, CONTESTANTS, "--contestants"), console),
        _numbers(seeds),
    )
    store = _store(out)
    before = len(store)
    failed = runner.run(
        campaign,
        store,
        jobs=jobs,
        seconds=60.0 * minutes,
        outside=outside,
        commit=_commit(),
        console=console,
    )
    left = sum(1 for cell in campaign.missing(store) if cell.key not in failed)
    more = f"at least {left} are left" if left else "nothing is left"
    console.print(f"{len(store) - before} trainings added, {more}.")
    for key, reason in failed.items():
        console.print(f"Failed: {key.task}, {key.optimizer}, seed {key.seed}: {reason}")
    if failed:
        raise typer.Exit(1)


@app.command()
def report(
    tasks: Tasks = "*",
    contestants: Contestants = "*",
    seeds: Seeds = SEEDS,
    module: Modules = None,
    data: Data = None,
    out: Out = STORED,
) -> None:
    """Write tables and pictures of what is stored."""
    from bench.convergence.report import write  # here: what it loads takes seconds

    console = Console()
    _load(module, data, console)
    store = _store(out)
    written = write(
        store,
        out,
        tasks=_names(tasks, TASKS, "--tasks"),
        contestants=_names(contestants, CONTESTANTS, "--contestants"),
        seeds=_numbers(seeds),
    )
    for path in written:
        console.print(f"Written: {path}", soft_wrap=True)


@app.command()
def forget(
    contestants: Contestants,
    tasks: Tasks = "*",
    module: Modules = None,
    data: Data = None,
    out: Out = STORED,
) -> None:
    """Drop the trainings of contestants, tuning included, after their code has changed."""
    console = Console()
    _load(module, data, console)
    names = _names(contestants, CONTESTANTS, "--contestants")
    optimizers = {CONTESTANTS[name].optimizer for name in names}
    dropped = _store(out).drop(_names(tasks, TASKS, "--tasks"), optimizers)
    console.print(f"{dropped} trainings dropped.")


def _load(modules: Sequence[str] | None, data: Path | None, console: Console) -> Outside:
    outside = Outside(modules or (), data)
    try:
        absent = outside.load()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--module'") from error
    for name, reason in absent.items():
        console.print(f"Absent: {name}: {reason}", style="dim")
    return outside


def _store(folder: Path) -> Store:
    try:
        return Store(folder)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--out'") from error


def _available(names: Sequence[str], console: Console) -> list[str]:
    """Those that can be built; the others are told with the reason."""
    reasons = {name: CONTESTANTS[name].why_absent for name in names}
    for name, reason in reasons.items():
        if reason is not None:
            console.print(f"Not available: {name}: {reason}")
    return [name for name, reason in reasons.items() if reason is None]


def _names(patterns: str, known: Iterable[str], option: str) -> list[str]:
    """The known names that one of the patterns fits, in their own order."""
    found: set[str] = set()
    for pattern in patterns.split(","):
        fitting = matching(known, pattern.strip())
        if not fitting:
            raise typer.BadParameter(
                f"nothing is called {pattern!r}; choose from {', '.join(known)}",
                param_hint=f"'{option}'",
            )
        found.update(fitting)
    return [name for name in known if name in found]


def _commit() -> str:
    """The short commit, with a plus where the working tree differs from it."""
    head, *changes = (commit() or "").split()
    return head[:7] + "+" * bool(changes)


def _numbers(text: str) -> list[int]:
    hint = "'--seeds'"
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        message = f"{text!r} is not whole numbers separated by commas"
        raise typer.BadParameter(message, param_hint=hint)
    seeds = list(dict.fromkeys(map(int, numbers)))
    if tuning := set(seeds).intersection(TUNING_SEEDS):
        message = f"{min(tuning)} is for tuning; choose another"
        raise typer.BadParameter(message, param_hint=hint)
    return seeds
