"""The command `yfkernels robustness`: its options, and their errors in a command line's words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yfkernels.lab.arguments import (
    INTERRUPTED,
    THREADS,
    Out,
    Threads,
    made_folder,
    one_of,
    refusals,
)

# As in options.py and contestants.py, which take a second to import; a test compares them.
WORKLOADS = ("quadratic", "digits-mlp", "text-lstm")
OPTIMIZERS = ("sgd", "adam", "adamw", "yellowfin")


def measure_robustness(
    workload: Annotated[
        list[str] | None,
        typer.Option(
            metavar=one_of(WORKLOADS), help="What to train; may be repeated. Default: all."
        ),
    ] = None,
    optimizer: Annotated[
        list[str] | None,
        typer.Option(metavar=one_of(OPTIMIZERS), help="With what; may be repeated. Default: all."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Of every training. Default: 1000, 500 and 150."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings at each wrong setting.")] = 3,
    threads: Threads = THREADS,
    out: Out = Path("runs/robustness"),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Keep the trainings in --out and run those that are missing."
        ),
    ] = False,
) -> None:
    """Tune optimizers, set lr and momentum wrong by up to 100 times, and see what it costs.

    Writes a table, a figure, every training as CSV, and a figure of the theory.

    Without --resume, a run in --out is replaced.
    """
    # Here, because the other commands do without what these load.
    from yfkernels.lab.robustness.options import Options
    from yfkernels.lab.robustness.run import load, run

    with refusals():
        options = Options(
            workload=tuple(workload or ()),
            optimizer=tuple(optimizer or ()),
            steps=steps,
            seeds=seeds,
            threads=threads,
        )
        try:
            done = load(out) if resume else {}
        except FileNotFoundError:
            raise typer.BadParameter(
                f"there is no run in {out}; leave it out to begin one, or name its folder in --out",
                param_hint="'--resume'",
            ) from None
    try:
        finished = run(options, made_folder(out), done)
    except KeyboardInterrupt:  # in the report
        finished = False
    if not finished:
        typer.echo("Interrupted: the same command with --resume goes on from here.")
        raise typer.Exit(INTERRUPTED)
