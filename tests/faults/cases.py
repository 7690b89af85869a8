"""Every case has a name that reproduces it: which command, which fault, and where."""

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench import VERBS, Bench
from damage import SET_READERS, TARGETS, damages_of, readers_of, try_damage, try_read_only
from forks import Fault
from judge import Finding, judge_output, judge_printed, judge_rerun
from web import ANSWERS, VERBS_ONLINE, try_answer

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
ERRORS = tuple(CALLS)[2:]


@dataclass(frozen=True, order=True)
class Case:
    """One fault in one command."""

    verb: str
    kind: str
    """A system call's fault; ``at-rest-`` with a damage and what it befell; or ``web-`` with an
    answer of the Hub."""
    place: int
    """How far into the command or the file, in thousandths."""

    @property
    def name(self) -> str:
        """What reproduces it."""
        return f"{self.verb}.{self.kind}.{self.place:03}"

    @classmethod
    def named(cls, name: str) -> "Case":
        """Undo :attr:`name`."""
        verb, kind, place = name.split(".")
        return cls(verb, kind, int(place))

    @property
    def needs_torch(self) -> bool:
        """Whether the command does."""
        return self.verb in ("train", "train-on", "load")

    def findings(self, bench: Bench) -> list[Finding]:
        """Try it; what must not be."""
        return list(self._tried(bench))

    def _tried(self, bench: Bench) -> Iterator[Finding]:
        if self.kind.startswith("web-"):
            return try_answer(bench, self.verb, self.kind.removeprefix("web-"), self.place)
        if not self.kind.startswith("at-rest-"):
            return try_call(bench, self.verb, self.kind, self.place)
        damage, _, name = self.kind.removeprefix("at-rest-").partition("-")
        target = TARGETS[name]
        if damage == "readonly":
            return try_read_only(bench, self.verb, target)
        return try_damage(bench, self.verb, target, damage, random.Random(self.name))


def try_call(bench: Bench, name: str, how: str, place: int) -> Iterator[Finding]:
    """A system call fails, or the process is killed at one.

    Args:
        bench: where.
        name: the verb.
        how: which of :data:`CALLS`.
        place: which call, in thousandths of them all.
    """
    verb = VERBS[name]
    call, kind, sticky = CALLS[how]
    unharmed = bench.unharmed(verb, call)
    at = 1 + place * unharmed.calls // 1000
    with bench.folder(verb.inputs) as folder:
        done = bench.run(verb, folder, fault=Fault(at=at, kind=kind, call=call, sticky=sticky))
        now = bench.contents(verb, folder)
        for finding in (
            *judge_printed(done, killed=kind in ("kill", "torn")),
            *judge_output(verb, folder, done, now, unharmed),
            *judge_rerun(bench, verb, folder, now, unharmed),
        ):
            yield Finding(finding.what, f"{finding.text} [{done.struck}]")


# --- which --------------------------------------------------------------------------------------

Pair = tuple[str, str]
"""A verb and a kind."""


def chosen(count: int, draw: int = 0) -> list[Case]:
    """So many cases, the same in every run of one draw, spread over kinds, verbs and places.

    A quarter are kills, a quarter errors of system calls, a third damaged files, the rest a Hub out
    of its mind; one in a hundred is of training, which takes its time.
    """
    slow, web, kills, at_rest = count // 100, count // 7, count // 4, count // 3
    shares = (
        (_pairs_of_calls("kill", "torn"), kills),
        (_pairs_of_calls(*ERRORS), count - slow - web - kills - at_rest),
        (_pairs_at_rest(), at_rest),
        ([(verb, f"web-{answer}") for answer in ANSWERS for verb in VERBS_ONLINE], web),
        (_pairs_of_training(), slow),
    )
    pairs = [pair for several, share in shares for pair in _interleaved(several, share, draw)]
    return [
        Case(*pair, place=(number * 618 + draw * 71) % 1000) for number, pair in enumerate(pairs)
    ]


def _interleaved(pairs: Sequence[Pair], count: int, draw: int) -> list[Pair]:
    """So many, each kind in turn, each of its verbs in turn; again from the start if need be."""
    by_kind: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: zlib.crc32(" ".join(pair).encode(), draw)):
        by_kind.setdefault(counted_as(pair[1]), []).append(pair)
    kinds = list(by_kind.values())
    return [
        kinds[number % len(kinds)][number // len(kinds) % len(kinds[number % len(kinds)])]
        for number in range(count)
    ]


def counted_as(kind: str) -> str:
    """What is counted together: a damage, whatever it befell."""
    return "-".join(kind.split("-")[:3]) if kind.startswith("at-rest-") else kind


def _pairs_of_calls(*kinds: str) -> list[Pair]:
    return [(verb, kind) for verb in VERBS for kind in kinds if verb != "train"]


def _pairs_at_rest() -> list[Pair]:
    pairs = [
        (reader, f"at-rest-{damage}-{name}")
        for name, target in TARGETS.items()
        for damage in damages_of(target)
        for reader in readers_of(target, damage)
        if reader != "train-on"
    ]
    sets = ("zarr-root", "parquet-shard", "hdf5-file", "dat-about")
    return pairs + [(reader, f"at-rest-readonly-{of}") for of in sets for reader in SET_READERS]


def _pairs_of_training() -> list[Pair]:
    at_rest = [
        ("train-on", f"at-rest-{damage}-{name}")
        for name, target in TARGETS.items()
        for damage in damages_of(target)
        if "train-on" in target.readers
    ]
    return [("train", kind) for kind in CALLS] + at_rest
