"""Items handed out to workers in small parts, until each has an outcome; knows no engine.

Workers die, and stall. A part whose worker died is issued again, item by item, so that one item
that kills its workers costs itself alone. When nothing waits any more and a worker has nothing to
do, the part that has been under way longest is issued to it too, and whoever ends first counts.
So a part may be done twice: work must be such that this does no harm.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Ticket = Hashable
"""What an executor calls a part that it was given."""

PART_S = 1.5
"""Seconds that a part is to take: much more than handing it out, little to lose."""
MOST_ITEMS = 64
"""Items of a part at most."""
FIRST_ITEMS = 4
"""Items of a part at most, before it is known how long one takes."""
MOST_ATTEMPTS = 3
"""Workers that one item may cost."""
PATIENCE_S = 10.0
"""Seconds before a part can be a straggler, which is issued again."""
PATIENCE = 3.0
"""Times as long as expected, likewise."""
BLIND_PATIENCE_S = 300.0
"""Seconds, where no part has ended yet that would tell what to expect."""
POLL_S = 0.2
"""Seconds between two looks at what else there is to do."""


class WorkerLostError(Exception):
    """A worker, or its node, died with a part; says how."""


class LaneClosedError(Exception):
    """A part was given back undone: its kind of worker is not to be used any more."""


@dataclass(frozen=True, slots=True)
class PartDone:
    """What came of a part."""

    outcomes: Sequence[Any]
    seconds: float
    """How long it took, without getting it there and back."""


class Executor(Protocol):
    """Workers that do parts, each whole, in any order."""

    def lanes(self) -> Mapping[str, int]:
        """How many parts may be under way at once, by kind of worker; changes with time."""

    def submit(self, lane: str, items: Sequence[Any]) -> Ticket:
        """Have a worker do a part."""

    def ended(self, tickets: Sequence[Ticket], timeout_s: float) -> Sequence[Ticket]:
        """Wait until one has ended, or for so long; gives those that have."""

    def result(self, ticket: Ticket) -> PartDone:
        """What came of a part that has ended.

        Raises:
            WorkerLostError: its worker died.
            LaneClosedError: it is to be done elsewhere.
            Exception: what must end the whole run.
        """

    def give_up(self, tickets: Sequence[Ticket]) -> None:
        """Have parts end soon whose outcomes nobody needs."""

    def stop(self, tickets: Sequence[Ticket]) -> None:
        """Have parts end, and wait until they have."""


@dataclass(eq=False)
class _Part:
    """Items that are done together."""

    items: tuple[Any, ...]
    lost: int = 0
    """Workers that died with it."""
    issued: int = 0
    done: bool = False


@dataclass(frozen=True)
class _UnderWay:
    part: _Part
    lane: str
    since_s: float


class HandOut(Generic[Item, Outcome]):
    """Hands out items, and gives their outcomes.

    Args:
        items: what is to be done, in order.
        executor: who does it.
        lost: the outcome of an item that cost too many workers, from how the last one died; it
            may raise to end the run.
        stop: set it to end early.
        cost: what an item costs, in any unit, as far as that is known beforehand.
        clock: seconds, from any moment on.
    """

    def __init__(
        self,
        items: Iterable[Item],
        executor: Executor,
        *,
        lost: Callable[[Item, str], Outcome],
        stop: threading.Event,
        cost: Callable[[Item], float] = lambda _: 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cost = cost
        self._fresh: deque[Item] = deque(items)
        self._again: deque[_Part] = deque()
        self._under_way: dict[Ticket, _UnderWay] = {}
        self._executor, self._lost, self._stop, self._clock = executor, lost, stop, clock
        self._done_items, self._done_cost, self._done_s = 0, 0.0, 0.0
        self.workers_lost = 0
        """Workers that died with a part."""
        self.issued_again = 0
        """Parts that were issued a second time because they took too long."""

    def outcomes(self) -> Generator[Outcome, None, None]:
        """Those of each item, as parts end; to be closed by whoever does not want them all.

        Raises:
            Exception: whatever a part raised that was no single item's matter.
        """
        try:
            while self._is_unfinished() and not self._stop.is_set():
                self._hand_out()
                for ticket in self._executor.ended(list(self._under_way), POLL_S):
                    yield from self._settle(ticket)
        finally:
            self._executor.stop(list(self._under_way))

    def _is_unfinished(self) -> bool:
        left = any(not one.part.done for one in self._under_way.values())
        return bool(self._fresh or self._again or left)

    def _hand_out(self) -> None:
        """Give every worker that has nothing to do a part."""
        lanes = self._executor.lanes()
        for lane, slots in lanes.items():
            busy = sum(one.lane == lane for one in self._under_way.values())
            for _ in range(slots - busy):
                part = self._next(sum(lanes.values())) or self._straggler()
                if part is None:
                    return
                part.issued += 1
                ticket = self._executor.submit(lane, part.items)
                self._under_way[ticket] = _UnderWay(part, lane, self._clock())

    def _next(self, workers: int) -> _Part | None:
        if self._fresh:
            size = part_size(len(self._fresh), workers, self._item_s())
            return _Part(tuple(self._fresh.popleft() for _ in range(size)))
        return self._again.popleft() if self._again else None

    def _item_s(self) -> float | None:
        return self._done_s / self._done_items if self._done_items else None

    def _straggler(self) -> _Part | None:
        """The part that has been under way longest, if that is too long and it was issued once."""
        once = [one for one in self._under_way.values() if one.part.issued == 1]
        slow = min(once, key=lambda one: one.since_s, default=None)
        if slow is None or slow.part.done:
            return None
        if self._clock() - slow.since_s < self._patience_s(slow.part):
            return None
        self.issued_again += 1
        return slow.part

    def _patience_s(self, part: _Part) -> float:
        if not self._done_cost:
            return BLIND_PATIENCE_S
        expected_s = self._done_s / self._done_cost * sum(map(self._cost, part.items))
        return max(PATIENCE_S, PATIENCE * expected_s)

    def _settle(self, ticket: Ticket) -> Iterator[Outcome]:
        part = self._under_way.pop(ticket).part
        if part.done:
            return
        twins = [other for other, one in self._under_way.items() if one.part is part]
        try:
            done = self._executor.result(ticket)
        except LaneClosedError:
            if not twins:
                self._put_back([part])
            return
        except WorkerLostError as error:
            self.workers_lost += 1
            if not twins:
                yield from self._after_death(part, str(error))
            return
        part.done = True
        self._executor.give_up(twins)
        self._done_items += len(part.items)
        self._done_cost += sum(map(self._cost, part.items))
        self._done_s += done.seconds
        yield from done.outcomes

    def _after_death(self, part: _Part, how: str) -> Iterator[Outcome]:
        """Have its items done one by one; one that was alone and costs too much is lost."""
        part.lost += 1
        if len(part.items) > 1:
            self._put_back(_Part((item,), part.lost) for item in part.items)
        elif part.lost < MOST_ATTEMPTS:
            self._put_back([part])
        else:
            part.done = True
            yield self._lost(part.items[0], how)

    def _put_back(self, parts: Iterable[_Part]) -> None:
        for part in parts:
            part.issued = 0
            self._again.append(part)


def part_size(waiting: int, workers: int, item_s: float | None) -> int:
    """How many items the next part has.

    Args:
        waiting: items that are not handed out yet, at least 1.
        workers: parts that are under way at once.
        item_s: seconds that an item took so far, on average; None if none has ended.

    Returns:
        As many as take :data:`PART_S`, but towards the end fewer, so that all workers end at
        about the same time.
    """
    fitting = FIRST_ITEMS if item_s is None else int(PART_S / max(item_s, 1e-6))
    fair = waiting // (2 * max(1, workers))
    return max(1, min(MOST_ITEMS, fitting, fair))
