"""Files at rest that were damaged while nobody looked, and the commands that read them.

Allowed is the right answer, or an error or loss that is told. Never other bits, other facts or
fewer clips without a word.
"""

import contextlib
import functools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import SUFFIX, VERBS, Bench, Verb
from forks import Done, Fault
from judge import Finding, difference, judge_printed

Result = Any
"""What a reader found out, to be compared with what it finds in files that are whole."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of file at rest."""

    set: str
    """The file or folder of the bench that it is part of."""
    path: str = ""
    """Which file, a pattern; the set itself if empty."""
    twin: str = ""
    """Another of its kind in the same set, to be taken for it."""
    beside: tuple[str, ...] = ()
    """What else of the bench a reader needs."""
    readers: tuple[str, ...] = ()
    """Only these; all that read sets of clips if empty."""
    half_done: str = ""
    """The verb that is killed half-way to have it."""
    is_of_camera: bool = False
    """Whether it is a camera's own file, which has no room for checksums."""


def _half_pull(path: str) -> Target:
    return Target(set="out.zarr.pull", path=path, readers=("pull-on",), half_done="pull")


def _half_run(path: str) -> Target:
    beside = ("packed.zarr",)
    return Target(set="run", path=path, beside=beside, readers=("train-on",), half_done="train")


TARGETS = {
    "zarr-root": Target(set="packed.zarr", path="zarr.json", twin="clips/zarr.json"),
    "zarr-clip": Target(
        set="packed.zarr", path="clips/clip2/zarr.json", twin="clips/clip4/zarr.json"
    ),
    "zarr-shard": Target(set="packed.zarr", path="clips/clip2/c.0.0.0", twin="clips/clip4/c.0.0.0"),
    "zarr-catalogue": Target(set="packed.zarr", path="catalog.jsonl"),
    "zarr-folder": Target(set="packed.zarr", path="clips/clip2", twin="clips/clip4"),
    "parquet-shard": Target(
        set="packed.parquet",
        path="data/train-00000-of-00001.parquet",
        twin="data/test-00000-of-00001.parquet",
    ),
    "hdf5-file": Target(set="packed.h5"),
    "dat-file": Target(
        set="packed.dat", path="walk/clip2.dat", twin="walk/clip4.dat", is_of_camera=True
    ),
    "dat-list": Target(set="packed.dat", path="metadata.jsonl"),
    "dat-about": Target(set="packed.dat", path="spikedata.json"),
    "npz-file": Target(set="old.npz", readers=("info-npz",)),
    "state": Target(set=".spikedata.json", beside=("packed.dat",), readers=("plan-last",)),
    "pull-shard": _half_pull("*/download/data/*.parquet"),
    "pull-clip": _half_pull("*/store.zarr/clips/clip0/zarr.json"),
    "pull-bits": _half_pull("*/store.zarr/clips/clip0/c.0.0.0"),
    "pull-root": _half_pull("*/store.zarr/zarr.json"),
    "run-recipe": _half_run("recipe.yaml"),
    "run-model": _half_run("checkpoints/checkpoint-1/model.safetensors"),
    "run-optimizer": _half_run("checkpoints/checkpoint-1/optimizer.pt"),
    "run-digests": _half_run("checkpoints/checkpoint-1/sha256.json"),
    "run-state": _half_run("checkpoints/checkpoint-1/trainer_state.json"),
}


def truncate(path: Path, twin: Path, rng: random.Random) -> None:
    """Cut off the end."""
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def flip(path: Path, twin: Path, rng: random.Random) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def letter(path: Path, twin: Path, rng: random.Random) -> None:
    """Change one letter or digit into another: what is text stays text."""
    data = bytearray(path.read_bytes())
    places = [at for at, byte in enumerate(data) if chr(byte).isalnum() and byte < 128]
    at = rng.choice(places)
    others = b"0123456789" if chr(data[at]).isdigit() else b"abcdefghijklmnopqrstuvwxyz"
    data[at] = rng.choice([byte for byte in others if byte != data[at]])
    path.write_bytes(data)


def blocks(path: Path, twin: Path, rng: random.Random) -> None:
    """Swap two eighths of the file."""
    data = path.read_bytes()
    size = len(data) // 8
    first, second = sorted(rng.sample(range(8), 2))
    parts = [data[at * size : (at + 1) * size] for at in range(8)]
    parts[first], parts[second] = parts[second], parts[first]
    path.write_bytes(b"".join(parts) + data[8 * size :])


def zeros(path: Path, twin: Path, rng: random.Random) -> None:
    """Fill a part with zeros, as a file system does after a power loss."""
    data = bytearray(path.read_bytes())
    begin = rng.randrange(len(data))
    size = min(len(data) - begin, max(1, len(data) // 8))
    data[begin : begin + size] = bytes(size)
    path.write_bytes(data)


def swap(path: Path, twin: Path, rng: random.Random) -> None:
    """Swap it with its twin."""
    aside = path.with_name("aside")
    path.rename(aside)
    twin.rename(path)
    aside.rename(twin)


def delete(path: Path, twin: Path, rng: random.Random) -> None:
    """Remove it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def empty(path: Path, twin: Path, rng: random.Random) -> None:
    """Leave nothing in it."""
    is_folder = path.is_dir()
    delete(path, twin, rng)
    if is_folder:
        path.mkdir()
    else:
        path.touch()


def folder(path: Path, twin: Path, rng: random.Random) -> None:
    """Put an empty folder in its place."""
    delete(path, twin, rng)
    path.mkdir()


DAMAGES: dict[str, Callable[[Path, Path, random.Random], None]] = {
    damage.__name__: damage
    for damage in (truncate, flip, letter, blocks, zeros, swap, delete, empty, folder)
}
OF_FOLDERS = (swap, delete, empty)
"""What can befall a folder."""
OF_BITS = (flip, letter, blocks, zeros, swap)
"""What leaves a file as long as it was."""


def damages_of(target: Target) -> Iterator[str]:
    """Names of what can befall a target."""
    for name, damage in DAMAGES.items():
        if "." not in Path(target.path or target.set).name and damage not in OF_FOLDERS:
            continue
        if damage is swap and not target.twin:
            continue
        yield name


# --- readers ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A command that reads a set of clips, and what to compare."""

    words: tuple[str, ...]
    """``{set}`` stands for the set."""
    result: Callable[[Bench, Path, Done], Result]


def _printed(bench: Bench, folder: Path, done: Done) -> Result:
    told = json.loads(done.stdout)
    for key in ("bytes", "ratio", "notes", "left_out"):  # sizes of files are no facts of clips
        told.pop(key, None)
    return told


def _sound(bench: Bench, folder: Path, done: Done) -> Result:
    """What a set holds that was just called sound."""
    (path,) = (path for path in folder.iterdir() if path.name.startswith("packed."))
    return bench.contents_at(path)


def _file(name: str) -> Callable[[Bench, Path, Done], Result]:
    return lambda bench, folder, done: bench.contents_at(folder / name)


def _published(bench: Bench, folder: Path, done: Done) -> Result:
    return bench.contents(Verb(name="", words=()), folder)


def _planned(bench: Bench, folder: Path, done: Done) -> Result:
    told = json.loads(done.stdout)
    return {"clips": told["clips"], "files": [file["path"] for file in told["files"]]}


READERS = {
    "info": Reader(words=("spikedata", "info", "{set}", "--json"), result=_printed),
    "validate": Reader(words=("spikedata", "validate", "{set}"), result=_sound),
    "read": Reader(words=("read", "{set}"), result=_printed),
    "load": Reader(words=("load", "{set}"), result=_printed),
    "report": Reader(
        words=("spikedata", "report", "{set}", "--out", "page.html"), result=_file("page.html")
    ),
    **{
        f"pack-{to}": Reader(
            words=("spikedata", "pack", "{set}", "--to", to, "--out", f"new.{end}"),
            result=_file(f"new.{end}"),
        )
        for to, end in SUFFIX.items()
    },
    "plan": Reader(
        words=("spikedata", "push-hub", "{set}", "--dry-run", "--json"), result=_planned
    ),
    "push-hub": Reader(
        words=("spikedata", "push-hub", "{set}", "--repo", "{repo}"), result=_published
    ),
    "info-npz": Reader(
        words=("spikedata", "info", "{set}", "--camera", "uhsr", "--json"), result=_printed
    ),
    "plan-last": Reader(words=("spikedata", "push-hub", "--dry-run", "--json"), result=_planned),
    "pull-on": Reader(words=VERBS["pull"].words, result=_file("out.zarr")),
    "train-on": Reader(words=VERBS["train"].again, result=_file("run")),
}
SET_READERS = tuple(READERS)[:-4]
OF_WINDOWS = ("read", "load", "report")
"""Readers of parts of clips, which digests of whole clips do not reach."""
WRITES = ("pack", "push")
"""Readers that pass on what they read: that must not be less without a failure."""


def readers_of(target: Target, damage: str) -> Iterator[str]:
    """Names of the readers that must miss what befell a target.

    The planes in a camera's own file have no checksums: who reads windows of them cannot know that
    bits are others. Who reads whole clips does: ``validate``, ``pack`` and ``push-hub``.
    """
    for reader in target.readers or SET_READERS:
        if not (target.is_of_camera and DAMAGES[damage] in OF_BITS and reader in OF_WINDOWS):
            yield reader


@functools.lru_cache
def _expected(bench: Bench, reader: str, target: Target) -> Result:
    """What a reader finds where nothing is damaged."""
    if target.half_done and not (bench.home / target.set).exists():
        likewise = [one for one in TARGETS.values() if one.half_done == target.half_done]
        bench.half_done(target.half_done, [f"{one.set}/{one.path}" for one in likewise])
    with _folder(bench, target) as folder:
        done = _run(bench, reader, folder, target.set)
        assert done.status == 0, done
        return READERS[reader].result(bench, folder, done)


def _folder(bench: Bench, target: Target) -> contextlib.AbstractContextManager[Path]:
    return bench.folder([(name, name) for name in (target.set, *target.beside)])


def _run(bench: Bench, name: str, folder: Path, of: str, fault: Fault | None = None) -> Done:
    words = [word.replace("{set}", of) for word in READERS[name].words]
    return bench.forks.run(bench.words(words, folder), folder, fault=fault)


def try_damage(
    bench: Bench, reader: str, target: Target, damage: str, rng: random.Random
) -> Iterator[Finding]:
    """Damage a file, and have a command read it."""
    expected = _expected(bench, reader, replace(target, path="", twin=""))
    with _folder(bench, target) as folder:
        root = folder / target.set
        path = sorted(root.glob(target.path))[0] if target.path else root
        DAMAGES[damage](path, root / target.twin, rng)
        done = _run(bench, reader, folder, target.set)
        yield from judge_printed(done)
        if reader == "pull-on" and done.status == 1:
            done = _run(bench, reader, folder, target.set)
            yield from judge_printed(done)
            if done.status == 1:
                yield Finding("stuck", done.stderr.strip()[-300:])
        if done.status == 0:
            yield from _judge_answer(bench, reader, folder, done, expected)


def try_read_only(bench: Bench, reader: str, target: Target) -> Iterator[Finding]:
    """Nothing can be written where the clips are: what only reads them does its work."""
    expected = _expected(bench, reader, replace(target, path="", twin=""))
    with _folder(bench, target) as folder:
        fault = Fault(at=1, kind="EROFS", sticky=True)
        done = _run(bench, reader, folder, target.set, fault)
        yield from judge_printed(done)
        if done.status == 0:
            yield from _judge_answer(bench, reader, folder, done, expected)
        elif reader in ("info", "validate", "read", "load", "plan"):
            yield Finding("stuck", f"only reads, but: {done.stderr.strip():.200}")


def _judge_answer(
    bench: Bench, reader: str, folder: Path, done: Done, expected: Result
) -> Iterator[Finding]:
    """A command said that all is well: then it is, or the loss is told."""
    found = READERS[reader].result(bench, folder, done)
    if found == expected:
        return
    told = "note: " in done.stderr
    if done.stdout.startswith("{"):
        told = told or bool(json.loads(done.stdout).get("notes"))
    if not told or reader.startswith(WRITES) or reader == "validate":
        yield Finding("wrong", f"status 0, but {difference(found, expected)}")
