"""The command `yfkernels async`: its options, and their errors in the words of a command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from yfkernels.lab.options import OptionError

if TYPE_CHECKING:
    from yfkernels.lab.asynchrony.options import Options
    from yfkernels.lab.asynchrony.training import Training

# As in asynchrony/options.py, which takes a second to import; a test compares them.
ENGINES = ("simulator", "gloo", "ray")
WORKLOADS = ("digits-conv", "digits-mlp", "text-lstm", "text-transformer")
ORDERS = ("round-robin", "memoryless")
RULES = ("none", "delay_adaptive", "drop_older:N", "age_gate", "cosine_gate")
FAILED, REFUSED = 1, 2  # exit statuses


def train_asynchronously(
    engine: Annotated[
        str,
        typer.Option(
            metavar=one_of(ENGINES),
            help="simulator: one process, repeatable to the bit. gloo, ray: real processes.",
        ),
    ] = "simulator",
    workers: Annotated[
        int | None, typer.Option(help="How many push gradients. Default: 4, or torchrun's.")
    ] = None,
    optimizer: Annotated[
        str,
        typer.Option(
            help="Name, or name with settings: sgd:lr=0.02,momentum=0. yellowfin closes the loop; "
            "yellowfin:closed_loop=false only measures, closed_loop=paper is the paper's.",
        ),
    ] = "yellowfin",
    workload: Annotated[
        str, typer.Option(metavar=one_of(WORKLOADS), help="What to train.")
    ] = "digits-conv",
    staleness: Annotated[
        str | None,
        typer.Option(
            metavar=one_of(ORDERS),
            help="Who pushes next on the simulator: the workers in turn, the default, or each as "
            "likely as the others.",
        ),
    ] = None,
    rule: Annotated[
        str,
        typer.Option(
            metavar=one_of(RULES),
            help="What weighs a push by its staleness; with settings: age_gate:decay=0,cutoff=8.",
        ),
    ] = "none",
    max_staleness: Annotated[
        int | None, typer.Option(min=0, help="Refuse pushes that are more stale.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples a push. Default: digits 64, text 16.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data. Default: digits 20.")
    ] = None,
    pushes: Annotated[
        int | None,
        typer.Option(min=1, help="Or: applied pushes until the end. Default: text 1000."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of weights, batch order and memoryless workers.")
    ] = 0,
    threads: Threads = THREADS,
    out: Out = Path("runs/async"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, whatever stopped it.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Where gloo's processes meet. Default: a free one."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster; auto: this machine's. Default: Ray starts here."),
    ] = None,
) -> None:
    """Train with the stale gradients of several workers: table, figure, CSV, checkpoint.

    With gloo it starts its processes here; under torchrun it is one of them.

    Without --resume, a run in --out is replaced.
    """
    # Here, because the other commands do without what these load.
    from yfkernels.lab.asynchrony.options import Options
    from yfkernels.lab.asynchrony.processes import launch, started_by_torchrun

    with refusals(), _told_once():
        is_rank = engine == "gloo" and started_by_torchrun()
        _check_places(engine, port=port, address=address, is_rank=is_rank)
        options = Options(
            engine=engine,
            workers=_world(workers) if is_rank else 4 if workers is None else workers,
            optimizer=optimizer,
            workload=workload,
            staleness=staleness,
            rule=rule,
            max_staleness=max_staleness,
            batch_size=batch_size,
            epochs=epochs,
            pushes=pushes,
            seed=seed,
            threads=threads,
        ).completed()
        if is_rank and int(os.environ["RANK"]) > 0:
            _work(options)
            return
        training, state = _prepared(options, out, resume)
        folder = made_folder(out)
        if engine == "gloo" and not is_rank:
            try:
                _exit_like(launch(_arguments(options, out, resume), options.workers, port))
            except KeyboardInterrupt:
                typer.echo("Interrupted before training began.")
                raise typer.Exit(INTERRUPTED) from None
    _run(training, folder, state, address)


def _check_places(engine: str, *, port: int | None, address: str | None, is_rank: bool) -> None:
    """Raises OptionError for what means nothing to an engine, or for an engine that is not here."""
    if port is not None and (engine != "gloo" or is_rank):
        why = "torchrun has --master-port" if is_rank else f"{engine} has none"
        raise OptionError("port", port, f"{why}; leave it out")
    if address is not None and engine != "ray":
        raise OptionError("address", address, f"{engine} has none; leave it out")
    if engine == "ray":
        try:
            import ray  # noqa: F401
        except ImportError:
            fix = 'Ray is not installed: pip install "yfkernels[ray]", or choose gloo'
            raise OptionError("engine", engine, fix) from None


def _world(workers: int | None) -> int:
    """Number of workers that torchrun has started."""
    started = int(os.environ["WORLD_SIZE"]) - 1
    if started < 2:
        raise OptionError(
            "workers",
            started,
            "torchrun has to start 3 processes or more, the server and 2 workers; with fewer no "
            "gradient is ever stale",
        )
    if workers not in (None, started):
        raise OptionError(
            "workers",
            workers,
            f"torchrun has started {started} beside the server; leave it out, or start "
            f"{workers + 1} processes",
        )
    return started


def _prepared(
    options: Options, folder: Path, resume: bool
) -> tuple[Training, dict[str, Any] | None]:
    """The training, and the checkpoint to go on from."""
    from yfkernels.lab.asynchrony.run import load
    from yfkernels.lab.asynchrony.training import Training

    training = Training(options)
    if not resume:
        return training, None
    try:
        return training, load(training, folder)
    except FileNotFoundError:
        raise typer.BadParameter(
            f"there is no run in {folder}; leave it out to begin one, or name its folder in --out",
            param_hint="'--resume'",
        ) from None


def _arguments(options: Options, out: Path, resume: bool) -> list[str]:
    """Those that make this command, in another process, the same."""
    given = {name: value for name, value in asdict(options).items() if value is not None}
    named = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return ["async", *named, f"--out={out}", *(["--resume"] if resume else [])]


def _run(
    training: Training, folder: Path, state: dict[str, Any] | None, address: str | None
) -> None:
    from yfkernels.lab.asynchrony.run import run

    try:
        with refusals():
            finished = run(training, folder, state, address=address)
    except (ConnectionError, RuntimeError) as error:
        _fail(str(error))
    if not finished:
        typer.echo("Interrupted: the same command with --resume goes on from here.")
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _told_once() -> Iterator[None]:
    """Of the processes of torchrun, the server alone says what is wrong with the options."""
    try:
        yield
    except (OptionError, typer.BadParameter):
        if int(os.environ.get("RANK", "0")) > 0:
            raise typer.Exit(REFUSED) from None
        raise


def _work(options: Options) -> None:
    """As one of the workers."""
    from yfkernels.lab.asynchrony.processes import work

    try:
        work(options)
    except ConnectionError as error:
        _fail(f"rank {os.environ['RANK']}: {error}")


def _exit_like(status: int) -> None:
    """Ends as the server did."""
    if status < 0:
        _fail(f"signal {-status} ended the server; --resume goes on from its last checkpoint")
    raise typer.Exit(status)


def _fail(why: str) -> None:
    typer.echo(f"Error: {why}", err=True)
    raise typer.Exit(FAILED)
