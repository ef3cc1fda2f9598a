"""BatchSizeSampler: sizes that change, replicas that share, runs that stop and go on."""

from __future__ import annotations

import io
from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from yfkernels.schedules.batch_size_sampler import BatchSizeSampler


class Indices(Dataset[int]):
    """A dataset whose samples are their own indices."""

    def __init__(self, samples: int) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> int:
        return index


def flat(batches: Any) -> list[int]:
    return [int(index) for batch in batches for index in batch]


def saved(sampler: BatchSizeSampler, batches: int | None = None) -> dict[str, Any]:
    """The state after a round trip through a file that holds plain types only."""
    file = io.BytesIO()
    torch.save(sampler.state_dict(batches), file)
    file.seek(0)
    return dict(torch.load(file, weights_only=True))


def test_each_epoch_has_every_sample_in_an_order_of_its_own() -> None:
    sampler = BatchSizeSampler(range(100), 8)
    first, second = flat(sampler), flat(sampler)
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second
    again = BatchSizeSampler(range(100), 64)
    assert flat(again) == first
    again.set_epoch(0)
    assert flat(again) == first
    again.set_epoch(1)
    assert flat(again) == second
    assert flat(BatchSizeSampler(range(9), 4, shuffle=False)) == list(range(9))


def test_seed_and_generator() -> None:
    orders = [flat(BatchSizeSampler(range(50), 8, seed=seed)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    drawn = [
        flat(BatchSizeSampler(range(50), 8, generator=torch.Generator().manual_seed(seed)))
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 10, 99])
def test_length_is_that_of_the_next_pass(batch_size: int, drop_last: bool) -> None:
    sampler = BatchSizeSampler(range(10), 4, drop_last=drop_last)
    sampler.batch_size = batch_size
    length = len(sampler)
    batches = list(sampler)
    assert len(batches) == length == (10 // batch_size if drop_last else -(-10 // batch_size))
    assert all(len(batch) == batch_size for batch in batches[: length if drop_last else -1])
    assert len(DataLoader(Indices(10), batch_sampler=sampler)) == length


def test_a_new_size_takes_effect_with_the_next_batch() -> None:
    sampler = BatchSizeSampler(range(20), 4)
    sizes, seen = [], []
    for batch in DataLoader(Indices(20), batch_sampler=sampler):
        sizes.append(len(batch))
        seen.append(batch)
        sampler.batch_size = 7
    assert sizes == [4, 7, 7, 2]
    assert sorted(flat(seen)) == list(range(20))


@pytest.mark.parametrize("persistent", [False, True])
def test_workers(persistent: bool) -> None:
    """Every epoch in full and in its own order, at the size set before it."""
    sampler = BatchSizeSampler(range(48), 8)
    loader = DataLoader(
        Indices(48), batch_sampler=sampler, num_workers=2, persistent_workers=persistent
    )
    plain = BatchSizeSampler(range(48), 8)
    for size in (8, 16, 12):
        sampler.batch_size = plain.batch_size = size
        batches = [batch.tolist() for batch in loader]
        assert batches == list(plain)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("samples", [24, 23, 2])
def test_replicas_share_evenly(samples: int, drop_last: bool) -> None:
    """Dropped: nothing twice. Padded: nothing lost, and no replica has a batch more."""
    samplers = [
        BatchSizeSampler(range(samples), 3, drop_last=drop_last, num_replicas=5, rank=rank)
        for rank in range(5)
    ]
    for _ in range(2):
        shares = [list(sampler) for sampler in samplers]
        assert len({tuple(map(len, share)) for share in shares}) == 1
        together = [index for turn in zip(*map(flat, shares), strict=True) for index in turn]
        if drop_last:
            assert len(set(together)) == len(together)
        else:
            assert set(together[:samples]) == set(range(samples))
            padding = together[samples:]
            assert len(padding) < 5
            assert padding == (together[:samples] * 5)[: len(padding)]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("stop", [1, 3, 7])
def test_resumes_within_an_epoch(stop: int, drop_last: bool) -> None:
    """The rest of the epoch and the next one are those of the run that went on."""
    going = BatchSizeSampler(range(30), 4, drop_last=drop_last, seed=3)
    flat(going)
    passing = iter(going)
    flat(islice(passing, stop))
    state = saved(going)
    rest, after = list(passing), list(going)

    resumed = BatchSizeSampler(range(30), 9, drop_last=drop_last, seed=0)
    resumed.load_state_dict(state)
    resumed.set_epoch(1)  # as a loop over epochs does; the place in it is kept
    assert len(resumed) == len(rest)
    assert list(resumed) == rest
    assert list(resumed) == after


def test_resumes_between_epochs() -> None:
    going = BatchSizeSampler(range(30), 4)
    flat(going)
    resumed = BatchSizeSampler(range(30), 4)
    resumed.load_state_dict(saved(going))
    assert len(resumed) == 8
    assert list(resumed) == list(going)


def test_a_state_saved_twice_over_is_the_same_place() -> None:
    """Stopped, resumed, stopped again before a batch was drawn."""
    going = BatchSizeSampler(range(30), 4)
    passing = iter(going)
    next(passing)
    resumed = BatchSizeSampler(range(30), 4)
    resumed.load_state_dict(saved(going))
    assert saved(resumed) == saved(going)
    once_more = BatchSizeSampler(range(30), 4)
    once_more.load_state_dict(saved(resumed))
    assert list(once_more) == list(passing)


def test_resumes_with_workers_that_draw_ahead() -> None:
    """The number of batches trained on says where, also after a change of size."""
    sampler = BatchSizeSampler(range(60), 4)
    loader = DataLoader(Indices(60), batch_sampler=sampler, num_workers=2)
    seen: list[int] = []
    for done, batch in enumerate(loader, start=1):
        seen += batch.tolist()
        sampler.batch_size = 6
        if done == 7:
            drawn_ahead = saved(sampler)["position"] - len(seen)
            state = saved(sampler, batches=done)
            break
    assert drawn_ahead > 0
    resumed = BatchSizeSampler(range(60), 4)
    resumed.load_state_dict(state)
    rest = flat(DataLoader(Indices(60), batch_sampler=resumed, num_workers=2))
    assert sorted(seen + rest) == list(range(60))


def test_resumes_in_a_replica() -> None:
    for rank in range(3):
        going = BatchSizeSampler(range(31), 2, num_replicas=3, rank=rank)
        passing = iter(going)
        next(passing)
        resumed = BatchSizeSampler(range(31), 2, num_replicas=3, rank=rank)
        resumed.load_state_dict(saved(going))
        assert list(resumed) == list(passing)


def test_another_epoch_begins_at_its_beginning() -> None:
    going = BatchSizeSampler(range(30), 4)
    next(iter(going))
    resumed = BatchSizeSampler(range(30), 4)
    resumed.load_state_dict(saved(going))
    resumed.set_epoch(5)
    assert sorted(flat(resumed)) == list(range(30))


@pytest.mark.parametrize(
    "options", [{"num_replicas": 2}, {"data_source": range(31)}, {"drop_last": True}]
)
def test_refuses_the_state_of_another_split(options: dict[str, Any]) -> None:
    state = BatchSizeSampler(range(31), 4, num_replicas=3).state_dict()
    other = BatchSizeSampler(**{"data_source": range(30), "batch_size": 5, **options})
    before = other.state_dict()
    with pytest.raises(ValueError, match=r"Invalid state_dict: .*\[31, 3, 11\]"):
        other.load_state_dict(state)
    assert other.state_dict() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size value: 0; it must be an integer >= 1"),
        ({"batch_size": 2.5}, "batch_size value: 2.5"),
        ({"batch_size": True}, "batch_size value: True"),
        ({"data_source": []}, "Invalid data_source"),
        ({"num_replicas": 0}, "Invalid num_replicas"),
        ({"rank": 1}, r"Invalid rank value: 1; it must be an integer in \[0, 1\)"),
        ({"rank": -1}, "Invalid rank"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchSizeSampler(**{"data_source": range(10), "batch_size": 4, **options})


@pytest.mark.parametrize(
    ("data_source", "message"),
    [
        (iter(range(9)), "data_source type: range_iterator; data_source must have a length"),
        (DataLoader(Indices(9)), "data_source type: DataLoader; give the dataset"),
    ],
)
def test_bad_data_source(data_source: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        BatchSizeSampler(data_source, 4)


def test_state_with_parts_missing() -> None:
    sampler = BatchSizeSampler(range(10), 4)
    state = sampler.state_dict()
    with pytest.raises(ValueError, match="lacks epoch, position, seed, batch_size, split; give"):
        sampler.load_state_dict({})
    with pytest.raises(ValueError, match="lacks seed; give"):
        sampler.load_state_dict({k: v for k, v in state.items() if k != "seed"})
    assert sampler.state_dict() == state


def test_bad_size_changes_nothing() -> None:
    sampler = BatchSizeSampler(range(10), 4)
    with pytest.raises(ValueError, match="batch_size value: -1"):
        sampler.batch_size = -1
    assert sampler.batch_size == 4


def test_more_batches_than_were_drawn() -> None:
    sampler = BatchSizeSampler(range(10), 4)
    next(iter(sampler))
    with pytest.raises(ValueError, match="batches value: 2; the pass has drawn 1"):
        sampler.state_dict(batches=2)
