"""Every case has a name that reproves it: which verb, what of it, which fault, and where."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from bench import VERBS, Bench
from forks import Fault
from judge import Finding, judge_output, judge_printed, judge_rerun

CALLS = {
    "kill": ("any", "kill", False),
    "torn": ("any", "torn", False),
    "ENOSPC": ("space", "ENOSPC", False),
    "ENOSPC-on": ("space", "ENOSPC", True),
    "EDQUOT": ("space", "EDQUOT", False),
    "EDQUOT-on": ("space", "EDQUOT", True),
    "EIO": ("any", "EIO", False),
    "EIO-on": ("any", "EIO", True),
    "EMFILE": ("open", "EMFILE", False),
    "EMFILE-on": ("open", "EMFILE", True),
    "EROFS-on": ("any", "EROFS", True),
}
"""Faults in system calls: which calls they befall, how, and whether they stay."""


@dataclass(frozen=True, order=True)
class Case:
    """One fault in one command."""

    verb: str
    kind: str
    place: int
    """How far into the command or the file, in thousandths."""

    @property
    def name(self) -> str:
        """What reproduces it."""
        return f"{self.verb}.{self.kind}.{self.place:03}"

    @property
    def needs_torch(self) -> bool:
        """Whether the command does."""
        return self.verb in ("train", "load")

    def findings(self, bench: Bench) -> list[Finding]:
        """Try it; what must not be."""
        return list(try_call(self, bench))


def try_call(case: Case, bench: Bench) -> Iterator[Finding]:
    """A system call fails, or the process is killed at one."""
    verb = VERBS[case.verb]
    call, kind, sticky = CALLS[case.kind]
    unharmed = bench.unharmed(verb, call)
    at = 1 + case.place * unharmed.calls // 1000
    fault = Fault(at=at, kind=kind, call=call, sticky=sticky)
    with bench.folder(verb.inputs) as folder:
        done = bench.run(verb, folder, fault=fault)
        killed = kind in ("kill", "torn")
        for finding in (
            *judge_printed(done, killed=killed),
            *judge_output(verb, folder, done, now := bench.contents(verb, folder), unharmed),
            *judge_rerun(bench, verb, folder, now, unharmed),
        ):
            yield Finding(finding.what, f"{finding.text} [{done.struck}]")


def chosen(count: int) -> list[Case]:
    """So many cases, the same in every run, spread over verbs, kinds and places."""
    pairs = [(verb, kind) for verb in VERBS for kind in CALLS if verb != "train"]
    pairs = sorted(pairs, key=lambda pair: zlib.crc32(" ".join(pair).encode()))
    return [Case(*pairs[number % len(pairs)], place=number * 618 % 1000) for number in range(count)]
