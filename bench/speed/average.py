"""What an average of the weights adds to a step: two optimizers in turns, 50M parameters each.

    python -m bench.speed.average > bench/results/averages/cost-<commit>.csv
    python -m bench.speed.average --bfloat16

Eight steps are timed together, as many as there are to one that counts.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from bench.speed.in_turns import race
from yfkernels import WeightAverage, YellowFin


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of an average of the weights.")
    parser.add_argument("--bfloat16", action="store_true", help="the average in bfloat16")
    dtype = torch.bfloat16 if parser.parse_args().bfloat16 else None
    average = WeightAverage(dtype=dtype)
    race(
        YellowFin,
        partial(YellowFin, average=average),
        names=("without", "with"),
        steps=average.every,
        warm_up=9,  # beyond the first steps, all of which count
        rounds=40,
    )


if __name__ == "__main__":
    main()
