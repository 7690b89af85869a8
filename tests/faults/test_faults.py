"""Under faults nothing is lost, half-written or silently wrong; see ``cases.py`` and ``run.py``."""

from importlib.util import find_spec

import pytest
from bench import Bench
from cases import Case, chosen
from forks import why_not

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
