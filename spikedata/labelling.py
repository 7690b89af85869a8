"""Other labels, captions, splits and groups for clips that are there; no bit is written.

A store's facts are written anew in their place, each clip with its old or its new ones at any
moment. What is told of a folder of recordings goes to the list beside them.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

from spikedata.clip import Clip
from spikedata.clips import RELABELLED_KEYS, FolderLabels, StoreLabels, format_at
from spikedata.corpora import (
    CAPTION_TEMPLATES,
    captions_of,
    clean_text,
    count,
    name_of_cell,
    read_table,
    split_of,
    spoken_name,
)
from spikedata.errors import CorpusError, StoreError
from spikedata.outputs import Failure
from spikedata.remote import on_disk
from spikedata.wording import shown

Change = Mapping[str, Any]
"""New values of ``label``, ``captions``, ``split`` and ``group``; what is not named stays."""

_MOST_WARNINGS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RelabelReport:
    """What :func:`relabel` did."""

    path: Path
    changed: dict[str, dict[str, tuple[Any, Any]]]
    """By clip and fact: what was told before, and what is told now."""
    class_names: tuple[str, ...]
    """Labels in order, from now on; a label's place is its number."""
    warnings: tuple[str, ...]
    """Groups on both sides of a split, captions that still name the old class."""
    failures: tuple[Failure, ...]
    """Clips that are as they were, or not as was asked, and why."""


class _Labels(AbstractContextManager["_Labels"], Protocol):
    """What is told of the clips of a set, opened to be changed."""

    @property
    def fills_captions(self) -> bool: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    def __enter__(self) -> Self: ...
    def find(self, clip_id: str) -> Clip: ...
    def splits(self, groups: Collection[str]) -> dict[str, set[str]]: ...
    def write(
        self, clips: Mapping[str, Clip], class_names: tuple[str, ...], *, drop_unused: bool
    ) -> list[Failure]: ...


def relabel(
    path: Path | str,
    changes: Mapping[str, Change],
    *,
    camera: str | None = None,
    drop_unused: bool = False,
) -> RelabelReport:
    """Change label, captions, split and group of clips, and none of their bits.

    A label that is new gets its place after those that there are, so that every other keeps its
    number. Captions that only name the class follow a new label, unless new ones are given.

    Args:
        path: a Zarr store, or a folder of recordings: there ``metadata.jsonl`` is written, or what
            is in place of it, with a line for every recording.
        changes: by the clip's id, new values of ``label`` (text or None), ``captions`` (texts),
            ``split`` (``train``, ``validation``, ``test`` or None) and ``group`` (text or None).
        camera: whose files recordings are, where folders of numbered ones are clips.
        drop_unused: take labels that no clip has out of the class names. Those after them get
            other numbers.

    Raises:
        ValueError: a change names something else, or a value is not of its kind.
        StoreError: not one of the clips is there, another process is writing the set, or it is of a
            format that is not changed in its place.
        SpikeDataError: there is no set of clips, or it is malformed.
    """
    path = on_disk(path)
    asked = {clip_id: _checked(clip_id, change) for clip_id, change in changes.items()}
    with _opened(path, camera) as labels:
        failures: list[Failure] = []
        was: dict[str, Clip] = {}
        for clip_id in asked:
            try:
                was[clip_id] = labels.find(clip_id)
            except StoreError as error:
                failures.append(Failure(id=clip_id, path=str(path), error=str(error)))
        if asked and not was:
            raise StoreError(failures[0].error)
        new = {key: _changed(clip, asked[key], labels) for key, clip in was.items()}
        new = {key: clip for key, clip in new.items() if clip != was[key]}
        names = dict.fromkeys(labels.class_names)
        names |= dict.fromkeys(clip.label for clip in new.values() if clip.label is not None)
        if new or drop_unused:
            failures += labels.write(new, tuple(names), drop_unused=drop_unused)
        left = {failure.id for failure in failures}
        new = {key: clip for key, clip in new.items() if key not in left}
        return RelabelReport(
            path=path,
            changed={key: _difference(was[key], clip) for key, clip in new.items()},
            class_names=labels.class_names,
            warnings=tuple(_warnings(labels, was, new)),
            failures=tuple(failures),
        )


def _opened(path: Path, camera: str | None) -> _Labels:
    if not path.exists():
        raise CorpusError(f"{path}: no such file or folder")
    found = format_at(path)
    if found == "zarr":
        return StoreLabels(path)
    if found in ("parquet", "hdf5"):
        raise StoreError(
            f"{path}: labels of {found} are not changed in their place. Run `spikedata pack {path} "
            "--to zarr --out NEW.zarr`, label that, and pack it again"
        )
    if not path.is_dir():
        raise StoreError(f"{path}: is one file; name the folder that it lies in, or a store")
    return FolderLabels(path, camera)


def read_labels(path: Path | str) -> tuple[dict[str, dict[str, Any]], tuple[Failure, ...]]:
    """What a table says that clips shall be labelled, and its lines that cannot be used.

    Args:
        path: JSON Lines (``.jsonl``) or CSV, a line a clip: ``id``, and any of ``label``,
            ``caption`` or ``captions``, ``split`` and ``group``. What is blank stays as it is.
            Several lines for one clip are several captions.

    Returns:
        changes: for :func:`relabel`.
        failures: lines that cannot be used.

    Raises:
        CorpusError: the table cannot be read, or has no column ``id``.
    """
    path = Path(path)
    changes: dict[str, dict[str, Any]] = {}
    failures = []
    for row in read_table(path, needed="id").rows:
        columns = {key: value for key, value in row.columns.items() if key != "id"}
        clip_id = str(row.columns.get("id", ""))
        try:
            told: dict[str, Any] = {
                key: name_of_cell(key, columns[key])
                for key in ("label", "split", "group")
                if key in columns
            }
            captions = [*_texts(columns.get("captions")), *_texts(columns.get("caption"))]
            told |= {"captions": captions} if captions else {}
            change = _checked(clip_id, told)
        except ValueError as error:
            where = f"{path}: line {row.number}"
            failures.append(Failure(id=clip_id or where, path=str(path), error=f"{where}: {error}"))
            continue
        before = changes.setdefault(clip_id, {})
        captions = [*before.get("captions", ()), *change.get("captions", ())]
        before |= change
        if captions:
            before["captions"] = list(dict.fromkeys(captions))
    return changes, tuple(failures)


def _texts(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


# --- values -------------------------------------------------------------------------------------


def _checked(clip_id: str, change: Change) -> dict[str, Any]:
    """New values of one clip, as they will be written.

    Raises:
        ValueError: there is no such fact, or a value is not of its kind.
    """
    unknown = [key for key in change if key not in RELABELLED_KEYS]
    if unknown:
        raise ValueError(
            f"clip {clip_id}: {shown(unknown[0])} cannot be changed, only "
            f"{', '.join(RELABELLED_KEYS)}"
        )
    return {key: _value(clip_id, key, value) for key, value in change.items()}


def _value(clip_id: str, key: str, value: Any) -> Any:
    if key == "captions":
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise ValueError(
                f"clip {clip_id}: captions must be a list of texts, got {shown(value)}"
            )
        texts = [_text(clip_id, key, text) for text in value]
        return tuple(dict.fromkeys(text for text in texts if text))
    if value is None:
        return None
    text = _text(clip_id, key, value) or None
    if key == "split" and text is not None:
        split = split_of(text)
        if split is None:
            raise ValueError(
                f"clip {clip_id}: split {shown(value)} is none of train, validation, test"
            )
        return split
    return text


def _text(clip_id: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"clip {clip_id}: {key} must be text, got {shown(value)}")
    try:
        return clean_text(value, is_name=key != "captions")
    except ValueError as error:
        raise ValueError(f"clip {clip_id}: {key} {shown(value)} {error}") from error


def _changed(clip: Clip, change: Change, labels: _Labels) -> Clip:
    """A clip with its new values; captions that only name its class are those of the new one."""
    new = replace(clip, **change)
    if new.label == clip.label or "captions" in change:
        return new
    only_named = clip.captions == _named(clip.label) or (
        not clip.captions and (clip.label is None or clip.label.isdigit())
    )
    if only_named and (clip.captions or labels.fills_captions):
        is_name = new.label is not None and not new.label.isdigit()
        return replace(new, captions=_named(new.label) if is_name else ())
    return new


def _named(label: str | None) -> tuple[str, ...]:
    """Captions that only name a class; nobody says that of one that is only numbered."""
    return () if label is None else captions_of(label, CAPTION_TEMPLATES)


def _difference(was: Clip, clip: Clip) -> dict[str, tuple[Any, Any]]:
    pairs = {key: (getattr(was, key), getattr(clip, key)) for key in RELABELLED_KEYS}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _warnings(labels: _Labels, was: Mapping[str, Clip], new: Mapping[str, Clip]) -> list[str]:
    """What the user should know of the changes: nothing of it stops them."""
    groups = {clip.group for clip in new.values() if clip.group is not None}
    told = [
        f"group {group!r} is on both sides of a split: {', '.join(sorted(splits))}"
        for group, splits in sorted(labels.splits(groups).items())
        if len(splits) > 1
    ]
    for clip_id, clip in new.items():
        label = was[clip_id].label
        if label is None or clip.label == label or clip.captions != was[clip_id].captions:
            continue
        name = spoken_name(label).casefold()
        if any(name in caption.casefold() for caption in clip.captions):
            told.append(f"clip {clip_id}: a caption still speaks of {label!r}: {clip.captions[0]}")
    if len(told) > _MOST_WARNINGS:
        told[_MOST_WARNINGS:] = [f"{count(len(told) - _MOST_WARNINGS, 'warning')} more"]
    return told
