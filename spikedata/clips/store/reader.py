"""Open a store, and list its clips without touching them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from spikedata.clips.rules import Problem, RuleBrokenError
from spikedata.clips.source import ClipSource, size_on_disk
from spikedata.clips.store.catalog import ClipTable, list_clips
from spikedata.clips.store.layout import CATALOG, CLIPS, RootInfo, read_clip_metadata
from spikedata.clips.store.sharded import ShardedBits
from spikedata.clips.store.unfinished import cut_off
from spikedata.clips.store.validate import store_problems
from spikedata.clips.stored import RELABELLED_KEYS, StoredClip
from spikedata.outputs import is_being_written
from spikedata.remote import place


class SpikeStore(ClipSource):
    """A store, open for reading. Safe to share between threads, to fork and to pickle."""

    format = "zarr"

    def __init__(self, path: Path | str) -> None:
        self.path = place(path)
        self.is_growing = is_being_written(self.path)
        try:
            root = RootInfo.read(self.path)
            listing = list_clips(self.path, root)
            self.clips = ClipTable(self.path, listing.lines)
        except RuleBrokenError as error:
            raise error.at(self.path) from error
        self._catalog_sha256 = root.catalog_sha256
        self.class_names = root.class_names
        self.recipe = root.recipe
        self.name = root.name
        self.version = root.version
        self.notes, self.left_out = listing.notes, listing.left_out
        if not self.is_growing and cut_off(self.path):
            self.notes += (
                "a recording was cut off in it: `spikedata record --resume` keeps what is whole",
            )
        if self.is_growing:
            self.notes += (f"another process is writing it, {len(self.clips)} clips so far",)

    def __reduce__(self) -> tuple[type["SpikeStore"], tuple[Path]]:
        return SpikeStore, (self.path,)

    def open_bits(self, clip_id: str) -> ShardedBits:
        """Read the clip's own metadata, which must say what the catalogue says.

        Raises:
            RuleBrokenError: it is missing or malformed, or says something else.
            StoreError: it cannot be read.
        """
        folder = self.path / CLIPS / clip_id
        stored, layout = read_clip_metadata(folder)
        noted = self.clips[clip_id]
        if stored != noted and not self._was_relabelled(stored, noted):
            raise RuleBrokenError("catalog_differs", f"{CATALOG} does not say what the clip says")
        return ShardedBits(folder, noted, layout)

    def _was_relabelled(self, stored: StoredClip, noted: StoredClip) -> bool:
        """Whether other facts were told of a clip since the store was opened: its bits stay."""
        told = {key: getattr(noted.clip, key) for key in RELABELLED_KEYS}
        is_same = replace(stored, clip=replace(stored.clip, **told)) == noted
        return is_same and RootInfo.read(self.path).catalog_sha256 != self._catalog_sha256

    def stored_bytes(self, clip_id: str) -> int:
        """Bytes of the clip's folder."""
        return size_on_disk(self.path / CLIPS / clip_id)

    def problems(self, *, deep: bool = True) -> list[Problem]:
        """The rules of the store's format that it breaks; see :func:`store_problems`."""
        return store_problems(self.path, deep=deep)


def recipe_of_store(path: Path) -> dict[str, Any]:
    """The recipe of a store, without a look at its clips.

    Raises:
        StoreError: not a store, of a newer version, or malformed.
    """
    try:
        return RootInfo.read(path).recipe
    except RuleBrokenError as error:
        raise error.at(path) from error


def open_store(path: Path | str) -> SpikeStore:
    """Open the store at ``path`` for reading.

    Raises:
        StoreError: not a store, of a newer version, or malformed.
    """
    return SpikeStore(path)
