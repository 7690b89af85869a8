"""What the writers of all formats share: clips encoded side by side, told of one by one."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from spikedata.clips.crew import Crew
from spikedata.clips.stored import StoredClip
from spikedata.errors import SpikeDataError

Encoded = TypeVar("Encoded")
Item = TypeVar("Item")
Done = Callable[[StoredClip], None]
Failed = Callable[[StoredClip, Exception], None]


def in_order(
    work: Callable[[Item], Any], clips: Iterable[Item], workers: int | Crew
) -> Generator[tuple[Item, Any], None, None]:
    """Each clip with what ``work`` gave or raised, in order; few are under way at a time.

    Args:
        work: called in a thread.
        clips: which.
        workers: how many at once, or the crew that does it.
    """
    waiting: list[tuple[Item, Future[Any]]] = []
    with contextlib.ExitStack() as at_end:
        crew = at_end.enter_context(Crew(workers)) if isinstance(workers, int) else workers
        try:
            for stored in clips:
                waiting.append((stored, crew.start(work, stored)))
                if len(waiting) > crew.threads:
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
    workers: int | Crew,
    failed: Failed | None,
) -> Iterator[Encoded]:
    """What ``encode`` gives for each clip, in order; clips that cannot be encoded are left out.

    Args:
        encode: called in a thread.
        clips: which.
        workers: how many at once, or the crew that does it.
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
