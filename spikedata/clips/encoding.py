"""What the writers of all formats share: clips encoded side by side, told of one by one."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from spikedata.clips.stored import StoredClip
from spikedata.errors import SpikeDataError

Encoded = TypeVar("Encoded")
Item = TypeVar("Item")
Done = Callable[[StoredClip], None]
Failed = Callable[[StoredClip, Exception], None]


def in_order(
    work: Callable[[Item], Any], clips: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Any]]:
    """Each clip with what ``work`` gave or raised, in order; few are under way at a time."""
    waiting: list[tuple[Item, Future[Any]]] = []
    with ThreadPoolExecutor(workers, thread_name_prefix="encode") as pool:
        try:
            for stored in clips:
                waiting.append((stored, pool.submit(work, stored)))
                if len(waiting) > workers:
                    first, future = waiting.pop(0)
                    yield first, future.exception() or future.result()
            for first, future in waiting:
                yield first, future.exception() or future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def encode_all(
    encode: Callable[[StoredClip], Encoded],
    clips: Iterable[StoredClip],
    workers: int,
    failed: Failed | None,
) -> Iterator[Encoded]:
    """What ``encode`` gives for each clip, in order; clips that cannot be encoded are left out.

    Args:
        encode: called in a thread.
        clips: which.
        workers: how many at once.
        failed: told of each clip that is damaged or does not fit; without it, that is raised.

    Raises:
        OSError: the disk is full, or the like: nothing that another clip would be spared.
    """
    for stored, outcome in in_order(encode, clips, workers):
        if not isinstance(outcome, Exception):
            yield outcome
        elif failed is not None and isinstance(outcome, SpikeDataError | ValueError | MemoryError):
            failed(stored, outcome)
        else:
            raise outcome
