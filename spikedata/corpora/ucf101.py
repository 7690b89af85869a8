"""UCF101: class folders of ``v_<Class>_g<NN>_c<NN>.avi``, official splits 1 to 3.

Source: Soomro, Zamir, Shah, "UCF101: A Dataset of 101 Human Actions Classes From Videos in The
Wild", arXiv:1212.0402.
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
from spikedata.corpora.names import class_of, clip_id_of
from spikedata.corpora.places import contradiction, find_places
from spikedata.errors import CorpusError

STEM = re.compile(r"v_(?P<label>.+)_g(?P<group>\d{2})_c(?P<clip>\d{2})", re.IGNORECASE)

TEST_GROUPS = {1: range(1, 8), 2: range(8, 15), 3: range(15, 22)}
"""How the official lists were made: groups whose clips are for testing; all others train."""


def read_ucf101(root: Path, videos: list[ListedFile], *, split: int, splits: Path | None) -> Found:
    """Clips of a UCF101 folder.

    The group of a clip is its class and group number (``PullUps_g01``): group numbers begin anew
    in each class. Without the official lists the split follows from the group number, which
    is how the lists were made. All official splits that have lists are noted in a clip's source,
    all three by that rule if none has.

    Raises:
        CorpusError: no such split, or a list has a line that is not a clip.
    """
    if split not in TEST_GROUPS:
        raise CorpusError(f"UCF101 has splits 1, 2 and 3, got {split}")
    listed, official = _read_lists(root, split, splits)
    lists, unread = _all_lists(root, split, splits, listed)
    matches = {video.parts: STEM.fullmatch(video.stem) for video in videos}
    named = [video for video in videos if matches[video.parts]]
    folders = find_places(video.parts for video in named).of
    clips: list[CorpusClip] = []
    contrary: list[str] = []
    for video in named:
        match = matches[video.parts]
        assert match is not None
        by_rule = "test" if int(match["group"]) in TEST_GROUPS[split] else "train"
        by_folder = folders[video.parts].split
        official_split = None if listed is None else listed.get(video.stem.casefold())
        # Official lists win over folders, folders over the rule that the lists were made by.
        part = official_split if listed is not None else by_folder or by_rule
        if by_folder is not None and by_folder != (by_rule if listed is None else official_split):
            contrary.append(f"{video.name} ({by_folder})")
        all_splits = _official_splits(video.stem, int(match["group"]), lists)
        clips.append(_clip(video, match, part, official, all_splits))
    strange = [video.name for video in videos if not matches[video.parts]]
    notes = _notes(clips, strange, contrary, listed is not None)
    return Found(clips=clips, notes=notes + unread)


def _all_lists(
    root: Path, split: int, splits: Path | None, listed: dict[str, str] | None
) -> tuple[dict[int, dict[str, str] | None], list[str]]:
    """Split of each stem in every official split to note, None where the rule tells; and notes."""
    others, notes = read_other_splits(
        [number for number in TEST_GROUPS if number != split],
        lambda number: _read_lists(root, number, splits, needed=False)[0],
    )
    by_rule = dict.fromkeys(TEST_GROUPS if not others and not notes and listed is None else ())
    lists = by_rule | {split: listed} | others
    return {number: lists[number] for number in sorted(lists)}, notes


def _official_splits(
    stem: str, group: int, lists: dict[int, dict[str, str] | None]
) -> dict[int, str | None]:
    """What a clip is for in each split: as its list says, or by the rule of the groups."""
    return {
        number: ("test" if group in TEST_GROUPS[number] else "train")
        if listed is None
        else listed.get(stem.casefold())
        for number, listed in lists.items()
    }


def _notes(
    clips: list[CorpusClip], strange: list[str], contrary: list[str], has_lists: bool
) -> list[str]:
    notes = []
    unlisted = [item.clip.source["name"] for item in clips if item.clip.split is None]
    if not has_lists:
        of_folders = "folders that name one, else from " if contrary else ""
        notes.append(
            f"no official split lists found: the split follows from {of_folders}the group numbers"
        )
    if strange:
        notes.append(
            f"{count(len(strange), 'video')} not named as in UCF101, left out: {strange[0]}"
        )
    if unlisted:
        notes.append(f"{count(len(unlisted), 'clip')} in neither split list: {unlisted[0]}")
    if contrary:
        notes.append(contradiction(contrary, "official lists" if has_lists else "group numbers"))
    return notes


def _clip(
    video: ListedFile,
    match: re.Match[str],
    split: str | None,
    official: dict[str, str],
    official_splits: dict[int, str | None],
) -> CorpusClip:
    label = class_of(match["label"])
    folder = class_of(video.parts[-2]) if len(video.parts) > 1 else ""
    if folder.casefold() == label.casefold():
        label = folder
    label = official.get(label.casefold(), label)
    clip = Clip(
        id=clip_id_of(video.stem),
        label=label,
        split=split,
        group=f"{label}_g{match['group']}",
        source=source_of(video.name, official_splits),
    )
    return CorpusClip(clip=clip, path=video.path)


def _read_lists(
    root: Path, split: int, splits: Path | None, *, needed: bool = True
) -> tuple[dict[str, str] | None, dict[str, str]]:
    """Split of each stem (case folded), and official spelling of each class."""
    found = find_beside(root, f"trainlist{split:02d}.txt", splits, needed=needed)
    if not found:
        return None, {}
    train = found[0]
    split_of: dict[str, str] = {}
    for name, path in (("train", train), ("test", train.with_name(f"testlist{split:02d}.txt"))):
        for number, line in numbered_lines(path):
            name_in_list = re.split(r"[\s,;]+", line, maxsplit=1)[0].replace("\\", "/")
            file_name = name_in_list.rstrip("/").rpartition("/")[2]
            stem = file_name.rpartition(".")[0] or file_name
            if STEM.fullmatch(stem) is None:
                raise CorpusError(f"{path}: line {number}: {line!r} names no UCF101 clip")
            if split_of.setdefault(stem.casefold(), name) != name:
                raise CorpusError(f"{path}: line {number}: {stem} is in the train list too")
    return split_of, _read_classes(train.with_name("classInd.txt"))


def _read_classes(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    names = [line.split()[-1] for _, line in numbered_lines(path)]
    return {name.casefold(): name for name in names}
