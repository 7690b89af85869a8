"""Several sets of clips, seen as one."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.bits import group_count
from spikedata.clips.doubts import LayoutDoubt
from spikedata.clips.rules import check_label, check_shape
from spikedata.clips.source import ClipBits, ClipSource
from spikedata.clips.stored import StoredClip
from spikedata.errors import CorpusError, StoreError
from spikedata.outputs import Failure


class JoinedClips(ClipSource):
    """All clips of several sets; of two with one id the first stays and the other is left out.

    Args:
        sources: the sets, in order.
        check: raises StoreError for a clip that cannot be taken.
        left_out: what was left out before.
    """

    format = "joined"

    def __init__(
        self,
        sources: list[ClipSource],
        *,
        check: Callable[[StoredClip], None] = lambda _: None,
        left_out: tuple[Failure, ...] = (),
    ) -> None:
        self._of: dict[str, ClipSource] = {}
        refused = [*left_out]
        for source in sources:
            refused += [*source.left_out, *self._take(source, check)]
        self.clips = {clip_id: self._of[clip_id].clips[clip_id] for clip_id in sorted(self._of)}
        self.left_out = tuple(refused)
        self.notes = tuple(note for source in sources for note in source.notes)
        self.path = sources[0].path if len(sources) == 1 else Path()
        self.name = _the_same([source.name for source in sources], "spikes")
        self.class_names = joined_class_names(source.class_names for source in sources)
        recipes = [source.recipe for source in sources]
        self.recipe: dict[str, Any] = _the_same(recipes, {"packed_from": recipes})

    def _take(self, source: ClipSource, check: Callable[[StoredClip], None]) -> Iterator[Failure]:
        """Take the clips of one set; those that cannot be are given, with why."""
        ids = {clip_id.casefold(): clip_id for clip_id in self._of}
        for stored in source.clips.values():
            try:
                _check_fits(stored, source, ids)
                check(stored)
            except StoreError as error:
                told = f"{source.path}: {error}"
                yield Failure(id=stored.id, path=str(source.path), error=told)
                continue
            ids[stored.id.casefold()] = stored.id
            self._of[stored.id] = source

    def open_bits(self, clip_id: str) -> ClipBits:
        """Those of the set that has the clip."""
        return self._of[clip_id].open_bits(clip_id)

    def layout_doubt(self, clip_id: str) -> LayoutDoubt | None:
        """As the set that has the clip says."""
        return self._of[clip_id].layout_doubt(clip_id)

    def origin(self, clip_id: str) -> str:
        """Path of the set that has the clip."""
        return str(self._of[clip_id].path)

    def neighbours(self) -> Iterator[tuple[str, ...]]:
        """As each set says, of the clips that were taken from it."""
        for source in dict.fromkeys(self._of.values()):
            for together in source.neighbours():
                yield tuple(clip_id for clip_id in together if self._of.get(clip_id) is source)

    def stored_bytes(self, clip_id: str) -> int | None:
        """As the set that has the clip says."""
        return self._of[clip_id].stored_bytes(clip_id)

    def blocks(self, clip_id: str, ticks: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """The clip's blocks.

        Raises:
            SpikeDataError: it cannot be read, whatever its reader raises.
        """
        try:
            yield from self._of[clip_id].blocks(clip_id, ticks)
        except (OSError, ValueError, MemoryError) as error:
            raise CorpusError(f"clip {clip_id}: cannot be read: {error}") from error


def joined_class_names(each: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Class names of several sets together: those of all, if they are the same, else sorted."""
    orders = set(each)
    every = {name for order in orders for name in order}
    return orders.pop() if len(orders) == 1 else tuple(sorted(every))


def _check_fits(stored: StoredClip, source: ClipSource, ids: dict[str, str]) -> None:
    other = ids.get(stored.id.casefold())
    if other is not None:
        raise StoreError(f"clip {stored.id} cannot be added beside {other}")
    check_label(stored.clip, source.class_names)
    check_shape(group_count(stored.ticks), stored.height_px, stored.width_px)


def _the_same(values: list[Any], otherwise: Any) -> Any:
    """The one value that all are, else another."""
    same = bool(values) and all(value == values[0] for value in values)
    return values[0] if same else otherwise
