"""What the experiment shows: tables, two figures, every training as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from yfkernels.lab.console import counted, mean_and_range, seeds_and_threads, tell_files
from yfkernels.lab.robustness.basins import MARGIN, Basin, basin, capped, level
from yfkernels.lab.robustness.contestants import CONTESTANTS, Setting
from yfkernels.lab.robustness.figure import plot_sweeps
from yfkernels.lab.robustness.options import WORKLOADS, Options
from yfkernels.lab.robustness.region import plot_region
from yfkernels.lab.robustness.sweeps import (
    FACTORS,
    FINALISTS,
    TUNING_SEEDS,
    Sweep,
    trials_of,
)

NAME = "robustness"  # of the files
REGION = "robust-region.png"


def report(sweeps: Sequence[Sweep], options: Options, folder: Path, console: Console) -> None:
    """Prints the tables and draws the figures of what is finished."""
    plot_region().savefig(folder / REGION)
    if not sweeps:
        console.print("No optimizer is finished yet.")
        return
    conditions = _conditions(options)
    console.print(_tuned_table(sweeps))
    console.print(_basin_table(sweeps))
    for one in sweeps:
        if one.by_momentum is not None:
            console.print(_momentum_table(one))
    console.print(f"{conditions}.", style="dim")
    figure = plot_sweeps(sweeps, title="What a wrong setting costs", note=_note(options))
    figure.savefig(folder / f"{NAME}.png")
    tell_files(console, folder, NAME)
    console.print(f"Theory: {folder / REGION}", soft_wrap=True)


def _tuned_table(sweeps: Sequence[Sweep]) -> Table:
    table = _table(
        f"Final loss over the training set{_seeds(sweeps)}. Tuned by the same loss "
        f"on other seeds: the whole grid on one, its {FINALISTS} best on "
        f"{len(TUNING_SEEDS) - 1} more. Momentum is beta1 of Adam and AdamW. * at the edge of the "
        "grid."
    )
    for header in ("Setting", "Trials", "Final loss"):
        table.add_column(header, justify="right")
    for place, one in enumerate(sweeps):
        contestant = CONTESTANTS[one.optimizer]
        edge = "*" if contestant.is_at_edge(one.tuned) else ""
        lr, momentum = one.tuned
        setting = f"lr {lr:g}" + (f", momentum {momentum:g}" if momentum is not None else "")
        table.add_row(
            *_names(sweeps, place),
            setting + edge if one.grid else "untuned",
            str(trials_of(one.optimizer) or "none"),
            mean_and_range(one.losses, ".3g"),
            end_section=_is_last(sweeps, place),
        )
    return table


def _basin_table(sweeps: Sequence[Sweep]) -> Table:
    table = _table(
        f"Decades of a factor within which the final loss is good: at most {MARGIN:.0%} of the way "
        "back, on a logarithmic scale, from the best loss to the initial one; the best loss of "
        f"this optimizer (own), or of all on this workload (common){_seeds(sweeps)}. "
        f"+ up to an end of the sweep, which has {FACTORS[-1]:g} on either side."
    )
    for header in ("lr, own", "lr, common", "1 - momentum, own"):
        table.add_column(header, justify="right")
    for place, one in enumerate(sweeps):
        same = [each for each in sweeps if each.workload == one.workload]
        seeds = range(len(one.losses))
        own = [one.by_lr.level_at(seed) for seed in seeds]
        common = [min(each.by_lr.level_at(seed) for each in same) for seed in seeds]
        momenta = one.by_momentum
        table.add_row(
            *_names(sweeps, place),
            _width(one.by_lr.basins(own)),
            _width(one.by_lr.basins(common)),
            _width(momenta.basins([momenta.level_at(s) for s in seeds])) if momenta else "",
            end_section=_is_last(sweeps, place),
        )
    return table


def _seeds(sweeps: Sequence[Sweep]) -> str:
    """What a number of the table is of them."""
    return ": mean and range over the seeds" if len(sweeps[0].losses) > 1 else ", one seed"


def _momentum_table(one: Sweep) -> Table:
    """Of SGD's grid."""
    table = _blank_table(
        f"{WORKLOADS[one.workload].label}, SGD by momentum, one seed. Decades of lr within which "
        "the loss is good for this momentum; + up to an end of the grid."
    )
    for header in ("Momentum", "Best lr", "Final loss", "Decades of lr"):
        table.add_column(header, justify="right")
    contestant = CONTESTANTS[one.optimizer]
    for momentum in contestant.momenta:
        outcomes = {lr: one.grid[Setting(lr, momentum)] for lr in contestant.lrs}
        losses = [capped(each.loss, each.initial_loss) for each in outcomes.values()]
        best = min(outcomes, key=lambda lr: outcomes[lr].loss)
        good = level(min(losses), outcomes[best].initial_loss)
        width = _width([basin(contestant.lrs, losses, good)])
        table.add_row(f"{momentum:g}", f"{best:g}", f"{min(losses):.3g}", width)
    return table


def _table(caption: str) -> Table:
    table = _blank_table(caption)
    table.add_column("Workload")
    table.add_column("Optimizer")
    return table


def _blank_table(caption: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")


def _names(sweeps: Sequence[Sweep], place: int) -> tuple[str, str]:
    """Of workload, in its first row, and optimizer."""
    one = sweeps[place]
    is_first = place == 0 or sweeps[place - 1].workload != one.workload
    label = WORKLOADS[one.workload].label if is_first else ""
    return label, CONTESTANTS[one.optimizer].label


def _is_last(sweeps: Sequence[Sweep], place: int) -> bool:
    return place + 1 == len(sweeps) or sweeps[place + 1].workload != sweeps[place].workload


def _width(basins: Sequence[Basin]) -> str:
    more = "+" if any(one.is_open for one in basins) else ""
    return mean_and_range([one.decades for one in basins], ".1f") + more


def _conditions(options: Options) -> str:
    """What the numbers depend on, for people."""
    tasks = "; ".join(
        f"{WORKLOADS[name].build().title}: {counted(options.steps_of(name), 'step')}, "
        f"{WORKLOADS[name].build().conditions}"
        for name in options.workloads
    )
    return f"{tasks}; {seeds_and_threads(range(options.seeds), options.threads)}"


def _note(options: Options) -> str:
    lengths = ", ".join(str(options.steps_of(name)) for name in options.workloads)
    return (
        "Bold: within the margin of the curve's own best. Lines: geometric mean, bands: range over "
        "the seeds; the grid: one other seed.\nDashed: initial loss. "
        f"{lengths} steps, {seeds_and_threads(range(options.seeds), options.threads)}"
    )
