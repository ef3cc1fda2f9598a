"""One page about a run: what was promised, what came out, how the tests and sanitizers ended.

It is made from the files in a run's folder alone, so every part of `make gpu` can renew it:

    python -m bench.speed.page bench/results/<run>
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.common.tables import Table, duration, three_digits
from bench.speed.contestants import CONTESTANTS
from bench.speed.tables import LEGEND

_HEADLINE = ("gpu", "cpu", "threads", "commit", "date")
_FEW = 4  # kernels, of a fused step
_MODES = {
    "eager": "Each step called",
    "graph": "Each step replayed from a CUDA graph",
}


def write(folder: Path) -> Path:
    """Write report.md into the folder of a run, from what the folder holds by now.

    Args:
        folder: has summary.json and pictures if the benchmarks were run, and a log of every other
            part, whose last line says how it ended.

    Returns:
        The page.
    """
    summary = folder / "summary.json"
    sections = [f"# {folder.resolve().name}\n", *_outcomes(sorted(folder.glob("*.log")))]
    if summary.exists():
        sections += _measurements(json.loads(summary.read_text(encoding="utf-8")), folder)
    else:
        sections.append("No benchmarks here yet.\n")
    page = folder / "report.md"
    page.write_text("\n".join(sections), encoding="utf-8")
    return page


def _outcomes(logs: Sequence[Path]) -> Iterable[str]:
    if not logs:
        return
    rows = tuple((log.stem, _last_line(log).replace("|", "/")) for log in logs)
    yield Table("Tests and sanitizers", ("part", "outcome"), rows).markdown()


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "nothing was written")


def _measurements(summary: Mapping[str, Any], folder: Path) -> Iterable[str]:
    facts, sizes = summary["environment"], summary["sizes"]
    yield _environment(facts)
    yield _targets(summary["targets"])
    pictures = sorted(folder.glob("roofline*.png"), key=lambda picture: len(picture.name))
    for picture in pictures:
        yield f"![time and bandwidth]({picture.name})\n"
    if not pictures:
        yield "No picture: matplotlib is not installed.\n"
    for dtype in dict.fromkeys(size["dtype"] for size in sizes.values()):
        same = [(name, size) for name, size in sizes.items() if size["dtype"] == dtype]
        for mode, words in _MODES.items():
            yield from _glance(same, mode, f"{words}, {dtype}: time, and speed over the copy's")
        if "gpu" in facts:
            yield from _kernels(same)
            yield from _glance(same, "eager", f"Host time, {dtype}", host=True)
    yield f"{LEGEND} All of it, with spreads, allocations and launches: [tables.md](tables.md).\n"


def _environment(facts: Mapping[str, Any]) -> str:
    first = [name for name in _HEADLINE if name in facts]
    names = [*first, *(name for name in facts if name not in first)]
    return " · ".join(f"{name} {facts[name]}" for name in names) + "\n"


def _targets(targets: Sequence[Mapping[str, Any]]) -> str:
    rows = tuple(
        (
            target["claim"],
            target["size"],
            f"{target['relation']} {target['bound']:g}",
            "-" if target["measured"] is None else three_digits(target["measured"]),
            target["outcome"],
        )
        for target in targets
    )
    passed = sum(target["outcome"] == "pass" for target in targets)
    title = f"Targets: {passed} of {len(targets)} met"
    return Table(title, ("", "size", "target", "measured", "outcome"), rows).markdown()


def _glance(
    sizes: Sequence[tuple[str, Mapping[str, Any]]], mode: str, title: str, *, host: bool = False
) -> Iterable[str]:
    """A row a contestant, a column a size."""
    suffix = "" if mode == "eager" else f"@{mode}"

    def cell(size: Mapping[str, Any], name: str) -> str:
        entrant = size["contestants"].get(name + suffix)
        if entrant is None:
            return "-"
        if host:
            return duration(entrant["host_seconds"])
        return f"{duration(entrant['seconds'])} ({entrant['fraction_of_copy']:.0%})"

    names = {
        key.removesuffix(suffix): entrant["label"].removesuffix(f" [{mode}]")
        for _, size in sizes
        for key, entrant in size["contestants"].items()
        if key.partition("@")[1:] == (suffix[:1], suffix[1:])
    }
    if names:
        rows = tuple(
            (label, *(cell(size, name) for _, size in sizes)) for name, label in names.items()
        )
        yield Table(title, ("", *(name for name, _ in sizes)), rows).markdown()


def _kernels(sizes: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterable[str]:
    """The kernels of our own steps at the largest size, each from one step."""
    name, size = max(sizes, key=lambda item: item[1]["parameters"])
    ours = {contestant.name for contestant in CONTESTANTS.values() if contestant.ours}
    rows = tuple(
        (entrant["label"], kernel, duration(seconds))
        for key, entrant in size["contestants"].items()
        if key.partition("@")[0] in ours and len(entrant["kernel_seconds"]) <= _FEW
        for kernel, seconds in entrant["kernel_seconds"].items()
    )
    if rows:
        yield Table(f"Kernels of a step, {name}", ("", "kernel", "device time"), rows).markdown()


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
