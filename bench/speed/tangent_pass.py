"""The pass that advances Z beside a copy: how near it comes to the time that its bytes take.

    python -m bench.speed.tangent_pass > bench/results/hypergradients/passes-<commit>.csv

A round times every pass and the copy once, in turns, so that drift of the machine falls on all
alike; a pass is judged by the median over rounds of its time over that of its bytes at the copy's
bandwidth.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch

from bench.common.environment import describe
from bench.speed.track import make_copy
from yfkernels.ops.table import Column
from yfkernels.ops.tangents import ADAM, FAMILIES, MOMENTUM, PLAIN, Family
from yfkernels.optim._tangents import Member, Passes, head

_PARAMETERS = 50_000_000
_TENSORS = 20
_ROUNDS = 15
COEFFICIENTS: Mapping[Family, Mapping[str, float]] = {
    PLAIN: {},
    MOMENTUM: {"momentum": 0.9, "fresh": 1.0, "plain": 0.0, "averaged": 1.0},
    ADAM: {
        **{"beta1": 0.9, "fresh1": 0.1, "beta2": 0.999, "fresh2": 0.001},
        **{"plain1": 0.0, "averaged1": 1.0, "plain2": 0.0, "averaged2": 1.0, "eps": 1e-8},
    },
}


def bytes_of(family: Family) -> int:
    """What the pass moves for a float32 parameter: g, w and the slots are read, h and Z change."""
    return 4 * (2 + len(family.slots)) + 8 * (1 + family.tangents)


def members_of(family: Family, device: torch.device) -> list[Member]:
    """Tensors of equal size with all that a step with Z has."""
    held = range(family.probe, family.tangent() + family.tangents)
    members = []
    for _ in range(_TENSORS):
        param = torch.randn(_PARAMETERS // _TENSORS, device=device)
        columns = {Column(c): torch.rand_like(param) for c in held}
        member = Member(0, param, param, torch.randn_like(param), columns, family)
        member.step = head(decay=(1e-4, 0.0), lr=0.01) | dict(COEFFICIENTS[family])
        member.step |= {"damping": 0.9, "keeps_own": 1.0}
        members.append(member)
    return members


def pass_of(family: Family, device: torch.device, backend: str) -> Callable[[], None]:
    members, passes = members_of(family, device), Passes(backend)
    return lambda: passes.advance(members)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def main() -> None:
    """Writes the samples to the standard output, and the ratios to the standard error."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0] if __doc__ else None)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--backend", default="auto")
    options = parser.parse_args()
    facts = describe(options.device, options.backend)
    writer = csv.writer(sys.stdout)
    writer.writerow(["# " + "; ".join(f"{key} {value}" for key, value in facts.items())])
    writer.writerow(["family", "bytes", "round", "seconds", "copy_bytes", "copy_seconds"])
    copy, copied = make_copy(options.device)
    for family in FAMILIES:
        step = pass_of(family, options.device, options.backend)
        moved = bytes_of(family) * _PARAMETERS
        ratios = []
        for turn in range(-2, _ROUNDS):
            taken, copying = seconds(step, options.device), seconds(copy, options.device)
            if turn >= 0:
                row = [family.name, moved, turn, f"{taken:.6f}", copied, f"{copying:.6f}"]
                writer.writerow(row)
                ratios.append(taken / (copying * moved / copied))
        text = f"{family.name}: {bytes_of(family)} B/param, {statistics.median(ratios):.3f}"
        print(f"{text} of the time at the copy's bandwidth", file=sys.stderr)


if __name__ == "__main__":
    main()
