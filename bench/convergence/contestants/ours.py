"""The optimizers of this package that tune their own step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.convergence.contestants.contestant import TrainingContestant, cosine
from yfkernels.lab.recipes import RECIPES, Recipe
from yfkernels.lab.registry import VARIANTS


def ours() -> Iterator[TrainingContestant]:
    """Every optimizer in the registry that needs no learning rate."""
    for row, variant in VARIANTS:
        if row.tunes_step and variant.is_trained:
            key = row.key_of(variant)
            recipe = Recipe(row.label, partial(row.factory, **variant.options), row.start)
            yield TrainingContestant(
                key, row.label_of(variant), ours=True, recipe=recipe, optimizer=key
            )


def with_cosine() -> TrainingContestant:
    """What a schedule adds: it needs to know the number of steps, so no target is for it."""
    return TrainingContestant(
        "yellowfin-cosine",
        "YellowFin (default, cosine)",
        recipe=RECIPES["yellowfin"],
        optimizer="yellowfin-cosine",
        schedule=cosine,
    )
