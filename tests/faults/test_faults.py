"""Under faults nothing is lost, half-written or silently wrong; see ``cases.py`` and ``run.py``."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from bench import VERBS, Bench, Unharmed
from cases import Case, chosen
from forks import Done, Fault, why_not
from judge import judge_output, judge_printed

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
FEW, MANY = 50, 1000


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with Bench(tmp_path_factory.mktemp("faults")) as bench:
        yield bench


@pytest.mark.parametrize("case", chosen(FEW), ids=lambda case: case.name)
def test_nothing_is_lost_under_a_fault(bench, case):
    check(bench, case)


@pytest.mark.faults
@pytest.mark.parametrize("case", chosen(MANY), ids=lambda case: case.name)
def test_nothing_is_lost_under_any_of_a_thousand_faults(bench, case):
    check(bench, case)


def check(bench: Bench, case: Case) -> None:
    if case.needs_torch and not find_spec("torch"):
        pytest.skip("needs torch")
    assert [str(finding) for finding in case.findings(bench)] == []


# --- the harness itself -------------------------------------------------------------------------


def test_a_fault_strikes_the_call_that_was_named(bench):
    pack = VERBS["pack-zarr"]
    with bench.folder(pack.inputs) as folder:
        killed = bench.run(pack, folder, fault=Fault(at=15, kind="kill"))
        assert (killed.status, killed.calls) == (-9, 15)
        assert "/out.zarr.partial" in killed.struck
        full = bench.run(pack, folder, fault=Fault(at=4, kind="ENOSPC", call="space"))
        assert full.status == 1
        assert "No space left on device" in full.stderr
        elsewhere = bench.forks.run(["read", "spikes.zarr"], folder, call="any")
        assert (elsewhere.status, elsewhere.calls) == (0, 0)  # reading changes nothing


def test_half_a_write_reaches_the_disk(bench):
    export = VERBS["export-npy"]
    sizes = []
    for kind in ("torn", "kill"):
        with bench.folder(export.inputs) as folder:
            bench.run(export, folder, fault=Fault(at=3, kind=kind))
            (partial,) = folder.rglob("out.npy.*")
            sizes.append(partial.stat().st_size)
    assert sizes[0] > sizes[1]


def ended(status: int | None, stderr: str = "") -> Done:
    return Done(status=status, stdout="", stderr=stderr, wall_s=0, calls=0, struck="")


@pytest.mark.parametrize(
    ("done", "found"),
    [
        (ended(0), []),
        (ended(1, "note: odd\nerror: full\n"), []),
        (ended(None), ["hang"]),
        (ended(-11), ["traceback"]),
        (ended(1, "Traceback (most recent call last):\nValueError: x\n"), ["traceback"]),
        (ended(1), ["message"]),
        (ended(0, "error: full\n"), ["message"]),
        (ended(1, f"error: {'x' * 3000}\n"), ["message"]),
    ],
)
def test_how_a_command_ends_is_judged(done, found):
    assert [finding.what for finding in judge_printed(done)] == found


OLD, NEW = {"a": {"bits": 1}}, {"a": {"bits": 2}, "b": {"bits": 3}}


@pytest.mark.parametrize(
    ("done", "now", "found"),
    [
        (ended(0), NEW, []),
        (ended(0), OLD, ["wrong"]),
        (ended(0), {**NEW, "b": {"bits": 4}}, ["wrong"]),
        (ended(-9), OLD, []),
        (ended(-9), NEW, []),
        (ended(-9), None, ["lost"]),
        (ended(-9), {"a": {"bits": 2}}, ["half"]),
        (ended(1, "failed: b: damaged\nerror: 1 left out\n"), {"a": {"bits": 2}}, []),
        (ended(1, "failed: a: damaged\nerror: 1 left out\n"), {"a": {"bits": 2}}, ["half"]),
        (ended(1, "error: full; nothing was changed\n"), NEW, ["message"]),
    ],
)
def test_what_lies_at_an_output_is_judged(done, now, found):
    unharmed = Unharmed(before=OLD, after=NEW, listing=frozenset(), calls=9, requests=0)
    judged = judge_output(VERBS["pack-zarr-over"], Path("."), done, now, unharmed)
    assert [finding.what for finding in judged] == found


def test_every_case_has_a_name_of_its_own_that_reproduces_it():
    cases = chosen(MANY)
    assert len({case.name for case in cases}) == MANY
    assert [Case.named(case.name) for case in cases] == cases
    assert {case.verb for case in cases} >= VERBS.keys()
