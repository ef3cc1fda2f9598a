"""Targets: which a run can tell, and whom they hold ours against."""

from __future__ import annotations

import pytest
import torch

from bench.speed import runner
from bench.speed.clocks import Sample
from bench.speed.contestants import CONTESTANTS, default_contestants
from bench.speed.footprint import Footprint
from bench.speed.gpu.races import FEW, FEW_SIZES
from bench.speed.result import Entrant, RaceResult
from bench.speed.settings import RaceSettings
from bench.speed.sizes import parse_size
from bench.speed.targets import TARGETS, check


def test_rivals_of_other_packages_join_where_they_are_compared() -> None:
    """A default run measures every target on a CPU, and no more of the slow ones than that."""
    for size in {target.size for target in TARGETS if target.device == "cpu"}:
        result = RaceResult(parse_size(size), copy_bytes=2**29)
        for name in default_contestants("cpu", size):
            for mode in runner.MODES["cpu"]:
                entrant = Entrant(CONTESTANTS[name], mode)
                if entrant.possible:
                    result.entrants[entrant.key] = entrant
                    result.samples[entrant.key] = [Sample(0.1)] * 2
                    result.footprints[entrant.key] = Footprint(state_bytes=8, allocations=0)
        verdicts = [v for v in check({size: result}, "cpu") if v.target.size == size]
        assert all(verdict.measured is not None for verdict in verdicts)
        compared = any("plain PyTorch" in verdict.target.claim for verdict in verdicts)
        assert ("timm-lamb" in result.samples) == compared
    assert not any(CONTESTANTS[name].package for name in default_contestants("cpu", "gpt2"))
    assert default_contestants("cuda", "gpt2") == tuple(CONTESTANTS)


def test_make_gpu_measures_the_targets_of_the_default() -> None:
    """In the few races of a run on a GPU, of which the large one has one mode."""
    settings = RaceSettings(torch.device("cuda"), "auto", FEW, runner.MODES["cuda"])
    results = {}
    for size in map(parse_size, FEW_SIZES):
        result = results[size.name] = RaceResult(size, copy_bytes=2**31)
        result.samples["copy"] = [Sample(1e-3, 1e-3)] * 2
        for entrant in (Entrant(CONTESTANTS[n], m) for n in FEW for m in settings.modes_for(size)):
            if entrant.possible:
                result.entrants[entrant.key] = entrant
                result.samples[entrant.key] = [Sample(1e-3, 1e-3)] * 2
                result.footprints[entrant.key] = Footprint(8, 0, 3)
    verdicts = check(results, "cuda", ("yellowfin-compact",))
    assert [verdict.target.claim for verdict in verdicts] == [
        "default, fraction of copy bandwidth",
        "default / fused AdamW, time",
        "default, launches a step",
    ]
    assert all(verdict.measured is not None for verdict in verdicts)
    # the bytes allow it: at the copy's speed the time is below the bound
    row = CONTESTANTS["yellowfin-compact"]
    assert row.bytes_fp32 / CONTESTANTS["adamw-fused"].bytes_fp32 < verdicts[1].target.bound


def test_lamb_is_held_against_the_fastest_of_its_rivals() -> None:
    """Those that are missing do not matter, but one must be there."""
    results = {size: RaceResult(parse_size(size), copy_bytes=2**29) for size in ("1x50M", "400x64")}

    def measured() -> list[float | None]:
        verdicts = check(results, "cpu", ("lamb",))
        return [v.measured for v in verdicts if "plain PyTorch" in v.target.claim]

    for result in results.values():
        result.samples["lamb"] = [Sample(0.02)] * 3
    assert measured() == [None, None]
    for result in results.values():
        result.samples["torch-optimizer-lamb"] = [Sample(0.4)] * 3
        result.samples["timm-lamb"] = [Sample(0.1)] * 2
    assert measured() == pytest.approx([0.2, 5.0])


def test_only_the_targets_of_those_who_take_part() -> None:
    claims = [verdict.target.claim for verdict in check({}, "cpu", ("qhm", "sgd-fused"))]
    assert claims == ["QHM / fused SGD-m, time"]
    assert len(check({}, "cpu")) + len(check({}, "cuda")) == len(TARGETS)
    assert {target.contestant for target in TARGETS} <= set(CONTESTANTS)
