"""Who takes part in the trainings, with the setting a user would start from or a grid to tune.

Whoever trains at a constant rate takes part twice: with its last weights, and with their average.
Schedule-free optimizers have an average of their own, and a schedule does what an average does.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.convergence.contestants.contestant import TrainingContestant
from bench.convergence.contestants.muon import muon
from bench.convergence.contestants.of_packages import adam_like, prodigy, schedule_free
from bench.convergence.contestants.of_torch import adamw, adamw_cosine, sgd
from bench.convergence.contestants.ours import ours, with_cosine


def _all() -> Sequence[TrainingContestant]:
    """In the order of the report."""
    rivals = (*adamw(), *sgd(), prodigy(), *muon(), *adam_like())
    own = tuple(ours())
    averaged = (contestant.with_average() for contestant in (*rivals, *own))
    return (*rivals, adamw_cosine(), *schedule_free(), *own, with_cosine(), *averaged)


CONTESTANTS: dict[str, TrainingContestant] = {one.name: one for one in _all()}


def beside(name: str, *, average: bool) -> str:
    """The row of a contestant to be held against others with their averages, or without.

    A contestant that has no row with the average is shown with what it is, in both.
    """
    raw = name.removesuffix("+average")
    averaged = f"{raw}+average"
    return averaged if average and averaged in CONTESTANTS else raw


REFERENCE = "adamw-tuned"  # what iterations are counted against
# Those with nothing tuned: no verdict without these, and none passes over the newer that were run.
DEFAULT_RIVALS = ("adamw", "prodigy", "schedulefree-sgd", "schedulefree-adamw")
NEWER_RIVALS = ("schedulefree-plus", "prodigy-plus", "muon", "ademamix", "soap")
