"""One method against another, case by case: on how many it tests better, and on how many worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median

from scipy.stats import mannwhitneyu

from bench.convergence.online.training import ALONE, FIRST_LRS, STEPS, Cell, Outcome, bases_of

SIGNIFICANT = 0.05
LEARNED = 0.3  # test accuracy; where neither gets so far, neither is better
AGAINST = ("hd", "rtho", "exponential", "staircase", "cosine-restarts", "constant", ALONE)


Outcomes = Mapping[Cell, Outcome]


def all_seeds(outcomes: Outcomes, task: str, base: str, method: str, lr: float) -> list[Outcome]:
    """The trainings that differ in nothing but their seeds; for ALONE whatever base and lr are."""
    if method == ALONE:
        base, lr = "", 0.0
    wanted = (task, base, method, lr)
    return [o for c, o in outcomes.items() if (c.task, c.base, c.method, c.lr) == wanted]


def accuracies(outcomes: Outcomes, task: str, base: str, method: str, lr: float) -> list[float]:
    """Test accuracies of all seeds; 0 for those that diverged."""
    found = all_seeds(outcomes, task, base, method, lr)
    return [0.0 if outcome.diverged else outcome.test_accuracy for outcome in found]


def compare(outcomes: Outcomes, method: str, other: str, lr: float) -> tuple[int, int, int]:
    """Cases in which the method is better, neither, worse, by a two-sided Mann-Whitney test."""
    better = neither = worse = 0
    for task in STEPS:
        for base in bases_of(task):
            ours, theirs = (accuracies(outcomes, task, base, m, lr) for m in (method, other))
            if not ours or not theirs or max(median(ours), median(theirs)) < LEARNED:
                continue
            if mannwhitneyu(ours, theirs).pvalue >= SIGNIFICANT:
                neither += 1
            elif median(ours) > median(theirs):
                better += 1
            else:
                worse += 1
    return better, neither, worse


def table(outcomes: Outcomes, labels: Mapping[str, str]) -> Iterator[str]:
    """Lines of Markdown: every hypergradient method against every other contestant."""
    yield "| method | against | " + " | ".join(f"from {lr:g}" for lr in FIRST_LRS) + " |"
    yield "|:--|:--|" + ":-:|" * len(FIRST_LRS)
    for method in ("marthe", "hd", "rtho"):
        for other in AGAINST:
            if other == method:
                continue
            counts = [compare(outcomes, method, other, lr) for lr in FIRST_LRS]
            cells = " | ".join(" / ".join(map(str, each)) for each in counts)
            yield f"| {labels[method]} | {labels.get(other, 'YellowFin')} | {cells} |"
