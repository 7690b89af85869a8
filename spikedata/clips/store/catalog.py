"""The catalogue of a store: a copy of every clip's metadata, so that listing is instant."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from spikedata.clips.rules import MAX_METADATA_BYTES, RuleBrokenError, check_id, parse_json
from spikedata.clips.store.layout import CATALOG, CLIPS, METADATA, RootInfo, read_clip_metadata
from spikedata.clips.stored import StoredClip
from spikedata.errors import StoreError
from spikedata.outputs import Failure
from spikedata.remote import RemotePath

_ID_FIRST = b'{"id":"'


class ClipTable(Mapping[str, StoredClip]):
    """Clips by id, in order of id; a clip's catalogue line is parsed when first asked for."""

    def __init__(self, store: Path, lines: Mapping[str, bytes]) -> None:
        self._store = store
        self._rows: dict[str, bytes | StoredClip] = {key: lines[key] for key in sorted(lines)}

    def __getitem__(self, clip_id: str) -> StoredClip:
        row = self._rows[clip_id]
        if isinstance(row, bytes):
            row = self._parse(clip_id, row)
            self._rows[clip_id] = row
        return row

    def _parse(self, clip_id: str, line: bytes) -> StoredClip:
        try:
            return StoredClip.from_catalog_line(line)
        except RuleBrokenError:  # the catalogue is only a copy: ask the clip
            try:
                return read_clip_metadata(self._store / CLIPS / clip_id)[0]
            except RuleBrokenError as error:
                raise error.at(self._store, clip_id) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a store holds, and what it held and does not any more."""

    lines: dict[str, bytes]
    """Catalogue line of every clip that is there."""
    gone: dict[str, bytes]
    """Line of every clip that the catalogue lists and that is not there."""
    notes: tuple[str, ...] = ()
    left_out: tuple[Failure, ...] = ()


def list_clips(store: Path, root: RootInfo, *, ask_storage: bool = False) -> Listing:
    """The clips that are there, from the catalogue or else from each clip, and those that are lost.

    The catalogue is a copy: one that is absent or damaged is made good here, and told if it was
    finished. What it lists and is not there was lost.

    Args:
        store: the store.
        root: what it says of itself.
        ask_storage: list what is in object storage even where a whole catalogue tells it: that
            takes a request for a thousand files.

    Raises:
        RuleBrokenError: an id is not safe, or there is no folder of clips.
        StoreError: a file cannot be read.
    """
    notes = []
    try:
        noted = read_catalog(store, root.catalog_sha256)
    except RuleBrokenError as error:
        noted, root = {}, replace(root, catalog_sha256=None)
        notes.append(f"{error.message}: each clip was asked instead. Run `spikedata repair`")
    if isinstance(store, RemotePath) and root.catalog_sha256 is not None and not ask_storage:
        present = {check_id(clip_id) for clip_id in noted}
    else:
        present = clip_ids(store)
    gone = {clip_id: noted[clip_id] for clip_id in sorted(noted.keys() - present)}
    lost = [_lost(store, clip_id, f"its folder is gone, {CATALOG} lists it") for clip_id in gone]
    lines = {clip_id: line for clip_id, line in noted.items() if clip_id in present}
    for clip_id in sorted(present - lines.keys()):
        try:
            lines[clip_id] = read_clip_metadata(store / CLIPS / clip_id)[0].catalog_line()
        except RuleBrokenError as error:
            lost.append(_lost(store, clip_id, error.message))
    unknown = (root.clips or 0) - len(lines) - len(lost)
    if unknown > 0:
        told = f"{store}: {unknown} of {root.clips} clips are gone"
        lost.append(Failure(id=CLIPS, path=str(store / CLIPS), error=told))
    return Listing(lines=lines, gone=gone, notes=tuple(notes), left_out=tuple(lost))


def _lost(store: Path, clip_id: str, told: str) -> Failure:
    path = store / CLIPS / clip_id
    return Failure(id=clip_id, path=str(path), error=f"{store}: clip {clip_id}: {told}")


def clip_ids(store: Path) -> set[str]:
    """Names of the clip folders; of object storage, those that are whole.

    Raises:
        RuleBrokenError: there is no folder of clips, or a name is not a safe id.
    """
    if isinstance(store, RemotePath):
        return {check_id(name) for name in whole_below(store / CLIPS)}
    try:
        with os.scandir(store / CLIPS) as entries:
            return {check_id(entry.name) for entry in entries if entry.is_dir()}
    except FileNotFoundError as error:
        raise RuleBrokenError("clips_missing", f"has no folder {CLIPS!r}") from error
    except OSError as error:
        raise StoreError(f"{store / CLIPS}: cannot be read: {error.strerror}") from error


def whole_below(clips: RemotePath) -> Iterator[str]:
    """Names of the folders that have metadata, which come last."""
    try:
        for name in clips.names_below():
            folder, _, file = name.partition("/")
            if file == METADATA:
                yield folder
    except OSError as error:
        raise StoreError(f"{clips}: cannot be read: {error.strerror}") from error


def read_catalog(store: Path, sha256: str | None = None) -> dict[str, bytes]:
    """Lines of the catalogue file by clip id; none if there is no such file.

    Args:
        store: the store.
        sha256: what the store's root says of the file; None if it says nothing.

    Raises:
        RuleBrokenError: a line is not JSON or has no id, or the file is not that of the root.
        StoreError: the file cannot be read.
    """
    try:
        text = (store / CATALOG).read_bytes()
    except FileNotFoundError as error:
        if sha256 is not None:
            raise RuleBrokenError("catalog_differs", f"{CATALOG} is gone") from error
        return {}
    except OSError as error:
        raise StoreError(f"{store / CATALOG}: cannot be read: {error.strerror}") from error
    if sha256 is not None and hashlib.sha256(text).hexdigest() != sha256:
        raise RuleBrokenError("catalog_differs", f"{CATALOG} is not the one that was written")
    lines: dict[str, bytes] = {}
    for line in text.split(b"\n"):
        if line:
            if len(line) > MAX_METADATA_BYTES:
                raise RuleBrokenError("size_limit", f"a line of {CATALOG} is too long")
            lines[_id_of(line)] = line
    return lines


def _id_of(line: bytes) -> str:
    """The id, without parsing the whole line where it stands first as it should."""
    if line.startswith(_ID_FIRST):
        text = line[len(_ID_FIRST) : line.find(b'"', len(_ID_FIRST))]
        if b"\\" not in text and text.isascii():  # nothing is escaped: it stands as it is
            return text.decode()
    clip_id = parse_json(line, "catalog_malformed", f"a line of {CATALOG}").get("id")
    if not isinstance(clip_id, str):
        raise RuleBrokenError("catalog_malformed", f"a line of {CATALOG} has no id")
    return clip_id
