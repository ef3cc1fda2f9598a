"""The command: run the rungs, report what is there.

python -m bench.convergence.ladder run --minutes 180
python -m bench.convergence.ladder report
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from bench.common.results import RESULTS
from bench.common.tables import show
from bench.convergence import cli
from bench.convergence.ladder import CONTESTANTS
from bench.convergence.outside import register
from bench.convergence.store import Store

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
MODULE = "bench.convergence.ladder"
STORED = RESULTS / "convergence-ladder"

Out = Annotated[Path, typer.Option(help="Folder of the results.")]


@app.command()
def run(
    rungs: Annotated[str, typer.Option(help="Names or patterns.")] = "ladder-*",
    contestants: Annotated[str, typer.Option(help="Names or patterns.")] = ",".join(CONTESTANTS),
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0",
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    minutes: Annotated[
        float, typer.Option(min=0.0, help="After so many no further training is started.")
    ] = math.inf,
    out: Out = STORED,
) -> None:
    """Train what is not stored yet, the cheapest rungs first: `bench.convergence run` for them."""
    cli.run(
        tasks=rungs,
        contestants=contestants,
        seeds=seeds,
        jobs=jobs,
        minutes=minutes,
        module=[MODULE],
        out=out,
    )


@app.command()
def report(out: Out = STORED) -> None:
    """Print the table of what is stored; write it, its numbers and a picture."""
    from bench.convergence.ladder.outcome import outcomes  # here: what they load takes seconds
    from bench.convergence.ladder.report import table, write

    register(MODULE)
    try:
        found = list(outcomes(Store(out)))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="'--out'") from error
    if not found:
        print("No rung has all its multipliers yet.")
        return
    show(table(found))
    for path in write(found, out):
        print(f"Written: {path}")
