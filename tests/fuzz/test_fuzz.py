"""Whatever is in a file from outside: the right answer, or one line; in bounded time and memory."""

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("what a process takes is read from Linux's /proc", allow_module_level=True)

from .harness import LONGEST_WAIT_S, MOST_SECONDS, Worker, fuzz, kept_cases, load_case
from .inputs import Case
from .targets import TARGETS

IN_ORDINARY_RUN = 6
"""Cases drawn of each target in an ordinary run."""
IN_ALL = 10_000


@pytest.fixture(scope="module")
def worker():
    with Worker() as started:
        yield started


def skip_without(target):
    if TARGETS[target].needs is not None:
        pytest.importorskip(TARGETS[target].needs)


@pytest.mark.parametrize("target", TARGETS)
def test_a_reader_gives_the_right_answer_or_one_line(worker, target):
    skip_without(target)
    tally = fuzz(worker, target, IN_ORDINARY_RUN)
    assert tally.failures == []
    assert tally.right + tally.refused == tally.cases == IN_ORDINARY_RUN


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_ten_thousand_cases(worker, target):
    skip_without(target)
    tally = fuzz(worker, target, -(-IN_ALL // len(TARGETS)))
    assert tally.failures == []
    assert tally.right + tally.refused == tally.cases


@pytest.mark.parametrize(
    ("target", "path"), kept_cases(), ids=[f"{name}/{path.name}" for name, path in kept_cases()]
)
def test_what_once_showed_something_shows_nothing_more(worker, target, path):
    skip_without(target)
    found = worker.run(target, load_case(worker, target, path))
    assert found.why == ""


@pytest.fixture(scope="module")
def careless():
    with Worker("misbehaving") as started:
        yield started


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("raise", "KeyError: "),
        ("abort", "died: status -6"),
        ("take memory", "memory: 1,"),
        ("spin", "slow: "),
        ("hang", "hangs: "),
        ("refuse in two lines", "told in several lines: 'one"),
        ("refuse at length", "told at length: 1,001 letters"),
    ],
)
def test_what_a_reader_must_not_do_is_seen_and_the_next_case_is_read(careless, what, why):
    if what == "spin":
        careless.most_seconds = 0.3
    if what == "hang":
        careless.longest_wait_s = 1.0
    found = careless.run("anything", Case(0, ".txt", what.encode()))
    careless.most_seconds, careless.longest_wait_s = MOST_SECONDS, LONGEST_WAIT_S
    assert (found.outcome, found.why[: len(why)]) == ("other", why)
    after = [careless.run("anything", Case(0, ".txt", word)) for word in (b"refuse", b"nothing")]
    assert [one.outcome for one in after] == ["refused", "right"]
