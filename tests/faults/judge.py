"""What must hold after a fault, and what is found when it does not."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench import Bench, Contents, Unharmed, Verb, listing
from forks import Done

What = Literal["lost", "half", "wrong", "traceback", "hang", "message", "stuck", "left"]
MEANING: dict[What, str] = {
    "lost": "what was there before, or was finished, is gone",
    "half": "something unfinished is visible at the output",
    "wrong": "other bits or facts, or fewer clips, without a word",
    "traceback": "a traceback, or a crash",
    "hang": "still running after 60 s",
    "message": "an error that is not one line on a screen, or is not true",
    "stuck": "the same command does not complete afterwards",
    "left": "something is left behind, or missing, once it has",
}
LONGEST_LINE = 2000


@dataclass(frozen=True)
class Finding:
    """Something that must not be."""

    what: What
    text: str

    def __str__(self) -> str:
        return f"{self.what}: {self.text}"


def judge_printed(done: Done, *, killed: bool = False) -> Iterator[Finding]:
    """Whether a command ended as it should: done, or with its error in one line.

    Args:
        done: how it ended.
        killed: whether it may have been killed.
    """
    if done.status is None:
        yield Finding("hang", done.stderr[-300:])
        return
    if killed and done.status == -9:
        return
    if "Traceback" in done.stderr or done.status not in (0, 1):
        yield Finding("traceback", f"status {done.status}: {_end_of(done.stderr)}")
        return
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if len(errors) != done.status:
        yield Finding("message", f"status {done.status} with {len(errors)} lines of error")
    if any(len(line) > LONGEST_LINE for line in lines):
        yield Finding("message", f"a line of {max(map(len, lines)):,} characters")


def _end_of(text: str) -> str:
    """The last line and the last place in our code that a traceback names."""
    ours = r'File "[^"]*?((?:spikedata|spklip|cli)/[^"]*)", line (\d+), in (\w+)'
    places = re.findall(ours, text)
    where = " at {}:{} in {}".format(*places[-1]) if places else ""
    lines = [line for line in text.splitlines() if line.strip()]
    return (lines[-1][:300] if lines else "") + where


def judge_output(
    verb: Verb, folder: Path, done: Done, now: Contents, unharmed: Unharmed
) -> Iterator[Finding]:
    """Whether what lies at the output is what was there, or what should be there, and whole."""
    if done.status == 0:
        if now != unharmed.after:
            yield Finding("wrong", f"status 0, but {difference(now, unharmed.after)}")
        return
    if "nothing was changed" in done.stderr and now != unharmed.before:
        yield Finding("message", f"not true: {done.stderr.strip():.200}")
    if now in (unharmed.before, unharmed.after):
        return
    if now is None:
        yield Finding("lost", "nothing lies there any more")
    elif _is_told(done, now, unharmed):
        return
    elif verb.grows:
        yield from _judge_part(folder / verb.out, now, unharmed)
    else:
        yield Finding("half", difference(now, unharmed.after))


def _is_told(done: Done, now: Contents, unharmed: Unharmed) -> bool:
    """Whether all that is missing is named, and the rest is right."""
    if not isinstance(now, dict) or not isinstance(unharmed.after, dict):
        return False
    named = re.findall(r"^failed: ([^:]+): ", done.stderr, re.MULTILINE)
    return {*now, *named} == {*unharmed.after} and now.items() <= unharmed.after.items()


def _judge_part(out: Path, now: Contents, unharmed: Unharmed) -> Iterator[Finding]:
    """A part of the clips is fine, if each is whole and those of before are among them."""
    if not isinstance(now, dict):
        if unharmed.before is not None or any(out.glob("clips/*/")):
            yield Finding("half", str(now))
        return
    assert isinstance(unharmed.after, dict)
    assert isinstance(unharmed.before, dict | None)
    if (unharmed.before or {}).keys() - now.keys():
        yield Finding("lost", f"{len(now)} clips are left")
    if any(unharmed.after.get(key) != facts for key, facts in now.items()):
        yield Finding("half", difference(now, unharmed.after))


def judge_rerun(
    bench: Bench, verb: Verb, folder: Path, now: Contents, unharmed: Unharmed
) -> Iterator[Finding]:
    """Run the same command with nothing in its way: all is there, and nothing else."""
    if verb.grows and now != unharmed.after and (folder / verb.out / "zarr.json").exists():
        yield from judge_printed(bench.forks.run(["spikedata", "validate", verb.out], folder))
    words = bench.words(verb.again or verb.words, folder)
    again = bench.forks.run(words, folder)
    was_done = now == unharmed.after and re.search("exists already|a finished run", again.stderr)
    if "exists already. Give --overwrite" in again.stderr and not was_done:
        again = bench.forks.run([*words, "--overwrite"], folder)
    yield from judge_printed(again)
    if again.status == 1 and not was_done:
        yield Finding("stuck", again.stderr.strip()[-300:])
        return
    after = bench.contents(verb, folder)
    if after != unharmed.after:
        yield Finding("wrong", f"after the rerun {difference(after, unharmed.after)}")
    found = listing(folder)
    for text, names in (
        ("left", found - unharmed.listing),
        ("missing", unharmed.listing - found),
    ):
        if names:
            yield Finding("left", f"{text}: {', '.join(sorted(names)[:4])}")


def difference(now: Any, expected: Any) -> str:
    """The first thing that is different, in a few words."""
    if isinstance(now, dict) and isinstance(expected, dict):
        if now.keys() != expected.keys():
            return f"{len(now)} of {len(expected)} are there, or others"
        key = next((key for key in now if now[key] != expected[key]), "")
        return f"{key}: {difference(now.get(key), expected.get(key))}"
    return f"found {now!s:.150}, not {expected!s:.80}"
