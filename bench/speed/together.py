"""A race in which all contestants meet: every round times each of them once, in random order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from bench.speed.clocks import Step
from bench.speed.result import COPY, RaceResult
from bench.speed.track import FEWEST_ROUNDS, NO_MEMORY, Track, nothing

# A contestant that is not essential may take so many seconds of a race, or so many rounds.
_LONGEST, _ROUNDS_OF_THE_SLOW = 4.0, 5


@dataclass
class _Lane:
    """A step in the race: how often a sample repeats it, what a sample costs, for how many rounds.

    Attributes:
        cost: seconds of one sample.
        rounds: how many it takes part in.
    """

    step: Step
    repeats: int
    cost: float
    rounds: int

    @property
    def needed(self) -> float:
        """Seconds of all its rounds."""
        return self.cost * self.rounds


def run_together(names: list[str], track: Track) -> None:
    """Build all contestants, leave out what there is no time for, and run the rounds."""
    result = track.result
    lanes = {COPY: _lane(COPY, track.copy_step, track)}
    for name in names:
        with track.failures_of(name):
            for entrant, step, footprint in track.prepared(name):
                result.entrants[entrant.key] = entrant
                result.footprints[entrant.key] = footprint
                lanes[entrant.key] = _lane(entrant.key, step, track)
    _forget_failed(result, lanes)
    for key in _too_slow(lanes, result, track.seconds_left()):
        lane = lanes.pop(key)
        result.left_out[key] = f"{lane.rounds} x {lane.cost:.2g} s was too long"
        del result.entrants[key], result.footprints[key]

    result.samples = {key: [] for key in lanes}
    order = Random(0)
    for done in range(result.planned_rounds):
        if done >= FEWEST_ROUNDS and track.seconds_left() <= 0.0:
            break
        running = [key for key, lane in lanes.items() if done < lane.rounds]
        for key in order.sample(running, len(running)):
            if key in lanes:  # else it failed in this round, in another mode
                _take_sample(key, lanes, track)
        track.on_round()


def _lane(key: str, step: Step, track: Track) -> _Lane:
    repeats = track.clock.repeats_for(step)
    start = track.settings.now()
    track.clock.sample(step, repeats, nothing)  # serves as a last warm-up, too
    cost = track.settings.now() - start
    rounds = track.result.planned_rounds
    if key != COPY and not track.result.entrants[key].contestant.essential:
        rounds = min(rounds, max(_ROUNDS_OF_THE_SLOW, int(_LONGEST / cost)))
    return _Lane(step, repeats, cost, rounds)


def _take_sample(key: str, lanes: dict[str, _Lane], track: Track) -> None:
    lane, samples = lanes[key], track.result.samples[key]
    if key == COPY:
        samples.append(track.clock.sample(lane.step, lane.repeats, nothing))
        return
    entrant = track.result.entrants[key]
    with track.failures_of(entrant.contestant.name):
        samples.append(track.clock.sample(lane.step, lane.repeats, track.before_step(entrant)))
    if entrant.mode == "moved":
        track.gradients.restore()
    _forget_failed(track.result, lanes)


def _forget_failed(result: RaceResult, lanes: dict[str, _Lane]) -> None:
    """Takes out the entrants of those that cannot go on, in whichever mode it was."""
    full = {name for name, reason in result.left_out.items() if reason == NO_MEMORY}
    gone = full | result.failed.keys()
    for key, entrant in list(result.entrants.items()):
        if entrant.contestant.name in gone:
            for kept in (result.entrants, result.footprints, result.samples, lanes):
                kept.pop(key, None)


def _too_slow(lanes: Mapping[str, _Lane], result: RaceResult, seconds: float) -> list[str]:
    """Entrants to leave out, longest first, until all rounds of the others fit into the time."""
    dispensable = [key for key, one in result.entrants.items() if not one.contestant.essential]
    excess = sum(lane.needed for lane in lanes.values()) - seconds
    dropped = []
    for key in sorted(dispensable, key=lambda key: lanes[key].needed, reverse=True):
        if excess <= 0.0:
            break
        dropped.append(key)
        excess -= lanes[key].needed
    return dropped
