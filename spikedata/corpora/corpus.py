"""What every reader of a corpus gives, and what holds for all: order, choice, and notes."""

import difflib
import hashlib
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spikedata.clip import Clip, torn_groups
from spikedata.corpora.names import as_text, captions_of
from spikedata.errors import CorpusError
from spikedata.outputs import Failure, file_sha256

_MOST_NOTES = 10
_END_BYTES = 1 << 16
"""Bytes at either end of a file that tell most files of one size apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusClip:
    """One video of a corpus: what is known of it, and where it lies."""

    clip: Clip
    """``clip.source["name"]`` is the path relative to the corpus, with forward slashes."""
    path: Path
    """The video file, or the folder of numbered pictures."""
    capture_fps: float | None = None
    """True frame rate of a video that was filmed faster than it plays, Hz."""
    file_bytes: int | None = None
    """Size, where it was told with the name and asking for it takes a request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """A folder of labelled videos."""

    name: str
    """Which layout: ``ucf101``, ``hmdb51``, ``folder`` or ``metadata``."""
    root: Path
    """The folder."""
    class_names: tuple[str, ...]
    """Classes that have clips, in official order: alphabetical, whatever the case."""
    clips: tuple[CorpusClip, ...]
    """Sorted by id."""
    notes: tuple[str, ...] = ()
    """What a user should know: clips left out, without a split, twice there, groups torn apart."""
    left_out: tuple[Failure, ...] = ()
    """Files that could not become clips, and why."""

    @property
    def folder_name(self) -> str:
        """The folder's own name, as text that can be written."""
        return as_text(self.root.resolve().name)

    def shard(self, number: int, of: int) -> "Corpus":
        """Every ``of``-th clip from the ``number``-th on, counted from 1; all classes stay.

        Stores made of all shards, one after the other or on several machines, pack into the one
        that the whole corpus gives.

        Raises:
            ValueError: ``number`` is not from 1 to ``of``.
        """
        if not 1 <= number <= of:
            raise ValueError(f"shard must be from 1 to {of}, got {number}")
        return replace(self, clips=self.clips[number - 1 :: of])


def source_of(name: str, official_splits: Mapping[int, str | None]) -> dict[str, Any]:
    """A clip's ``source``: its name, and the official splits that use it.

    Args:
        name: path in the corpus.
        official_splits: what the clip is for in each split; None where a split does not use it.
    """
    used = {str(n): name for n, name in official_splits.items() if name is not None}
    return {"name": name} | ({"official_splits": used} if used else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a layout's reader gives: all clips it knows, before any choice."""

    clips: list[CorpusClip]
    notes: list[str]


def finish_corpus(
    name: str,
    root: Path,
    found: Found,
    *,
    classes: Sequence[str],
    limit: int | None,
    caption_templates: Sequence[str],
) -> Corpus:
    """Choose clips, give captions to those without, sort, and note what is odd.

    Raises:
        CorpusError: a class is unknown.
    """
    distinct, left_out = split_by_id(choose_classes(found.clips, classes))
    clips = limit_clips(with_captions(distinct, caption_templates), limit)
    names = {item.clip.label for item in clips if item.clip.label is not None}
    corpus = Corpus(
        name=name,
        root=root,
        class_names=tuple(sorted(names, key=class_order)),
        clips=tuple(sorted(clips, key=lambda item: item.clip.id)),
        left_out=left_out,
    )
    return replace(corpus, notes=(*found.notes, *describe(corpus)))


def class_order(class_name: str) -> tuple[str, str]:
    """Sorting key of the official class lists: alphabetical, capitals like small letters."""
    return class_name.casefold(), class_name


def split_by_id(clips: Iterable[CorpusClip]) -> tuple[list[CorpusClip], tuple[Failure, ...]]:
    """Clips of which no two would be one file in a store, and those left out, with why.

    Of files that would be one clip the first in order of path stays.
    """
    kept: dict[str, CorpusClip] = {}
    left_out: list[Failure] = []
    for item in clips:
        other = kept.setdefault(item.clip.id.casefold(), item)
        if other is not item:
            said = one_id(item.clip, other.clip)
            left_out.append(Failure(id=item.clip.id, path=str(item.path), error=said))
    return list(kept.values()), tuple(left_out)


def one_id(clip: Clip, other: Clip) -> str:
    """What is wrong with two files whose clips have one id."""
    return (
        f"{clip.source['name']!r} and {other.source['name']!r} would both be clip {other.id!r}. "
        "Rename or remove one"
    )


def choose_classes(clips: list[CorpusClip], classes: Sequence[str]) -> list[CorpusClip]:
    """Clips of the named classes (case does not matter); all clips if none is named.

    Raises:
        CorpusError: no clip has such a class.
    """
    known = {item.clip.label for item in clips if item.clip.label is not None}
    folded = {name.casefold(): name for name in known}
    wanted = set()
    for name in classes:
        if name not in known and name.casefold() not in folded:
            raise CorpusError(f"no class {name!r} in this corpus.{_suggestion(name, known)}")
        wanted.add(name if name in known else folded[name.casefold()])
    return [item for item in clips if item.clip.label in wanted] if classes else clips


def _suggestion(name: str, known: set[str]) -> str:
    folded = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    if close:
        return f" Did you mean {folded[close[0]]!r}?"
    shown = sorted(known, key=class_order)
    more = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
    return f" Classes: {', '.join(shown[:10]) or 'none'}{more}"


def limit_clips(clips: list[CorpusClip], limit: int | None) -> list[CorpusClip]:
    """At most ``limit`` clips, spread over classes and, within a class, over splits.

    Classes take turns, and within a class its splits do, each in order of ids; so a small limit
    still has several classes with clips to train on and to test on. A smaller limit's clips are
    among a larger one's.
    """
    if limit is None or limit >= len(clips):
        return clips
    classes = _grouped(sorted(clips, key=lambda item: item.clip.id), _label)
    turns = [take_turns(list(_grouped(items, _split).values())) for items in classes.values()]
    return take_turns(turns)[:limit]


def _label(item: CorpusClip) -> str:
    return item.clip.label or ""


def _split(item: CorpusClip) -> str:
    order = {"train": "0", "test": "1"}
    return order.get(item.clip.split or "", "2" + (item.clip.split or ""))


def _grouped(
    items: Iterable[CorpusClip], key: Callable[[CorpusClip], str]
) -> dict[str, list[CorpusClip]]:
    groups: dict[str, list[CorpusClip]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return {name: groups[name] for name in sorted(groups, key=class_order)}


def take_turns(queues: list[list[CorpusClip]]) -> list[CorpusClip]:
    """First of each queue, then second of each, and so on."""
    longest = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]


def with_captions(clips: list[CorpusClip], templates: Sequence[str]) -> list[CorpusClip]:
    """The clips, those that have a class and no caption with captions made from ``templates``."""
    made: dict[str, tuple[str, ...]] = {}
    result = []
    for item in clips:
        label = item.clip.label
        if label is not None and not item.clip.captions:
            captions = made.setdefault(label, captions_of(label, templates))
            item = replace(item, clip=replace(item.clip, captions=captions))
        result.append(item)
    return result


def describe(corpus: Corpus) -> list[str]:
    """Notes that hold for any corpus: torn groups and identical files."""
    notes = []
    if corpus.clips and not corpus.class_names:
        notes.append("no clip has a label")
    torn = find_torn_groups(corpus)
    if torn:
        notes.append(f"{count(len(torn), 'group')} on both sides of the split: {some(torn)}")
    split_of = {item.clip.id: item.clip.split for item in corpus.clips}
    duplicates = find_duplicates(corpus)
    for same in duplicates[:_MOST_NOTES]:
        leak = " (on both sides of the split)" if len({split_of[i] for i in same}) > 1 else ""
        notes.append(f"identical files{leak}: {some(same)}")
    if len(duplicates) > _MOST_NOTES:
        notes.append(f"identical files: {len(duplicates) - _MOST_NOTES} more sets")
    return notes


def count(number: int, noun: str) -> str:
    """``1 clip``, ``2 clips``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def find_torn_groups(corpus: Corpus) -> list[str]:
    """Groups with clips in more than one split, sorted: training on them leaks into the test."""
    return list(torn_groups(item.clip for item in corpus.clips))


def find_duplicates(corpus: Corpus) -> list[tuple[str, ...]]:
    """Ids of clips whose files are byte for byte the same.

    Only files of one size are opened, and only those whose first and last 64 KiB are alike are
    read to the end. A file that cannot be read is nobody's duplicate here; the conversion
    reports it.
    """
    groups = [list(corpus.clips)]
    for trait in (_size, _digest_of_ends, file_sha256):
        groups = [alike for group in groups for alike in _alike(group, trait)]
    return sorted(tuple(sorted(item.clip.id for item in group)) for group in groups)


def _alike(
    items: Iterable[CorpusClip], trait: Callable[[Path], int | str | None]
) -> list[list[CorpusClip]]:
    """Clips whose files share a trait, in groups of two and more."""
    groups: dict[int | str, list[CorpusClip]] = defaultdict(list)
    for item in items:
        try:
            found = trait(item.path)
        except OSError:
            continue
        if found is not None:
            groups[found].append(item)
    return [group for group in groups.values() if len(group) > 1]


def _size(path: Path) -> int | None:
    """Size in bytes; None for what is no regular file: a folder, or what might never end."""
    status = path.stat()
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _digest_of_ends(path: Path) -> str:
    with path.open("rb") as file:
        first = file.read(_END_BYTES)
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        return hashlib.sha256(first + file.read(_END_BYTES)).hexdigest()
