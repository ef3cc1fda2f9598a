"""The command `yfkernels tune`: its options, and their errors in the words of a command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from yfkernels.lab.tuning.bases import BASES
from yfkernels.lab.tuning.datasets import DATASETS, build_task
from yfkernels.lab.tuning.methods import METHODS
from yfkernels.lab.tuning.options import Options

if TYPE_CHECKING:
    from yfkernels.lab.tuning.training import Training


def tune(
    network: Annotated[
        str, typer.Option(help="mlp, lenet-5, vgg-11, resnet-18, or a classifier of torchvision.")
    ] = Options.network,
    dataset: Annotated[
        str, typer.Option(metavar=one_of(DATASETS), help="What to train on.")
    ] = Options.dataset,
    optimizer: Annotated[
        str, typer.Option(metavar=one_of(BASES), help="What takes the steps.")
    ] = Options.optimizer,
    method: Annotated[
        str,
        typer.Option(
            metavar=one_of(METHODS),
            help="What sets its learning rate: a hypergradient (hd, rtho, marthe) or a schedule. "
            "staircase: a tenth after each third of the run; exponential: down to 1 percent; "
            "cosine-restarts: to 0 in 1, 2 and 4 sevenths of the run.",
        ),
    ] = Options.method,
    lr: Annotated[
        float | None,
        typer.Option(help="First lr. Default: sgd 0.1, qhm 1, the others 0.001."),
    ] = None,
    hyper_lr: Annotated[
        float | None,
        typer.Option(
            help="Step size of lr in the papers' additive form, their beta; hd, rtho, marthe. "
            "Default: the normalized form, or 1e-8 with --alpha.",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="Step size of hyper_lr, 1e-15 to 1e-6; rtho, marthe. Default: fixed."),
    ] = None,
    mu: Annotated[
        float | None,
        typer.Option(
            help="What a step of marthe keeps of the history, 0 to 1. Below 0, the default: it "
            "adapts.",
        ),
    ] = None,
    momentum: Annotated[
        float | None,
        typer.Option(help="Of sgd, default 0.9; beta of qhm, default 0.999."),
    ] = None,
    wd: Annotated[
        float | None,
        typer.Option(help="Weight decay. Default: adamw 0.01, the others 0."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = Options.batch_size,
    num_epoch: Annotated[
        int, typer.Option(min=1, help="Passes over the training images.")
    ] = Options.num_epoch,
    grad_clipping: Annotated[
        float | None,
        typer.Option(help="Bound on the gradient's norm; not with rtho and marthe."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of weights, batch order and dropout.")
    ] = Options.seed,
    threads: Threads = THREADS,
    out: Out = Path("runs/tune"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, whatever stopped it.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder of mnist, cifar-10, cifar-100. Default: data.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch them into it if they are not there.")
    ] = False,
) -> None:
    """Train a network while its learning rate is tuned: table, figure, CSV, checkpoint.

    Validation images are split off the training images; the test images decide nothing.

    Without --resume, a run in --out is replaced.
    """
    # Here, because the other commands do without what these load.
    from yfkernels.lab.tuning import run
    from yfkernels.lab.tuning.training import Training

    with refusals():
        options = Options(
            network=network,
            dataset=dataset,
            optimizer=optimizer,
            method=method,
            lr=lr,
            hyper_lr=hyper_lr,
            alpha=alpha,
            mu=mu,
            momentum=momentum,
            wd=wd,
            batch_size=batch_size,
            num_epoch=num_epoch,
            grad_clipping=grad_clipping,
            seed=seed,
            threads=threads,
        )
        training = Training(options, build_task(options, data=data, download=download))
        if resume:
            _resume(training, out)
    if not run.run(training, made_folder(out)):
        typer.echo("Interrupted: the same command with --resume goes on from here.")
        raise typer.Exit(INTERRUPTED)


def _resume(training: Training, folder: Path) -> None:
    from yfkernels.lab.tuning.run import resume

    try:
        resume(training, folder)
    except FileNotFoundError:
        raise typer.BadParameter(
            f"there is no run in {folder}; leave it out to begin one, or name its folder in --out",
            param_hint="'--resume'",
        ) from None
