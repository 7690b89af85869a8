"""HMDB51: class folders of clips cut from films, official splits 1 to 3.

Source: Kuehne, Jhuang, Garrote, Poggio, Serre, "HMDB: A Large Video Database for Human Motion
Recognition", ICCV 2011.
"""

import re
from pathlib import Path

from spikedata.clip import Clip
from spikedata.corpora.corpus import CorpusClip, Found, count, source_of
from spikedata.corpora.files import (
    ListedFile,
    find_beside,
    numbered_lines,
    read_other_splits,
)
from spikedata.corpora.names import as_text, class_of, clip_id_of
from spikedata.corpora.places import Place, contradiction, find_places
from spikedata.errors import CorpusError

# fmt: off
HMDB51_CLASSES = (
    "brush_hair", "cartwheel", "catch", "chew", "clap", "climb", "climb_stairs", "dive",
    "draw_sword", "dribble", "drink", "eat", "fall_floor", "fencing", "flic_flac", "golf",
    "handstand", "hit", "hug", "jump", "kick", "kick_ball", "kiss", "laugh", "pick", "pour",
    "pullup", "punch", "push", "pushup", "ride_bike", "ride_horse", "run", "shake_hands",
    "shoot_ball", "shoot_bow", "shoot_gun", "sit", "situp", "smile", "smoke", "somersault", "stand",
    "swing_baseball", "sword", "sword_exercise", "talk", "throw", "turn", "walk", "wave",
)
# fmt: on
"""As the official split files spell them."""

STEM = re.compile(
    r"(?P<head>.+)_[fhlu]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+", re.IGNORECASE
)
"""Film and class, then visible body part, camera motion, people, camera side, quality, number."""

SPLIT_NUMBERS = (1, 2, 3)
"""Of the official splits."""

Listed = dict[str, tuple[str, str | None]]
"""Class and split of each stem."""

_SPLIT_NAMES = {"0": None, "1": "train", "2": "test"}


def read_hmdb51(root: Path, videos: list[ListedFile], *, split: int, splits: Path | None) -> Found:
    """Clips of an HMDB51 folder.

    A clip's class ends the part of its name before the attributes, wherever the clip lies; what
    has no known class there has that of the official file that lists it, or none.

    Clips of one film and class are a group (``TrumanShow_wave``): the official splits keep these
    together, though not one film's clips of different classes. Clips that a split leaves unused
    have no split. All official splits that have files are noted in a clip's source.

    Raises:
        CorpusError: no such split, or a split file has a line that is not one.
    """
    if split not in SPLIT_NUMBERS:
        raise CorpusError(f"HMDB51 has splits 1, 2 and 3, got {split}")
    listed = _read_lists(root, split, splits)
    others, unread = read_other_splits(
        [number for number in SPLIT_NUMBERS if number != split],
        lambda number: _read_lists(root, number, splits, needed=False),
    )
    lists = {split: listed} | others
    named = [video for video in videos if STEM.fullmatch(video.stem)]
    places = find_places(video.parts for video in named).of
    clips = [
        _clip(video, places[video.parts], listed, _official_splits(video.stem, lists))
        for video in named
    ]
    strange = [video.name for video in videos if not STEM.fullmatch(video.stem)]
    notes = _notes(clips, [video.stem for video in named], strange, listed, split)
    contrary = [
        f"{video.name} ({told})"
        for video, item in zip(named, clips, strict=True)
        if listed and (told := places[video.parts].split) not in (None, item.clip.split)
    ]
    if contrary:
        notes.append(contradiction(contrary, "official lists"))
    return Found(clips=clips, notes=notes + unread)


def _official_splits(stem: str, lists: dict[int, Listed]) -> dict[int, str | None]:
    """What a clip is for in each split that has files."""
    return {number: lists[number].get(stem, ("", None))[1] for number in sorted(lists)}


def _clip(
    video: ListedFile, place: Place, listed: Listed, official_splits: dict[int, str | None]
) -> CorpusClip:
    match = STEM.fullmatch(video.stem)
    head = match["head"] if match else video.stem
    listed_class, split = listed.get(video.stem, (None, None))
    split = split if listed else place.split
    clip = Clip(
        id=clip_id_of(video.stem),
        label=_class_in_name(video, head) or listed_class,
        split=split,
        group=as_text(head),
        source=source_of(video.name, official_splits),
    )
    return CorpusClip(clip=clip, path=video.path)


def _class_in_name(video: ListedFile, head: str) -> str | None:
    """The class that ends ``head``: one of HMDB51's, or what the clip's folder is called.

    The longest if several do: a clip of ``draw_sword`` is none of ``sword``.
    """
    known = [*HMDB51_CLASSES, *video.parts[-2:-1]]
    ending = [name for name in known if f"_{head}".lower().endswith(f"_{name}".lower())]
    return class_of(max(ending, key=len)) if ending else None


def _notes(
    clips: list[CorpusClip],
    stems: list[str],
    strange: list[str],
    listed: Listed,
    split: int,
) -> list[str]:
    notes = []
    if not listed:
        told = any(item.clip.split for item in clips)
        what = "the folders' names count" if told else "no clip has a split"
        notes.append(f"no official split files found: {what}")
    if strange:
        notes.append(
            f"{count(len(strange), 'video')} not named as in HMDB51, left out: {strange[0]}"
        )
    nameless = [item.clip.source["name"] for item in clips if item.clip.label is None]
    if nameless:
        notes.append(
            f"{count(len(nameless), 'clip')} named after no class of HMDB51, without a class: "
            f"{nameless[0]}"
        )
    unlisted = [
        item.clip.source["name"]
        for item, stem in zip(clips, stems, strict=True)
        if stem not in listed
    ]
    if listed and unlisted:
        notes.append(f"{count(len(unlisted), 'clip')} in no split file: {unlisted[0]}")
    unused = sum(stem in listed and listed[stem][1] is None for stem in stems)
    if unused:
        notes.append(f"{count(unused, 'clip')} not used by split {split}: without a split")
    return notes


def _read_lists(root: Path, split: int, splits: Path | None, *, needed: bool = True) -> Listed:
    """Class and split of each stem; the class is in the name of the file that lists it."""
    ending = f"_test_split{split}.txt"
    listed: Listed = {}
    for path in find_beside(root, f"*{ending}", splits, needed=needed):
        label = path.name.removesuffix(ending)
        for number, line in numbered_lines(path):
            name, use = (*line.rsplit(maxsplit=1), "")[:2]
            if use not in _SPLIT_NAMES:
                raise CorpusError(
                    f"{path}: line {number}: expected a file name and 0, 1 or 2, got {line!r}"
                )
            stem, entry = Path(name.strip()).stem, (label, _SPLIT_NAMES[use])
            if listed.setdefault(stem, entry) != entry:
                raise CorpusError(
                    f"{path}: line {number}: {stem} is listed otherwise in a line before"
                )
    return listed
