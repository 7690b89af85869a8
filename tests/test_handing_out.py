"""Parts handed out: whoever dies, stalls or is sent away, each item has one outcome."""

import threading
from collections import Counter

import pytest

from spikedata.engines import (
    HandOut,
    LaneClosedError,
    PartDone,
    WorkerLostError,
    lanes_of,
    part_size,
)


class Workers:
    """Workers that do nothing, in time that passes only while somebody waits for them.

    Args:
        lanes: how many there are, by kind.
        takes_s: seconds of each issue of an item, in order; the last ones too; default 1.
        kills: items that kill whoever does them.
    """

    def __init__(self, lanes, *, takes_s=None, kills=(), closes=()):
        self.now_s = 0.0
        self.there = dict(lanes)
        self.takes_s, self.kills, self.closes = takes_s or {}, kills, closes
        self.issued = []
        self.given_up, self.stopped = [], []
        self._ends_s = {}
        self._items = Counter()

    def lanes(self):
        return self.there

    def submit(self, lane, items):
        ticket = len(self.issued)
        self.issued.append((lane, items))
        seconds = 0.0
        for item in items:
            of_item = self.takes_s.get(item, [1.0])
            seconds += of_item[min(self._items[item], len(of_item) - 1)]
            self._items[item] += 1
        self._ends_s[ticket] = self.now_s + seconds, seconds
        return ticket

    def ended(self, tickets, timeout_s):
        first = min((self._ends_s[ticket][0] for ticket in tickets), default=float("inf"))
        self.now_s = max(self.now_s, min(first, self.now_s + timeout_s))
        return [ticket for ticket in tickets if self._ends_s[ticket][0] <= self.now_s]

    def result(self, ticket):
        lane, items = self.issued[ticket]
        if lane in self.closes:
            self.there[lane] = 0
            raise LaneClosedError("no driver")
        if set(items) & set(self.kills):
            raise WorkerLostError("its process died")
        return PartDone([f"{item} done" for item in items], self._ends_s[ticket][1])

    def give_up(self, tickets):
        self.given_up += tickets
        for ticket in tickets:
            self._ends_s[ticket] = self.now_s, 0.0

    def stop(self, tickets):
        self.stopped += tickets


def lost(item, how):
    return f"{item} lost: {how}"


def handing(items, workers, stop=None):
    stop = stop or threading.Event()
    return HandOut(items, workers, lost=lost, stop=stop, clock=lambda: workers.now_s)


def test_every_item_is_done_once_and_no_worker_has_more_than_one_part():
    workers = Workers({"cpu": 3})
    outcomes = list(handing(range(100), workers).outcomes())
    assert sorted(outcomes) == sorted(f"{n} done" for n in range(100))
    assert sum(len(items) for _, items in workers.issued) == 100
    assert workers.now_s < 100 / 3 + 2  # all three were busy until the end
    assert workers.stopped == []


def test_an_item_that_kills_its_workers_costs_itself_alone():
    workers = Workers({"cpu": 2}, kills={5})
    given = handing(range(40), workers)
    outcomes = list(given.outcomes())
    assert outcomes.count("5 lost: its process died") == 1
    assert sorted(set(outcomes)) == sorted(
        ["5 lost: its process died", *(f"{n} done" for n in range(40) if n != 5)]
    )
    assert len(outcomes) == 40
    with_it = [items for _, items in workers.issued if 5 in items]
    assert len(with_it) == given.workers_lost == 3
    assert with_it[1:] == [(5,), (5,)]


def test_a_part_that_hangs_is_issued_once_more_and_the_first_to_end_counts():
    workers = Workers({"cpu": 2}, takes_s={7: [1e9, 1.0]})
    given = handing(range(8), workers)
    outcomes = list(given.outcomes())
    assert sorted(outcomes) == sorted(f"{n} done" for n in range(8))
    assert given.issued_again == 1
    hung, again = [n for n, (_, items) in enumerate(workers.issued) if 7 in items]
    assert workers.issued[hung] == workers.issued[again]
    assert workers.given_up == [hung]
    assert 10 < workers.now_s < 25  # seconds of patience, not the hour


def test_what_takes_no_longer_than_expected_is_never_issued_again():
    workers = Workers({"cpu": 4}, takes_s={n: [30.0] for n in range(9)})
    given = handing(range(9), workers)
    assert len(list(given.outcomes())) == 9
    assert given.issued_again == 0


def test_a_twin_that_dies_is_no_loss_while_the_other_lives():
    class Twins(Workers):
        def result(self, ticket):
            if ticket == again(self):
                raise WorkerLostError("its node died")
            return super().result(ticket)

    def again(workers):
        both = [n for n, (_, items) in enumerate(workers.issued) if 7 in items]
        return both[1] if len(both) > 1 else None

    workers = Twins({"cpu": 2}, takes_s={7: [40.0, 1.0]})
    given = handing(range(8), workers)
    assert sorted(given.outcomes()) == sorted(f"{n} done" for n in range(8))
    assert (given.issued_again, given.workers_lost) == (1, 1)


def test_what_is_no_item_s_own_matter_ends_the_run_and_stops_the_rest():
    class Full(Workers):
        def result(self, ticket):
            raise OSError("no room")

    workers = Full({"cpu": 2}, takes_s={1: [5.0]})
    with pytest.raises(OSError, match="no room"):
        list(handing(range(2), workers).outcomes())
    assert workers.stopped == [1]


def test_a_run_that_is_told_to_stop_waits_for_its_workers():
    workers, stop = Workers({"cpu": 2}, takes_s={4: [9.0]}), threading.Event()
    outcomes = handing(range(100), workers, stop).outcomes()
    assert next(outcomes) == "0 done"
    stop.set()
    assert list(outcomes) == ["1 done", "2 done", "3 done"]  # the rest of what had ended
    assert workers.stopped == [1]


def test_a_kind_of_worker_that_sends_its_part_away_costs_no_attempt():
    workers = Workers({"cuda": 1, "cpu": 1}, closes={"cuda"})
    given = handing(range(20), workers)
    assert sorted(given.outcomes()) == sorted(f"{n} done" for n in range(20))
    assert given.workers_lost == 0
    assert [lane for lane, _ in workers.issued].count("cuda") == 1


def test_workers_that_come_later_get_parts_too():
    workers = Workers({"cpu": 0})
    stop = threading.Event()
    given = handing(range(10), workers, stop)

    class Late(dict):
        def items(self):
            return ({"cpu": 2} if workers.now_s > 3 else {"cpu": 0}).items()

        def values(self):
            return dict(self.items()).values()

    workers.there = Late()
    assert len(list(given.outcomes())) == 10
    assert workers.now_s > 3


@pytest.mark.parametrize(
    ("waiting", "workers", "item_s", "size"),
    [
        (1, 8, None, 1),
        (1000, 2, None, 4),  # nothing is known yet
        (1000, 2, 0.15, 10),  # a second and a half
        (1000, 2, 60.0, 1),
        (1000, 2, 1e-9, 64),
        (12, 2, 0.01, 3),  # the end is shared out
        (3, 4, 0.01, 1),
    ],
)
def test_parts_take_about_a_second_and_less_towards_the_end(waiting, workers, item_s, size):
    assert part_size(waiting, workers, item_s) == size


@pytest.mark.parametrize(
    ("resources", "device", "workers", "lanes"),
    [
        ({"CPU": 8.0}, None, None, {"cuda": 0, "cpu": 8}),
        ({"CPU": 8.0, "GPU": 2.0}, None, None, {"cuda": 2, "cpu": 6}),
        ({"CPU": 8.0, "GPU": 2.0}, "cpu", None, {"cuda": 0, "cpu": 8}),
        ({"CPU": 8.0, "GPU": 2.0}, "cuda", None, {"cuda": 2, "cpu": 0}),
        ({"CPU": 8.0, "GPU": 2.0}, None, 1, {"cuda": 1, "cpu": 0}),
        ({"CPU": 8.0, "GPU": 2.0}, None, 3, {"cuda": 2, "cpu": 1}),
        ({"CPU": 2.0, "GPU": 4.0}, None, None, {"cuda": 2, "cpu": 0}),  # a GPU needs a core
        ({"CPU": 8.0}, "cuda", None, {"cuda": 0, "cpu": 0}),
        ({}, None, 4, {"cuda": 0, "cpu": 0}),  # every node is gone
    ],
)
def test_gpus_are_used_beside_the_cores_that_are_left(resources, device, workers, lanes):
    assert lanes_of(resources, device=device, workers=workers) == lanes
