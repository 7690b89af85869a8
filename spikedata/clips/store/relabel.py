"""Tell other labels, captions, splits and groups of a store's clips, and change none of its bits.

A clip's facts stand in its own ``zarr.json``, and a copy in the catalogue. While they change the
catalogue does not list the clip, so whoever looks, or finds what a killed process left, asks the
clip, which has its old facts or its new ones.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from spikedata.clip import Clip
from spikedata.clips.rules import RuleBrokenError, pretty_json, read_json
from spikedata.clips.store.layout import CLIPS, METADATA, PARTIAL, read_clip_metadata
from spikedata.clips.store.writer import StoreWriter, change_store
from spikedata.clips.stored import SHARDS_DIGEST, StoredClip
from spikedata.errors import StoreError
from spikedata.outputs import Failure, write_whole

_WRITERS = 16
"""Threads that write clips' metadata: each waits for the disk most of the time."""


class StoreLabels:
    """What is told of the clips of a store, opened to be changed; use it in a ``with`` statement.

    Raises:
        StoreError: there is no store, it is malformed, or another process is writing it.
    """

    fills_captions = True
    """A labelled clip has its captions written out, even those that only name its class."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as stack:
            self._writer: StoreWriter = stack.enter_context(change_store(path))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Labels in order; a label's place is its number."""
        return self._writer.root.class_names

    def find(self, clip_id: str) -> Clip:
        """What is told of a clip.

        Raises:
            StoreError: there is no such clip.
        """
        stored = self._writer.stored(clip_id)
        if stored is None:
            raise StoreError(
                f"{self.path}: no clip {clip_id!r}; it holds {len(self._writer.lines)} clips"
            )
        return stored.clip

    def write(
        self, clips: Mapping[str, Clip], class_names: Sequence[str], *, drop_unused: bool
    ) -> list[Failure]:
        """Tell what ``clips`` say, of clips that are there.

        Args:
            clips: what is told from now on, by id.
            class_names: labels in order, all that clips had and will have.
            drop_unused: then take out those that no clip has.

        Returns:
            Clips that cannot be changed, and why.

        Raises:
            StoreError: the store was replaced meanwhile.
            OSError: the disk is full, or the like; every clip has its old facts or its new ones.
        """
        self._writer.begin_relabel(clips.keys(), class_names)
        with ThreadPoolExecutor(_WRITERS) as pool:
            told = list(pool.map(self._rewrite, clips.values()))
        errors = [error for error in told if isinstance(error, OSError)]
        if errors:
            raise errors[0]
        failed = [failure for failure in told if isinstance(failure, Failure)]
        if drop_unused:
            used = {row.get("label") for row in self._rows(None)}
            self._writer.name_classes([name for name in self.class_names if name in used])
        return failed

    def _rewrite(self, clip: Clip) -> Failure | OSError | None:
        """Write one clip's own metadata anew; gives what went wrong."""
        folder = self.path / CLIPS / clip.id
        try:
            self._writer.note(_rewritten(folder, clip, self.path / PARTIAL))
        except RuleBrokenError as error:
            told = str(error.at(self.path, clip.id))
            return Failure(id=clip.id, path=str(folder), error=told)
        except OSError as error:
            # Whichever facts it has now, the catalogue must say the same.
            with suppress(StoreError):
                self._writer.note(read_clip_metadata(folder)[0])
            return error
        return None

    def splits(self, groups: Collection[str]) -> dict[str, set[str]]:
        """What the clips of each of these groups are for."""
        found: dict[str, set[str]] = {group: set() for group in groups}
        for row in self._rows(groups):
            group, split = row.get("group"), row.get("split")
            if group in found and split is not None:
                found[group].add(split)
        return found

    def _rows(self, groups: Collection[str] | None) -> Iterable[dict[str, Any]]:
        """Lines of the catalogue, at least those of clips of the groups; None: of all clips."""
        names = None
        if groups is not None and len(groups) <= 4:  # looking is faster than parsing
            names = [json.dumps(name, ensure_ascii=False).encode() for name in groups]
        for line in self._writer.lines.values():
            if names is None or any(name in line for name in names) or b"\\u" in line:
                yield json.loads(line)


def _rewritten(folder: Path, clip: Clip, partial: Path) -> StoredClip:
    """Write a clip's own metadata anew: all of it as it was but what is told of the clip."""
    stored = replace(read_clip_metadata(folder)[0], clip=clip)
    meta = read_json(folder / METADATA, "metadata_malformed")
    kept = {key: meta["attributes"][key] for key in [SHARDS_DIGEST] if key in meta["attributes"]}
    meta["attributes"] = stored.array_attributes() | kept
    write_whole(folder / METADATA, pretty_json(meta), within=partial)
    return stored
