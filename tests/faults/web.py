"""A Hub whose answers are cut, delayed, garbled or nonsense; see ``flaky_hub.py``."""

from collections.abc import Iterator

from bench import VERBS, Bench
from flaky_hub import MISANSWERS, Fault
from judge import Finding, judge_output, judge_printed, judge_rerun

ANSWERS = {name.replace(" ", "-"): fault for name, fault in MISANSWERS.items()} | {
    "delay": Fault("delay", seconds=2)
}
"""What may happen to one answer."""
VERBS_ONLINE = ("pull", "pull-over", "push-hub")


def try_answer(bench: Bench, name: str, answer: str, place: int) -> Iterator[Finding]:
    """Spoil the answer to one of a verb's requests.

    Args:
        bench: where.
        name: the verb.
        answer: which of :data:`ANSWERS`.
        place: which request, in thousandths of them all.
    """
    verb = VERBS[name]
    unharmed = bench.unharmed(verb, "any")
    with bench.folder(verb.inputs) as folder:
        number = 1 + place * unharmed.requests // 1000
        bench.flaky.heal()
        bench.flaky.spoil(ANSWERS[answer], number=number)
        done = bench.run(verb, folder)
        spoilt = bench.flaky.spoilt[:1]
        bench.flaky.heal()
        now = bench.contents(verb, folder)
        for finding in (
            *judge_printed(done),
            *judge_output(verb, folder, done, now, unharmed),
            *judge_rerun(bench, verb, folder, now, unharmed),
        ):
            yield Finding(finding.what, f"{finding.text} {spoilt}")
