"""The ``yfkernels`` command: demo, bench, config."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import yfkernels
from yfkernels.workloads.contenders import CONTENDERS

OPTIONAL_PACKAGES = ("matplotlib", "numpy", "rich", "sklearn", "typer")


def _exit_without(package: str) -> NoReturn:
    sys.exit(f'This command needs {package}, which is not installed: pip install "yfkernels[demo]"')


try:
    import typer
except ModuleNotFoundError as error:
    _exit_without(str(error.name))

app = typer.Typer(
    help="PyTorch optimizers that tune themselves, in fused kernels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def demo(
    steps: Annotated[int, typer.Option(min=1, help="Training steps for each optimizer.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and the batch order.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the figure.")] = Path("runs/demo"),
    optimizers: Annotated[
        str, typer.Option(help="Which to compare, separated by commas.")
    ] = ",".join(CONTENDERS),
) -> None:
    """Train a small conv net on handwritten digits with YellowFin, AdamW and SGD."""
    # Here, because the other commands do without what the demo loads.
    from yfkernels.demo import run_demo

    names = list(dict.fromkeys(name.strip().lower() for name in optimizers.split(",")))
    for name in names:
        if name not in CONTENDERS:
            raise typer.BadParameter(
                f"no optimizer {name!r}; choose from {', '.join(CONTENDERS)}",
                param_hint="'--optimizers'",
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(
            f"cannot make the folder {out}: {error.strerror}; name one you may write to",
            param_hint="'--out'",
        ) from None
    run_demo([CONTENDERS[name] for name in names], steps=steps, seed=seed, folder=out)


@app.command(
    add_help_option=False,
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)
def bench(context: typer.Context) -> None:
    """Measure time and bandwidth of a step; options go to bench/runner.py (try --help)."""
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "bench" / "runner.py").is_file():
        sys.exit("yfkernels bench needs the source checkout: clone it and run `make bench` there")
    sys.path.insert(0, str(checkout))
    runner = importlib.import_module("bench.runner")
    raise typer.Exit(runner.main(context.args))


@app.command()
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
