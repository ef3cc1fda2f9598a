"""The ``yfkernels`` command: demo, compare, large-batch, tune, async, robustness and others."""

from __future__ import annotations

import importlib
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import yfkernels
from yfkernels.lab.recipes import Recipe, read_recipe
from yfkernels.lab.registry import OPTIMIZERS

if TYPE_CHECKING:
    from yfkernels.lab.workloads.examples import ExamplesTask

OPTIONAL_PACKAGES = ("matplotlib", "mlxtend", "numpy", "rich", "sklearn", "typer")


def _exit_without(package: str) -> NoReturn:
    sys.exit(f'This command needs {package}, which is not installed: pip install "yfkernels[demo]"')


try:
    import typer

    from yfkernels.lab.arguments import (
        INTERRUPTED,
        THREADS,
        Out,
        Threads,
        example,
        made_folder,
        refusals,
    )
    from yfkernels.lab.asynchrony.command import train_asynchronously
    from yfkernels.lab.next_steps import tell_after_compare, tell_after_demo
    from yfkernels.lab.robustness.command import measure_robustness
    from yfkernels.lab.tuning.command import tune
except ModuleNotFoundError as error:
    if sys.argv[1:] == ["config"]:  # for a look at what was installed
        yfkernels.show_config()
        sys.exit()
    _exit_without(str(error.name))

app = typer.Typer(
    help="PyTorch optimizers that tune themselves, in fused kernels.",
    epilog=example("demo"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Workload(str, Enum):
    """What `compare` and `large-batch` may train on."""

    DIGITS_CONV = "digits-conv"
    DIGITS_MLP = "digits-mlp"
    MNIST_LSTM = "mnist-lstm"
    MNIST_MLP = "mnist-mlp"


Recipes = Annotated[
    list[str],
    typer.Argument(
        metavar="OPTIMIZER...", help="Names, or names with settings: lamb:lr=0.02,preset=timm"
    ),
]
Seeds = Annotated[int, typer.Option(min=1, help="Trainings for each optimizer.")]

SHOWN = ["yellowfin", "adamw", "sgd"]
COMPARED = [*(row.name for row in OPTIMIZERS), "adamw", "sgd"]
FOR_LARGE_BATCHES = ["lamb", "adamw", "sgd"]
FOR_SHARPNESS = [*FOR_LARGE_BATCHES, "yellowfin", "yellowfin:robust=false"]


@app.command(epilog=example("demo --optimizers yellowfin,lamb,adamw --seed 1"))
def demo(
    steps: Annotated[int, typer.Option(min=1, help="Training steps for each optimizer.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and the batch order.")] = 0,
    out: Out = Path("runs/demo"),
    optimizers: Annotated[
        str, typer.Option(help="Which to compare, separated by commas.")
    ] = ",".join(SHOWN),
) -> None:
    """Train a small conv net on handwritten digits with YellowFin, AdamW and SGD."""
    chosen = _recipes(optimizers.split(","), option="'--optimizers'")
    # Here, because the other commands do without what these load.
    from yfkernels.lab.compare import run_comparison

    run_comparison(
        _task(Workload.DIGITS_CONV),
        chosen,
        steps=steps,
        seeds=[seed],
        threads=THREADS,
        folder=made_folder(out),
        name="demo",
    )
    tell_after_demo(chosen)


@app.command(epilog=example("compare yellowfin lamb:lr=0.02,preset=timm adamw --seeds 3"))
def compare(
    optimizers: Recipes = COMPARED,
    workload: Annotated[Workload, typer.Option(help="What to train.")] = Workload.DIGITS_CONV,
    steps: Annotated[int, typer.Option(min=1, help="Training steps for each optimizer.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 64,
    seeds: Seeds = 1,
    threads: Threads = THREADS,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why the last step of each was what it was.")
    ] = False,
    out: Out = Path("runs/compare"),
) -> None:
    """Train one workload with several optimizers: table, figure and every step as CSV."""
    chosen = _recipes(optimizers, option="'OPTIMIZER...'")
    from yfkernels.lab.compare import run_comparison

    run_comparison(
        _task(workload, batch_size=batch_size, option="'--batch-size'"),
        chosen,
        steps=steps,
        seeds=range(seeds),
        threads=threads,
        folder=made_folder(out),
        name="compare",
        explain=explain,
    )
    tell_after_compare(chosen, seeds=seeds, explain=explain)


@app.command(epilog=example("large-batch lamb sgd --batch-sizes 32,256,1024 --epochs 10"))
def large_batch(
    optimizers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OPTIMIZER...",
            help="As of compare. Default: lamb adamw sgd; with --sharpness also YellowFin's two.",
        ),
    ] = None,
    workload: Annotated[Workload, typer.Option(help="What to train.")] = Workload.DIGITS_MLP,
    batch_sizes: Annotated[
        str | None,
        typer.Option(
            help="Images a step, separated by commas; lr is tuned at the smallest, with "
            "--sharpness at both. Default: 32,64,128,256,512,1024; with --sharpness 32,512."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="The same at every batch size. Default: 20, with --sharpness 40."),
    ] = None,
    seeds: Seeds = 3,
    threads: Threads = THREADS,
    sharpness: Annotated[
        bool, typer.Option("--sharpness", help="Measure what a large batch does to the minimum.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --sharpness: go on where it was stopped.")
    ] = False,
    out: Out = Path("runs/large-batch"),
) -> None:
    """Tune lr at a small batch, scale it by rule to larger ones, and see what gets lost.

    An lr given with an optimizer is where its search starts, not what it trains with.
    """
    default = FOR_SHARPNESS if sharpness else FOR_LARGE_BATCHES
    chosen = _recipes(optimizers or default, option="'OPTIMIZER...'")
    sizes = _sizes(batch_sizes or ("32,512" if sharpness else "32,64,128,256,512,1024"))
    for size in sizes:
        task = _task(workload, batch_size=size, option="'--batch-sizes'")
    if not sharpness:
        if resume:
            raise typer.BadParameter("only with --sharpness; leave it out", param_hint="'--resume'")
        from yfkernels.lab.compare import run_large_batch

        run_large_batch(
            task,
            chosen,
            batch_sizes=sizes,
            epochs=epochs or 20,
            seeds=range(seeds),
            threads=threads,
            folder=made_folder(out),
        )
        return
    if len(sizes) != 2:
        raise typer.BadParameter(
            f"{len(sizes)} of them; give two with --sharpness, a small and a large",
            param_hint="'--batch-sizes'",
        )
    from yfkernels.lab.minima.run import run_minima
    from yfkernels.lab.minima.study import Plan

    try:
        with refusals():
            run_minima(
                task,
                chosen,
                Plan((sizes[0], sizes[1]), epochs or 40),
                seeds=seeds,
                threads=threads,
                folder=made_folder(out),
                resume=resume,
            )
    except KeyboardInterrupt:
        typer.echo("Interrupted: the same command with --resume goes on from here.")
        raise typer.Exit(INTERRUPTED) from None


def _sizes(text: str) -> list[int]:
    try:
        return sorted({int(size) for size in text.split(",")})
    except ValueError:
        raise typer.BadParameter(
            f"cannot read {text!r}; write whole numbers, separated by commas",
            param_hint="'--batch-sizes'",
        ) from None


def _recipes(texts: list[str], *, option: str) -> list[Recipe]:
    try:
        chosen = [read_recipe(text) for text in texts]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    return list({(one.label, one.setting): one for one in chosen}.values())


def _task(workload: Workload, *, batch_size: int = 64, option: str = "") -> ExamplesTask:
    from yfkernels.lab.workloads import digits, mnist

    make = {
        Workload.DIGITS_CONV: digits.digits_conv,
        Workload.DIGITS_MLP: digits.digits_mlp,
        Workload.MNIST_LSTM: mnist.mnist_lstm,
        Workload.MNIST_MLP: mnist.mnist_mlp,
    }[workload]
    try:
        return make().with_batch_size(batch_size)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


app.command(epilog=example("tune --method marthe --optimizer adam"))(tune)
app.command("async", epilog=example("async --workers 8 --staleness memoryless --epochs 5"))(
    train_asynchronously
)
app.command("robustness", epilog=example("robustness --workload digits-mlp --steps 200"))(
    measure_robustness
)


@app.command(
    add_help_option=False,
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)
def bench(context: typer.Context) -> None:
    """Measure time and bandwidth of a step; options go to bench/speed/runner.py (try --help)."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "bench" / "speed" / "runner.py").is_file():
        sys.exit("yfkernels bench needs the source checkout: clone it and run `make bench` there")
    sys.path.insert(0, str(checkout))
    runner = importlib.import_module("bench.speed.runner")
    raise typer.Exit(runner.main(context.args))


@app.command(epilog=example("config"))
def config() -> None:
    """Show which backend serves each device, and why not the others."""
    yfkernels.show_config()


def main() -> None:
    """Runs the command; a missing optional package becomes one line instead of a traceback."""
    try:
        app(prog_name="yfkernels")
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in OPTIONAL_PACKAGES:
            raise
        _exit_without(package)


if __name__ == "__main__":
    main()
