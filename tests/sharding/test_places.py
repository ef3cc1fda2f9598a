"""Where sums over processes are made: on the parameters' own device."""

from __future__ import annotations

import pytest
import torch

from yfkernels.sharding.shards import ShardGroup


@pytest.mark.parametrize(
    ("network", "device", "place"),
    [
        ("cuda", "cuda:1", "cuda:1"),  # not the current one, which nobody may have chosen
        ("cuda", "cpu", "cuda"),
        ("cpu", "cuda:1", "cpu"),
        ("cpu", "cpu", "cpu"),
    ],
)
def test_sums_stay_on_their_device(network: str, device: str, place: str) -> None:
    group = ShardGroup((), torch.device(network))
    assert group.place_for(torch.device(device)) == torch.device(place)
