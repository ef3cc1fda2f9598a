"""Copies of versions that somebody still reads: none changes, and none is made without need."""

from __future__ import annotations

import torch

from yfkernels.asynchronous import Version
from yfkernels.asynchronous.snapshots import Snapshots


def test_no_more_copies_than_readers_and_one() -> None:
    x = torch.zeros(3)
    snapshots = Snapshots([x])
    addresses = set()
    before = snapshots.of(Version(1, 0))
    for number in range(1, 20):
        x.fill_(float(number))
        now = snapshots.of(Version(1, number))
        assert now.parameters[0].tolist() == [float(number)] * 3
        assert before.parameters[0].tolist() == [float(number - 1)] * 3
        with before:
            pass
        addresses.add(now.parameters[0].data_ptr())
        before = now
    assert len(addresses) == 2


def test_a_version_of_another_run_is_another() -> None:
    x = torch.zeros(1)
    snapshots = Snapshots([x])
    first = snapshots.of(Version(1, 5))
    x += 1.0
    assert snapshots.of(Version(2, 5)).parameters[0].item() == 1.0
    assert first.parameters[0].item() == 0.0
