"""A bounded number of threads that clips share, down to the chunks of a single one.

A clip is one piece of work, and so is each chunk of it. Clips go first; a thread that finds none
takes a chunk of a clip that another thread is at. Whoever needs a chunk's result and finds that
nobody has begun it does it himself, so that no thread waits for work that only waits for a thread,
and a crew of one is no slower than a loop.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Crew:
    """Threads for clips and their chunks; a context manager that waits for what was begun.

    Args:
        threads: how many; with 0 every chunk is done by the thread that hands it over.

    Raises:
        ValueError: ``threads`` is negative.
    """

    def __init__(self, threads: int) -> None:
        if threads < 0:
            raise ValueError(f"threads must not be negative, got {threads}")
        self.threads = threads
        self._pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="encode")
        # Chunks that wait behind clips are of no use: more are not handed to the pool.
        self._room = threading.Semaphore(2 * threads)
        self._busy = self._clips = 0
        self._counting = threading.Lock()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown()

    def start(self, work: Callable[..., Result], *args: Any) -> Future[Result]:
        """Have a thread do a clip."""
        return self._pool.submit(self._do_clip, work, *args)

    def is_busy(self) -> bool:
        """Whether all of its threads have something to do."""
        return self._busy >= self.threads

    def share(self) -> int:
        """Chunks that a clip may have under way: of all clips together two a thread."""
        return 2 * self.threads // max(1, self._clips)

    def offer(self, chunk: "_Chunk[Any]") -> None:
        """Let a thread that has nothing else to do take a chunk, if there may be one."""
        if self._room.acquire(blocking=False):
            self._pool.submit(self._do, self._take, chunk)

    def _take(self, chunk: "_Chunk[Any]") -> None:
        self._room.release()
        chunk.run_if_unclaimed()

    def _do_clip(self, work: Callable[..., Result], *args: Any) -> Result:
        with self._counting:
            self._clips += 1
        try:
            return self._do(work, *args)
        finally:
            with self._counting:
                self._clips -= 1

    def _do(self, work: Callable[..., Result], *args: Any) -> Result:
        with self._counting:
            self._busy += 1
        try:
            return work(*args)
        finally:
            with self._counting:
                self._busy -= 1


class _Chunk(Generic[Result]):
    """One call that is made once, by the first who claims it."""

    def __init__(self, work: Callable[..., Result], args: tuple[Any, ...]) -> None:
        self._work: Callable[[], Result] | None = lambda: work(*args)
        self._unclaimed = threading.Lock()
        self._done = threading.Event()
        self._result: Result
        self._error: BaseException | None = None

    def run_if_unclaimed(self) -> bool:
        """Make the call unless somebody has begun to; whether it was made here."""
        if not self._unclaimed.acquire(blocking=False):
            return False
        work, self._work = self._work, None  # a pool that has no time yet is not to hold its data
        assert work is not None
        try:
            self._result = work()
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()
        return True

    def drop(self) -> None:
        """See that nobody makes the call any more, or that it has been made."""
        if self._unclaimed.acquire(blocking=False):
            self._work = None
        else:
            self._done.wait()

    def is_done(self) -> bool:
        return self._done.is_set()

    def result(self) -> Result:
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


class Chunks(Generic[Result]):
    """The chunks of one clip, whose results come in order; used by one thread.

    Args:
        crew: who helps; without one every call is made at once.
        own: chunks that may be under way at a time, if that is more than its share of the crew's.
    """

    def __init__(self, crew: Crew | None, own: int = 0) -> None:
        self._crew, self._own = crew, own
        self._under_way: deque[_Chunk[Result]] = deque()

    def add(self, work: Callable[..., Result], *args: Any) -> list[Result]:
        """Hand over the next chunk; results of the first ones, if now too many are under way.

        Raises:
            Exception: whatever the work of one of these raised.
        """
        if self._crew is None or (not self._under_way and self._crew.is_busy()):
            return [work(*args)]
        chunk = _Chunk(work, args)
        self._under_way.append(chunk)
        self._crew.offer(chunk)
        return self._due(max(self._own, self._crew.share()))

    def rest(self) -> list[Result]:
        """Results of all that are under way.

        Raises:
            Exception: whatever the work of one of these raised.
        """
        return self._due(0)

    def drop(self) -> None:
        """Forget what is under way; nothing of it runs any more afterwards."""
        while self._under_way:
            self._under_way.popleft().drop()

    def _due(self, most: int) -> list[Result]:
        due = []
        while len(self._under_way) > most:
            self._help_with_first()
            due.append(self._under_way.popleft().result())
        return due

    def _help_with_first(self) -> None:
        """Do what nobody has begun, in order, until the first is done."""
        for chunk in self._under_way:
            if self._under_way[0].is_done():
                return
            chunk.run_if_unclaimed()
