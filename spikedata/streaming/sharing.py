"""Which of several processes this is, and what its part is."""

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed

from spikedata.errors import StoreError


def given_ranks(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    """Both, if they were given and fit each other.

    Raises:
        ValueError: only one was, or they do not fit.
    """
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise ValueError(f"rank must be below world_size, got {rank} and {world_size}")
    return rank, world_size


def ranks_around() -> tuple[int, int]:
    """Rank and number of the processes that were started together, as their launcher says.

    Raises:
        ValueError: its variables are no two numbers that fit.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    told = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE")]
    if told == [None, None] or told == [None, "1"]:
        return 0, 1
    if not all(text is not None and text.isdecimal() for text in told):
        raise ValueError(f"RANK and WORLD_SIZE must be two whole numbers, got {told}")
    return given_ranks(*(int(text or "") for text in told)) or (0, 1)


def share_of(count: int, part: int, parts: int) -> range:
    """A part of ``count`` things; parts differ by one at most."""
    return range(count * part // parts, count * (part + 1) // parts)


def check_shard(told: Sequence[Any], own: Sequence[int]) -> None:
    """Refuse the state of another process than this.

    Raises:
        StoreError: it is.
    """
    if list(told) != list(own):
        raise StoreError(
            f"the state is of {_told_shard(told)}, and this is {_told_shard(own)}. Resume with as "
            "many processes and workers as before"
        )


def _told_shard(shard: Sequence[Any]) -> str:
    rank, world_size, worker, workers = shard if len(shard) == 4 else ("?",) * 4
    return f"worker {worker} of {workers} in rank {rank} of {world_size}"
