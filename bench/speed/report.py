"""The files of a run: raw samples, summary with environment, tables, picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from bench.common.results import write_csv, write_text
from bench.speed import tables
from bench.speed.result import COPY, RaceResult
from bench.speed.targets import Verdict

SAMPLE_COLUMNS = (
    "size",
    "dtype",
    "contestant",
    "round",
    "repeats",
    "host_seconds",
    "device_seconds",
)


def write(
    folder: Path,
    device: torch.device,
    environment: Mapping[str, object],
    results: Sequence[RaceResult],
    verdicts: Sequence[Verdict],
) -> list[Path]:
    """Write the numbers of a run into a folder, which is made if need be.

    Returns:
        The files: samples.csv, summary.json and tables.md.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples, summary = folder / "samples.csv", folder / "summary.json"
    text = folder / "tables.md"

    write_csv(samples, SAMPLE_COLUMNS, _sample_rows(results))
    _write_summary(summary, environment, results, verdicts)
    sections = [
        tables.environment_table(environment),
        *(tables.race_table(result, device) for result in results),
        tables.target_table(verdicts),
    ]
    write_text(text, "\n".join(table.markdown() for table in sections))
    return [samples, summary, text]


def draw(
    folder: Path,
    device: torch.device,
    environment: Mapping[str, object],
    results: Sequence[RaceResult],
) -> list[Path]:
    """Draw roofline.png, and one more for every other dtype; nothing without matplotlib."""
    try:
        from bench.speed import roofline
    except ModuleNotFoundError:
        return []
    pictures = []
    for dtype in dict.fromkeys(result.dtype_name for result in results):
        picture = folder / ("roofline.png" if dtype == "fp32" else f"roofline-{dtype}.png")
        same = [result for result in results if result.dtype_name == dtype]
        roofline.draw(picture, device, environment, same)
        pictures.append(picture)
    return pictures


def _sample_rows(results: Sequence[RaceResult]) -> Iterator[Sequence[object]]:
    # device_seconds is empty where the host does the work
    for result in results:
        for key, samples in result.samples.items():
            for number, sample in enumerate(samples):
                device = "" if sample.device is None else f"{sample.device:.9f}"
                place = (result.size.name, result.dtype_name, key, number, sample.repeats)
                yield (*place, f"{sample.host:.9f}", device)


def _write_summary(
    path: Path,
    environment: Mapping[str, object],
    results: Sequence[RaceResult],
    verdicts: Sequence[Verdict],
) -> None:
    document = {
        "environment": environment,
        "sizes": {result.name: _summary(result) for result in results},
        "targets": [
            {
                "claim": verdict.target.claim,
                "size": verdict.target.size,
                "relation": verdict.target.relation,
                "bound": verdict.target.bound,
                "measured": verdict.measured,
                "outcome": verdict.outcome,
            }
            for verdict in verdicts
        ],
    }
    write_text(path, json.dumps(document, indent=2) + "\n")


def _summary(result: RaceResult) -> dict[str, object]:
    return {
        "tensors": result.size.tensors,
        "parameters": result.size.numel,
        "dtype": result.dtype_name,
        "rounds": result.rounds,
        "left_out": result.left_out,
        "failed": result.failed,
        "copy_gb_per_s": result.gigabytes_per_second(COPY),
        "contestants": {key: _contestant_summary(result, key) for key in result.entrants},
    }


def _contestant_summary(result: RaceResult, key: str) -> dict[str, object]:
    footprint = result.footprints[key]
    reference = result.reference_for(key)
    return {
        "bytes_per_param": result.bytes_per_param(key),
        "label": result.entrants[key].label,
        "seconds": result.seconds(key),
        "spread": result.spread(key),
        "host_seconds": result.host_seconds(key),
        "gb_per_s": result.gigabytes_per_second(key),
        "fraction_of_copy": result.copy_fraction(key),
        "time_ratio_to": reference,
        "time_ratio": None if reference is None else result.ratio(key, reference),
        "state_bytes": footprint.state_bytes,
        "allocations_per_step": footprint.allocations,
        "launches_per_step": footprint.launches,
        "kernel_seconds": footprint.kernels,
    }
