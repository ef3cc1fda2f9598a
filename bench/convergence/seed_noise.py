"""Whether one contestant is no worse than another, within the noise of the seeds."""

from __future__ import annotations

from scipy.stats import mannwhitneyu

from bench.convergence.summary import Spread

SIGNIFICANT = 0.05
FEWEST_SEEDS = 4  # with three against three no difference can be significant


def no_worse(ours: Spread, theirs: Spread) -> tuple[bool, float]:
    """Compares values of which low is good.

    A median that is higher is noise only where a seed of the other's ended as high, and a one-sided
    Mann-Whitney test does not find the contestant's values higher (p < .05, not corrected for the
    number of tasks). Both are asked for, since with five seeds the test misses much.

    Returns:
        Whether ours are no worse, and p.
    """
    p = float(mannwhitneyu(ours.values, theirs.values, alternative="greater").pvalue)
    return ours.median <= theirs.median or (ours.median <= theirs.high and p >= SIGNIFICANT), p
