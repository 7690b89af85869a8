"""Where cases are tried: small inputs made once, folders to try in, and what commands do unharmed.

A set of clips is six clips of two classes, 16x24 pixels and 200 ticks, in two splits.
"""

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from flaky_hub import FlakyHub
from forks import Done, Fault, Forks
from hub_server import USER, HubServer
from tools import random_frames, write_grey

SUFFIX = {"zarr": "zarr", "parquet": "parquet", "hdf5": "h5", "dat": "dat"}
"""Of a set of clips, by format."""
PUBLISHED = f"{USER}/source"
"""What `pull` fetches."""

Contents = dict[str, Any] | str | None
"""What lies at a path: clips with facts and digests, the digest of a file, nothing; or that it
cannot be read, in words that begin with ``unreadable``."""


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A command that writes, and what it needs."""

    name: str
    words: tuple[str, ...]
    inputs: tuple[tuple[str, str], ...] = ()
    """What of the bench lies in the folder, and under which name."""
    out: str = ""
    """What it writes, below the folder; empty for what it publishes."""
    again: tuple[str, ...] = ()
    """What one types after it failed; the same if empty."""
    grows: bool = False
    """Whether its output may hold a part of the clips, each whole."""

    @property
    def replaces(self) -> bool:
        """Whether something lies at ``out`` before."""
        return any(name == self.out for _, name in self.inputs)


@dataclass(frozen=True, kw_only=True)
class Unharmed:
    """What a verb does when nothing goes wrong."""

    before: Contents
    """At ``out``."""
    after: Contents
    listing: frozenset[str]
    """Everything in the folder afterwards."""
    calls: int
    """Calls that were counted."""
    requests: int
    """What was asked of the Hub."""


class Bench:
    """Inputs, a process that forks, and a Hub; a context manager.

    Args:
        scratch: an empty folder.
    """

    def __init__(self, scratch: Path) -> None:
        self._stack = contextlib.ExitStack()
        self._scratch, self._number = scratch, 0
        self.home = scratch / "home"
        for name in ("home", "prints", "hub", "cases"):
            (scratch / name).mkdir()
        self.hub = self._stack.enter_context(HubServer(scratch / "hub"))
        _write_videos(self.home / "videos")
        self.flaky = self._stack.enter_context(FlakyHub(self.hub.url))
        env = self.hub.environment(scratch / "hub-home") | {"HF_ENDPOINT": self.flaky.url}
        self.forks = self._stack.enter_context(Forks(scratch / "prints", env))
        for words in (*_INPUTS, *_READ):
            self.forks.warm(words.split(), self.home)
        publish = (
            f"spikedata push-hub spikes.zarr --repo {PUBLISHED}"  # its threads outlive no fork
        )
        done = self.forks.run(publish.split(), self.home)
        assert done.status == 0, done
        self.unharmed = functools.cache(self._unharmed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def folder(self, inputs: Sequence[tuple[str, str]]) -> Iterator[Path]:
        """A folder with copies of inputs under the names given."""
        self._number += 1
        folder = self._scratch / "cases" / str(self._number)
        folder.mkdir()
        for name, called in inputs:
            copy(self.home / name, folder / called)
        yield folder
        shutil.rmtree(folder)

    def run(
        self, verb: Verb, folder: Path, *, fault: Fault | None = None, call: str = "any"
    ) -> Done:
        """Run a verb in ``folder``."""
        return self.forks.run(self.words(verb.words, folder), folder, fault=fault, call=call)

    def words(self, words: Sequence[str], folder: Path) -> list[str]:
        """The words with the name of this folder's own repository."""
        return [word.replace("{repo}", f"{USER}/case-{folder.name}") for word in words]

    def contents(self, verb: Verb, folder: Path) -> Contents:
        """What lies at a verb's output, or in the repository that it publishes."""
        if verb.out:
            return self.contents_at(folder / verb.out)
        with self.folder([]) as other:
            words = self.words(["spikedata", "pull", "{repo}", "--out", "a.zarr"], folder)
            done = self.forks.run(words, other)
            return self.contents_at(other / "a.zarr") if done.status == 0 else None

    def contents_at(self, path: Path) -> Contents:
        """What lies at ``path``; bits are decoded, and digests worked out from them."""
        if not path.exists():
            return None
        if path.is_dir() and not any(path.iterdir()):
            return None
        if path.name == "run":
            return _answers(path / "metrics.json")
        if path.suffix in (".html", ".npz", ".npy"):
            return hashlib.sha256(path.read_bytes()).hexdigest()
        done = self.forks.run(["read", str(path)], path.parent)
        if done.status != 0:
            return f"unreadable: {done.stderr.strip()}"
        told: dict[str, Any] = json.loads(done.stdout)
        return told["clips"]

    def _unharmed(self, verb: Verb, call: str) -> Unharmed:
        if verb.words[0] == "spklip-train":
            self._warm_training(verb)
        with self.folder(verb.inputs) as folder:
            before = self.contents(verb, folder) if verb.replaces else None
            self.flaky.heal()
            done = self.run(verb, folder, call=call)
            requests = len(self.flaky.requests)
            assert done.status == 0, (verb, done)
            after = self.contents(verb, folder)
            assert after is not None, verb
            assert not isinstance(after, str) or len(after) == 64, after
            return Unharmed(
                before=before,
                after=after,
                listing=listing(folder),
                calls=done.calls,
                requests=requests,
            )

    def half_done(self, name: str, needed: Sequence[str]) -> None:
        """See to it that there is what a verb leaves that is killed when it has these files.

        Args:
            name: the verb.
            needed: patterns below its folder.
        """
        verb = VERBS[name]
        calls = self.unharmed(verb, "any").calls
        for tenth in range(3, 10):
            with self.folder(verb.inputs) as folder:
                self.run(verb, folder, fault=Fault(at=calls * tenth // 10, kind="kill"))
                if not all(any(folder.glob(pattern)) for pattern in needed):
                    continue
                for path in folder.iterdir():
                    if not (self.home / path.name).exists():
                        copy(path, self.home / path.name)
                return
        raise AssertionError(f"{name} never has {needed}")

    @functools.lru_cache(1)  # noqa: B019  as long as the bench
    def _warm_training(self, verb: Verb) -> None:
        with self.folder(verb.inputs) as folder:
            self.forks.warm(verb.words, folder)


def _answers(metrics: Path) -> dict[str, Any]:
    """What a run found out, as far as it depends on the recipe alone; nothing before its end."""
    if not metrics.exists():
        return {}
    told = json.loads(metrics.read_text())
    return {key: {"found": told[key]} for key in ("closed_set", "few_shot", "retrieval")}


def listing(folder: Path) -> frozenset[str]:
    """Everything in a folder, by relative path."""
    return frozenset(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def copy(path: Path, to: Path) -> None:
    """Copy a file or a folder."""
    if path.is_dir():
        shutil.copytree(path, to)
    else:
        shutil.copyfile(path, to)


def _write_videos(root: Path) -> None:
    """A corpus that tells everything a corpus can tell."""
    root.mkdir()
    lines = []
    for number in range(6):
        name = f"clip{number}.mkv"
        write_grey(root / name, random_frames(number, frames=20, height=16, width=24))
        about = {
            "file_name": name,
            "label": ("walk", "run")[number % 2],
            "text": f"somebody moves, the {number}th time",
            "split": "test" if number < 2 else "train",
            "group": f"g{number}",
        }
        lines.append(json.dumps(about) + "\n")
    (root / "metadata.jsonl").write_text("".join(lines))


_INPUTS = (
    "spikedata simulate videos --threshold 2 --out spikes.zarr",
    "spikedata simulate videos --threshold 2 --out half.zarr --limit 3",
    "spikedata simulate videos --threshold 2 --seed 1 --out other.zarr --limit 4",
    *(f"spikedata pack other.zarr --to {to} --out old.{end}" for to, end in SUFFIX.items()),
    *(f"spikedata pack spikes.zarr --to {to} --out packed.{end}" for to, end in SUFFIX.items()),
    "spikedata export other.zarr old.npz --clip clip0",
    "spikedata export spikes.zarr old.npy --clip clip1",
    "spikedata report other.zarr --out old.html",
)
_READ = (
    "spikedata validate packed.zarr",
    "spikedata validate packed.parquet",
    "read packed.h5",
    *(["load packed.zarr"] if find_spec("torch") else []),
)
"""What readers need to have imported."""


# --- verbs --------------------------------------------------------------------------------------


def _writing() -> Iterator[Verb]:
    simulate = "spikedata simulate videos --threshold 2 --workers 2 --out out.zarr"
    videos, spikes = ("videos", "videos"), ("spikes.zarr", "spikes.zarr")
    new = Verb(
        name="simulate", words=tuple(simulate.split()), inputs=(videos,), out="out.zarr", grows=True
    )
    yield new
    yield replace(new, name="simulate-on", inputs=(videos, ("half.zarr", "out.zarr")))
    for to, end in SUFFIX.items():
        words = f"spikedata pack spikes.zarr --to {to} --workers 2 --out out.{end}"
        yield from _new_and_over(f"pack-{to}", words, spikes, f"out.{end}")
    for end in ("npz", "npy"):
        words = f"spikedata export spikes.zarr out.{end} --clip clip0"
        yield from _new_and_over(f"export-{end}", words, spikes, f"out.{end}")
    words = "spikedata report spikes.zarr --out out.html"
    yield from _new_and_over("report", words, spikes, "out.html")
    yield from _new_and_over(
        "pull", f"spikedata pull {PUBLISHED} --workers 2 --out out.zarr", None, "out.zarr"
    )
    push = "spikedata push-hub spikes.zarr --repo {repo} --workers 2"
    yield Verb(name="push-hub", words=tuple(push.split()), inputs=(spikes,))


def _training() -> Iterator[Verb]:
    """Two steps of a tiny model, and its judgement."""
    small = """
        model.preset=tiny model.changes.pool_px=1 model.changes.radius_ticks=3
        model.changes.branch_ticks=[7,5] model.changes.branch_channels=[2,2]
        model.changes.extractor_channels=8 model.changes.group_blocks=[1]
        model.changes.group_width=8 model.changes.temporal_width=16 model.changes.text_width=16
        model.changes.text_layers=1 model.changes.embed_dim=16
        data.path=packed.zarr data.window_ticks=32 data.segments=2
        train.max_steps=2 train.batch_size=4 train.save_every=1 train.precision=fp32
        eval.windows=1 eval.queries=1 eval.shots=[1] eval.episodes=2 eval.resamples=2
        eval.direction_steps=0 eval.energy_clips=0
    """
    words = ("spklip-train", "smoke.yaml", *small.split(), "--out", "run")
    packed = ("packed.zarr", "packed.zarr")
    again = (*words, "--resume")
    yield Verb(name="train", words=words, inputs=(packed,), out="run", again=again, grows=True)


def _new_and_over(
    name: str, words: str, source: tuple[str, str] | None, out: str
) -> Iterator[Verb]:
    new = Verb(name=name, words=tuple(words.split()), inputs=(source,) if source else (), out=out)
    yield new
    over = ("old." + out.partition(".")[2], out)
    words_over = (*new.words, "--overwrite")
    yield replace(new, name=f"{name}-over", words=words_over, inputs=(*new.inputs, over))


VERBS = {verb.name: verb for verb in (*_writing(), *_training())}
"""Commands that write, by name."""
