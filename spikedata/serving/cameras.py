"""Note of which camera recordings are, in the list beside them, as labels are noted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spikedata.clips import METADATA_FILE, RECORDING_SUFFIXES
from spikedata.corpora import (
    can_be_listed,
    find_metadata,
    list_files,
    listed,
    read_entries,
    read_folder,
    relisted,
)
from spikedata.errors import CorpusError
from spikedata.outputs import acquire, release, write_whole


def note_cameras(root: Path, cameras: Mapping[Path, str]) -> None:
    """Write the camera of some recordings into the metadata file of their folder.

    A folder without one gets a ``metadata.jsonl`` that names every recording in it, with what its
    folders say: with a list the list alone counts.

    Args:
        root: the folder.
        cameras: by file, what ``--camera`` would take.

    Raises:
        SpikeDataError: another process is writing the list, it is malformed, or a file cannot be
            named in it.
        OSError: it cannot be written.
    """
    lock = acquire(root)
    try:
        files = list_files(root, RECORDING_SUFFIXES).files
        if not find_metadata(root):
            rows = [_row(root, item, cameras) for item in read_folder(files).clips]
            write_whole(root / METADATA_FILE, listed(rows), overwrite=False)
            return
        changes: dict[Path, dict[int, dict[str, Any]]] = {}
        for entry in read_entries(root, files)[0]:
            camera = cameras.get(entry.item.path)
            if camera is not None:
                lines = changes.setdefault(entry.listing, {})
                lines |= dict.fromkeys(entry.lines, {"camera": camera})
        for listing, lines in changes.items():
            write_whole(listing.resolve(), relisted(listing, lines))
    finally:
        release(lock)


def _row(root: Path, item: Any, cameras: Mapping[Path, str]) -> dict[str, Any]:
    clip, name = item.clip, item.path.relative_to(root).as_posix()
    if not can_be_listed(name):
        raise CorpusError(f"{root}: {name!r} cannot be named in a {METADATA_FILE}. Rename it")
    return {
        "file_name": name,
        "id": clip.id,
        "label": clip.label,
        "split": clip.split,
        "group": clip.group,
        "captions": list(clip.captions) or None,
        "camera": cameras.get(item.path),
    }
