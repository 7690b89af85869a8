"""The catalogue of a store: a copy of every clip's metadata, so that listing is instant."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from spikedata.clips.rules import MAX_METADATA_BYTES, RuleBrokenError, check_id, parse_json
from spikedata.clips.store.layout import CATALOG, CLIPS, read_clip_metadata
from spikedata.clips.stored import StoredClip
from spikedata.errors import StoreError

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


def catalog_lines(store: Path) -> dict[str, bytes]:
    """Catalogue line of every clip that is there, from the catalogue or else from the clip.

    The catalogue is a copy: one that is absent, damaged or of another time is made good here.

    Raises:
        RuleBrokenError: an id is not safe, or a clip that the catalogue lacks is malformed.
    """
    present = clip_ids(store)
    try:
        lines = read_catalog(store)
    except RuleBrokenError:
        lines = {}
    if lines.keys() != present:
        lines = {key: line for key, line in lines.items() if key in present}
        for clip_id in present - lines.keys():
            try:
                lines[clip_id] = read_clip_metadata(store / CLIPS / clip_id)[0].catalog_line()
            except RuleBrokenError as error:
                raise RuleBrokenError(error.code, f"clip {clip_id}: {error.message}") from error
    return lines


def clip_ids(store: Path) -> set[str]:
    """Names of the clip folders.

    Raises:
        RuleBrokenError: there is no folder of clips, or a name is not a safe id.
    """
    try:
        with os.scandir(store / CLIPS) as entries:
            return {check_id(entry.name) for entry in entries if entry.is_dir()}
    except FileNotFoundError as error:
        raise RuleBrokenError("clips_missing", f"has no folder {CLIPS!r}") from error
    except OSError as error:
        raise StoreError(f"{store / CLIPS}: cannot be read: {error.strerror}") from error


def read_catalog(store: Path) -> dict[str, bytes]:
    """Lines of the catalogue file by clip id; none if there is no such file.

    Raises:
        RuleBrokenError: a line is not JSON or has no id.
    """
    try:
        text = (store / CATALOG).read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"{store / CATALOG}: cannot be read: {error.strerror}") from error
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
