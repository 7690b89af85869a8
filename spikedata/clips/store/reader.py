"""Open a store, and list its clips without touching them."""

from pathlib import Path

from spikedata.clips.rules import Problem, RuleBrokenError
from spikedata.clips.source import ClipSource, size_on_disk
from spikedata.clips.store.catalog import ClipTable, catalog_lines
from spikedata.clips.store.layout import CLIPS, RootInfo, read_clip_metadata
from spikedata.clips.store.sharded import ShardedBits
from spikedata.clips.store.validate import store_problems
from spikedata.outputs import is_being_written


class SpikeStore(ClipSource):
    """A store, open for reading. Safe to share between threads, to fork and to pickle."""

    format = "zarr"

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.is_growing = is_being_written(self.path)
        try:
            root = RootInfo.read(self.path)
            self.clips = ClipTable(self.path, catalog_lines(self.path))
        except RuleBrokenError as error:
            raise error.at(self.path) from error
        self.class_names = root.class_names
        self.recipe = root.recipe
        self.name = root.name
        self.version = root.version
        if self.is_growing:
            count = len(self.clips)
            self.notes = (f"another process is writing it, {count} clips so far",)

    def __reduce__(self) -> tuple[type["SpikeStore"], tuple[Path]]:
        return SpikeStore, (self.path,)

    def open_bits(self, clip_id: str) -> ShardedBits:
        """Read the clip's own metadata, which the catalogue only copies."""
        folder = self.path / CLIPS / clip_id
        return ShardedBits(folder, *read_clip_metadata(folder))

    def stored_bytes(self, clip_id: str) -> int:
        """Bytes of the clip's folder."""
        return size_on_disk(self.path / CLIPS / clip_id)

    def problems(self, *, deep: bool = True) -> list[Problem]:
        """The rules of the store's format that it breaks; see :func:`store_problems`."""
        return store_problems(self.path, deep=deep)


def open_store(path: Path | str) -> SpikeStore:
    """Open the store at ``path`` for reading.

    Raises:
        StoreError: not a store, of a newer version, or malformed.
    """
    return SpikeStore(path)
