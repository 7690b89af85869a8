"""Recordings that were cut off: what a killed process left of a clip, gone on with in its place.

Beside the folder ``.partial/<n>`` of a clip that comes live lies ``.partial/<n>.json``: what is
known of the clip. Shards that are whole are on the disk; what was after them is lost.
"""

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from spikedata.clip import Clip
from spikedata.clips.rules import RuleBrokenError, check_id, check_shape, pretty_json, read_json
from spikedata.clips.store.layout import CLIPS, METADATA, PARTIAL, StoreConfig
from spikedata.errors import StoreError
from spikedata.outputs import remove, write_whole
from spikedata.remote import RemotePath
from spikedata.stream import check_tick_rate_hz


@dataclass(frozen=True, kw_only=True, slots=True)
class Unfinished:
    """What is known of a clip that is being written live."""

    clip: Clip
    height_px: int
    width_px: int
    tick_rate_hz: float
    options: StoreConfig
    """How its array is cut and compressed."""
    attributes: dict[str, Any]
    """How it came, as far as that is known at its beginning."""
    ticks: int | None = None
    """How many there are in all, once the last ones are there: else what fills up the last chunk
    would be taken for some."""

    def write(self, folder: Path) -> None:
        """Note it beside the clip's folder, on the disk.

        Raises:
            OSError: the disk is full, or the like.
        """
        told = {
            "clip": self.clip.to_dict(),
            "size_px": [self.height_px, self.width_px],
            "tick_rate_hz": self.tick_rate_hz,
            "chunk_ticks": self.options.chunk_ticks,
            "zstd_level": self.options.zstd_level,
            "shard_ticks": self.options.shard_ticks,
            "attributes": self.attributes,
            "ticks": self.ticks,
        }
        write_whole(note_of(folder), pretty_json(told))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Undo :meth:`write`.

        Raises:
            StoreError: it cannot be read, or says what it cannot have said.
        """
        note = note_of(folder)
        told = read_json(note, "metadata_malformed")
        try:
            height_px, width_px = told["size_px"]
            clip = Clip.from_dict(told["clip"])
            check_id(clip.id)
            check_shape(1, height_px, width_px)
            return cls(
                clip=clip,
                height_px=height_px,
                width_px=width_px,
                tick_rate_hz=check_tick_rate_hz(told["tick_rate_hz"]),
                options=StoreConfig(
                    chunk_ticks=told["chunk_ticks"],
                    zstd_level=told["zstd_level"],
                    shard_ticks=told["shard_ticks"],
                ),
                attributes=dict(told["attributes"]),
                ticks=None if told["ticks"] is None else int(told["ticks"]),
            )
        except (KeyError, TypeError, ValueError, RuleBrokenError) as error:
            raise StoreError(f"{note}: does not tell of a recording: {error}") from error


def note_of(folder: Path) -> Path:
    """Where what is known of the clip in ``folder`` is noted."""
    return folder.with_name(folder.name + ".json")


def cut_off(store: Path) -> list[Path]:
    """Folders of the recordings that were cut off, in the order in which they began."""
    partial = store / PARTIAL
    if isinstance(store, RemotePath) or not partial.is_dir():
        return []
    found = [path for path in partial.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted((path for path in found if note_of(path).is_file()), key=lambda p: int(p.name))


def clear_halves(store: RemotePath) -> None:
    """Remove files of object storage that belong to no whole clip: a killed writer left them."""
    remove(store / PARTIAL)
    clips = store / CLIPS
    for folder, of_clip in itertools.groupby(clips.names_below(), _first_part):
        names = list(of_clip)
        if names != [folder] and f"{folder}/{METADATA}" not in names:
            for name in names:
                (clips / name).unlink()


def _first_part(name: str) -> str:
    return name.partition("/")[0]


def clear_partial(store: Path, keep: Sequence[Path] = ()) -> None:
    """Empty the folder of what is not yet whole, but for some recordings."""
    partial = store / PARTIAL
    if isinstance(store, RemotePath):
        clear_halves(store)
        return
    kept = set(keep) | {note_of(folder) for folder in keep}
    if not kept and partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    for path in partial.iterdir():
        if path not in kept:
            remove(path)
