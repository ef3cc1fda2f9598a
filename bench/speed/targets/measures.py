"""The numbers that targets are about, each a function of a race; KeyError where it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bench.speed.result import COPY, RaceResult

Measure = Callable[[RaceResult], float]

_SPARE_STATE_BYTES = 1e6  # tables, scratch and sketches, whatever the model


def time_ratio(key: str, *references: str) -> Measure:
    """Time relative to the fastest of the references."""
    return lambda result: max(result.ratio(key, reference) for reference in references)


def time_ratio_to_present(key: str, rivals: Iterable[str]) -> Measure:
    """Time relative to the fastest of those rivals that took part."""
    return lambda result: max(result.ratio(key, rival) for rival in _present(rivals, result))


def speedup(key: str, reference: str) -> Measure:
    """How many times as long the reference takes."""
    return lambda result: result.ratio(reference, key)


def speedup_over_present(key: str, rivals: Iterable[str]) -> Measure:
    """How many times as long the fastest of those rivals takes that took part."""
    return lambda result: min(result.ratio(rival, key) for rival in _present(rivals, result))


def speed_ratio(key: str, reference: str) -> Measure:
    """GB/s relative to the reference's."""
    return lambda result: result.speed_ratio(key, reference)


def copy_fraction(key: str) -> Measure:
    """GB/s relative to the copy's."""
    return lambda result: result.copy_fraction(key)


def state_per_param(key: str) -> Measure:
    """Bytes kept per parameter, tables and scratch aside."""
    return lambda result: (
        (result.footprints[key].state_bytes - _SPARE_STATE_BYTES) / result.size.numel
    )


def allocations(key: str) -> Measure:
    """Allocations in a step."""
    return lambda result: result.footprints[key].allocations


def launches(key: str) -> Measure:
    """Kernels launched in a step."""

    def measured(result: RaceResult) -> float:
        count = result.footprints[key].launches
        if count is None:
            raise KeyError(key)
        return count

    return measured


def device_us(key: str) -> Measure:
    """Microseconds of a step on the device."""
    return lambda result: result.seconds(key) * 1e6


def host_us(key: str) -> Measure:
    """Microseconds until the call of a step returned."""
    return lambda result: result.host_seconds(key) * 1e6


def overhead_us(key: str) -> Measure:
    """Microseconds on the device beyond what a copy of as many bytes takes."""

    def measured(result: RaceResult) -> float:
        copy_seconds = result.bytes_per_step(key) / result.gigabytes_per_second(COPY) / 1e9
        return (result.seconds(key) - copy_seconds) * 1e6

    return measured


def pass_fraction(key: str, name: str, bytes_per_param: int) -> Measure:
    """Speed of one pass on its bytes, from the profiler, over the copy's."""

    def measured(result: RaceResult) -> float:
        kernels = result.footprints[key].kernels
        seconds = sum(time for kernel, time in kernels.items() if name in kernel)
        if seconds == 0.0:
            raise KeyError(name)
        speed = bytes_per_param * result.size.numel / seconds / 1e9
        return speed / result.gigabytes_per_second(COPY)

    return measured


def _present(rivals: Iterable[str], result: RaceResult) -> list[str]:
    present = [rival for rival in rivals if rival in result.samples]
    if not present:
        raise KeyError(", ".join(rivals))
    return present
