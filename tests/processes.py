"""What the tests with several processes share."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist


@contextmanager
def gloo_group(rank: int, world: int, store: str) -> Iterator[None]:
    """The default process group, over a file; left together unless something failed."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    yield
    gc.collect()  # DDP and FSDP hold on to the group in cycles
    dist.barrier()  # nobody leaves while the other still listens
    dist.destroy_process_group()
