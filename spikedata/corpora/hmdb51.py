"""HMDB51: class folders of clips cut from films, official splits 1 to 3.

Source: Kuehne, Jhuang, Garrote, Poggio, Serre, "HMDB: A Large Video Database for Human Motion
Recognition", ICCV 2011.
"""

import re
from pathlib import Path

from spikedata.catalog import Clip
from spikedata.corpora.corpus import CorpusClip, Found, count
from spikedata.corpora.files import VideoFile, find_beside, read_lines
from spikedata.corpora.names import clip_id_of
from spikedata.errors import CorpusError

STEM = re.compile(r".+_[fhlu]_(?:cm|nm)_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+", re.IGNORECASE)
"""Film and class, then visible body part, camera motion, people, camera side, quality, number."""

_SPLIT_NAMES = {"0": None, "1": "train", "2": "test"}


def read_hmdb51(root: Path, videos: list[VideoFile], *, split: int, splits: Path | None) -> Found:
    """Clips of an HMDB51 folder.

    Clips of one film and class are a group (``TrumanShow_wave``): the official splits keep these
    together, though not one film's clips of different classes. Clips that a split leaves unused
    have no split.

    Raises:
        CorpusError: no such split, or a split file has a line that is not one.
    """
    if split not in (1, 2, 3):
        raise CorpusError(f"HMDB51 has splits 1, 2 and 3, got {split}")
    listed = _read_lists(root, split, splits)
    notes = [] if listed else ["no official split files found: no clip has a split"]
    clips, strange, unlisted, unused = [], [], [], 0
    for video in videos:
        if STEM.fullmatch(video.stem) is None:
            strange.append(video.name)
            continue
        label = _label(video, listed)
        part = listed.get((label, video.stem))
        if (label, video.stem) not in listed:
            unlisted.append(video.name)
        elif part is None:
            unused += 1
        clips.append(_clip(video, label, part))
    if strange:
        notes.append(
            f"{count(len(strange), 'video')} not named as in HMDB51, left out: {strange[0]}"
        )
    if listed and unlisted:
        notes.append(f"{count(len(unlisted), 'clip')} in no split file: {unlisted[0]}")
    if unused:
        notes.append(f"{count(unused, 'clip')} not used by split {split}: without a split")
    return Found(clips=clips, notes=notes)


def _label(video: VideoFile, listed: dict[tuple[str, str], str | None]) -> str:
    """The class: the folder's name if the file's agrees, else the class that lists the file."""
    folder = video.parts[-2] if len(video.parts) > 1 else ""
    if folder and f"_{folder}_".casefold() in video.stem.casefold():
        return folder
    for label, stem in listed:
        if stem == video.stem:
            return label
    return folder or video.stem


def _clip(video: VideoFile, label: str, split: str | None) -> CorpusClip:
    film, cut, _ = video.stem.rpartition(f"_{label}_")
    clip = Clip(
        id=clip_id_of(video.stem),
        label=label,
        split=split,
        group=f"{film}_{label}" if cut else None,
        source={"name": video.name},
    )
    return CorpusClip(clip=clip, path=video.path)


def _read_lists(root: Path, split: int, splits: Path | None) -> dict[tuple[str, str], str | None]:
    """Split of each (class, stem); the class is in the name of the file that lists it."""
    ending = f"_test_split{split}.txt"
    listed: dict[tuple[str, str], str | None] = {}
    for path in find_beside(root, f"*{ending}", splits):
        label = path.name.removesuffix(ending)
        for number, line in enumerate(read_lines(path), 1):
            name, _, use = line.rpartition(" ")
            if not name or use not in _SPLIT_NAMES:
                raise CorpusError(
                    f"{path}: line {number}: expected a file name and 0, 1 or 2, got {line!r}"
                )
            listed[label, Path(name.strip()).stem] = _SPLIT_NAMES[use]
    return listed
