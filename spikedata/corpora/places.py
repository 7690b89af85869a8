"""What the folders that files lie in say: which split, which class.

A folder names a split if its name holds one word for one, among fillers (``videos_train``,
``train_256``, ``TestSet``), and the folders beside it say the same: all of them name splits, or two
different splits are named among them, and what is left of the names is one thing. So ``test_drive``
beside ``train_ride`` are two classes, and ``training`` beside ``walking`` is one. A folder that
stands alone is a split if its name is the word itself, or if it holds folders only.

What is then left above the class, one folder that holds all others and no file, is a wrapper.
Where a name may well be meant otherwise, a note tells how it was understood.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "valset": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "testset": "test",
}
"""Words that mean a split, in folders' names and in metadata."""

SENSOR_FOLDERS = frozenset(["vidar", "dvs", "davis"])
"""Folders of data sets that several sensors recorded together, each in its own."""

_FILLERS = frozenset(["set", "split", "data", "video", "videos", "clips", "frames", "rawframes"])
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Place:
    """What the folders of one file say."""

    split: str | None
    """``train``, ``validation`` or ``test``, if a folder names one."""
    folders: tuple[str, ...]
    """The other folders, outermost first: the class, and what lies in it."""


@dataclass(frozen=True, slots=True)
class Places:
    """What the folders of all files say."""

    of: dict[tuple[str, ...], Place]
    """By the parts of a file's path."""
    notes: list[str]
    """How folders were understood that are neither split nor class."""


def split_of(word: str) -> str | None:
    """The split that a word means, or None."""
    return SPLIT_WORDS.get(word.strip().casefold())


def find_places(files: Iterable[Sequence[str]]) -> Places:
    """Read the folders of files, given as the parts of their paths below one root."""
    paths = [tuple(parts) for parts in files]
    named = _split_folders({parts[:-1] for parts in paths})
    found: dict[tuple[str, ...], Place] = {}
    for parts in paths:
        split, folders = None, []
        for depth in range(1, len(parts)):
            said = named.get(parts[:depth])
            if said is None:
                folders.append(parts[depth - 1])
            else:
                split = split or said
        found[parts] = Place(split, tuple(folders))
    notes = [
        f"folder {'/'.join(path)!r} stands alone and holds only folders: split {split}, no class"
        for path, split in named.items()
        if _is_doubtful(path, paths)
    ]
    found, told = _without_sensors(found)
    notes += told
    wrappers = _wrappers([place.folders for place in found.values() if place.folders])
    if wrappers:
        notes.append(f"folder {'/'.join(wrappers)!r} holds all others: no class")
        found = {
            parts: Place(place.split, place.folders[len(wrappers) :])
            for parts, place in found.items()
        }
    classes = {place.folders[0] for place in found.values() if place.folders}
    return Places(found, notes + _split_like(classes))


def _without_sensors(
    found: dict[tuple[str, ...], Place],
) -> tuple[dict[tuple[str, ...], Place], list[str]]:
    """Places without folders that name the sensor alone, if all files lie in such folders."""
    names = {place.folders[0] if place.folders else "" for place in found.values()}
    if not names or any(name.casefold() not in SENSOR_FOLDERS for name in names):
        return found, []
    called = ", ".join(map(repr, sorted(names)))
    return (
        {parts: Place(place.split, place.folders[1:]) for parts, place in found.items()},
        [f"folder {called} is called as a sensor: no class"],
    )


def _is_doubtful(path: tuple[str, ...], files: Sequence[tuple[str, ...]]) -> bool:
    """Whether a split's folder has none beside it, and a name that is not the bare word."""
    if split_of(path[-1]) is not None:
        return False
    depth = len(path)
    inside = (parts for parts in files if len(parts) > depth and parts[: depth - 1] == path[:-1])
    return len({parts[depth - 1] for parts in inside}) == 1


def _split_like(classes: set[str]) -> list[str]:
    """Notes on classes whose names are bare words for splits."""
    return [
        f"folder {name!r} is called as a split and taken as a class: "
        "no folder beside it names another split"
        for name in sorted(classes)
        if split_of(name) is not None
    ]


def contradiction(contrary: Sequence[str], source: str) -> str:
    """Note that folders and another source of splits disagree, and who wins.

    Args:
        contrary: the files, each with what its folder says.
        source: what says otherwise.
    """
    winner = "the folders count" if source == "group numbers" else f"the {source} count"
    files = "1 file" if len(contrary) == 1 else f"{len(contrary):,} files"
    return f"{files} in a folder of another split than the {source} say; {winner}: {contrary[0]}"


def _wrappers(folders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Outermost folders that hold every file, and below which each still lies in a folder."""
    depth = 0
    while folders and all(len(path) > depth + 1 for path in folders):
        if len({path[depth] for path in folders}) > 1:
            break
        depth += 1
    return folders[0][:depth] if folders else ()


def _split_folders(folders: set[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Folders that name a split, by path, and which."""
    inside: dict[tuple[str, ...], set[str]] = defaultdict(set)
    holding_files = set(folders)
    for path in folders:
        for depth in range(len(path)):
            inside[path[:depth]].add(path[depth])
    found: dict[tuple[str, ...], str] = {}
    for parent, names in inside.items():
        said = {name: told for name in names if (told := named_split(name))}
        if not said or len({rest for _, rest in said.values()}) > 1:
            continue
        splits = {split for split, _ in said.values()}
        if len(said) < len(names) and len(splits) < 2:
            continue
        if len(names) == 1 and split_of(*names) is None and (*parent, *names) in holding_files:
            continue  # alone, and it holds files itself: "test_drive" is more likely a class
        found |= {(*parent, name): split for name, (split, _) in said.items()}
    return found


def named_split(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split that a folder's name holds, and what else it says; None if none, or several."""
    words = [word.casefold() for word in _WORD.findall(name)]
    splits = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    if len(splits) != 1:
        return None
    rest = tuple(word for word in words if word not in SPLIT_WORDS and word not in _FILLERS)
    return splits[0], rest
