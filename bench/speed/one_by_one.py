"""A race in which contestants never meet: each is built, measured beside the copy, and freed."""

from __future__ import annotations

from collections.abc import Callable

from bench.speed.clocks import Sample
from bench.speed.contestants import CONTESTANTS
from bench.speed.result import COPY, RaceResult
from bench.speed.track import FEWEST_ROUNDS, Track, free_memory, nothing


def run_one_by_one(
    names: list[str], track: Track, on_contestant: Callable[[RaceResult], None]
) -> None:
    """Measure each in turns with the copy, which tells how fast the machine was by then."""
    result = track.result
    copy_repeats = track.clock.repeats_for(track.copy_step)

    def copy_sample() -> Sample:
        return track.clock.sample(track.copy_step, copy_repeats, nothing)

    result.samples[COPY] = [copy_sample() for _ in range(FEWEST_ROUNDS)]
    # those that the targets need first: time may run out
    order = sorted(names, key=lambda name: not CONTESTANTS[name].essential)
    for number, name in enumerate(order):
        share = track.seconds_left() / (len(order) - number)
        if share <= 0.0 and not CONTESTANTS[name].essential:
            result.left_out[name] = "no time"
            continue
        stop = track.settings.now() + share
        _measure(name, track, stop, copy_sample)
        track.gradients.restore()
        free_memory(track.settings.device)
        if result.entrants:
            on_contestant(result)


def _measure(name: str, track: Track, stop: float, copy_sample: Callable[[], Sample]) -> None:
    """One contestant in all its modes. On return nothing holds its optimizer any more."""
    result = track.result
    with track.failures_of(name):
        for entrant, step, footprint in track.prepared(name):
            repeats = track.clock.repeats_for(step)
            own: list[Sample] = []
            copies: list[Sample] = []
            for done in range(result.planned_rounds):
                if done >= FEWEST_ROUNDS and track.settings.now() >= stop:
                    break
                copies.append(copy_sample())
                own.append(track.clock.sample(step, repeats, track.before_step(entrant)))
                track.on_round()
            result.entrants[entrant.key], result.footprints[entrant.key] = entrant, footprint
            result.samples[entrant.key], result.beside[entrant.key] = own, copies
            result.samples[COPY] += copies
