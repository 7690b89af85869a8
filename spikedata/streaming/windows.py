"""Feed spikes to a model from sets of any size: windows in an order that reads well, resumable.

What is read when is worked out from the seed, the epoch and the list of clips alone, before a bit
is read. So a place in an epoch is one number, reading can begin anywhere, and no two processes
need to talk.

Shapes: S segments a window, G groups of eight ticks, H rows, W columns.
"""

import contextlib
import functools
import hashlib
import itertools
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from spikedata.clips import in_order
from spikedata.errors import StoreError
from spikedata.loader import Sampling, SpikeClips
from spikedata.streaming.epochs import EPOCH_BITS, Epochs
from spikedata.streaming.order import Turns, through_buffer
from spikedata.streaming.sharing import check_shard, given_ranks, ranks_around, share_of
from spikedata.streaming.states import check_kinds, check_same


class SpikeWindows(IterableDataset[dict[str, Any]]):
    """Windows of clips as a stream, for ``torch.utils.data.DataLoader``: items of `SpikeClips`.

    Clips are visited in another random order each epoch, those that lie together on the disk one
    after the other (a row group of Parquet). Their windows go through a buffer, from which they
    leave in random order. Nodes and a loader's workers share the clips out: none is read twice.

    With ``random`` sampling the windows of a clip come in an order of their own, which depends on
    ``seed`` and the clip's id alone: every place that a stretch can have in its span is taken once
    before one is taken again, over any number of epochs, and those that follow one another lie far
    apart. Captions are taken in turn likewise. Iterating again begins the next epoch, in a loader's
    workers as well; ``set_epoch`` says which the next one is.

    ``state_dict`` tells a place in an epoch in a few plain values, and ``load_state_dict`` goes on
    there with exactly the items that would have come, in the style of torchdata's
    ``StatefulDataLoader``, which keeps one for each of its workers.

    Args:
        source: a set of clips in any format, or its path or address; or what
            ``datasets.load_dataset`` gave for a published data set (not streaming).
        split: as for :class:`SpikeClips`.
        official_split: likewise.
        classes: likewise.
        ids: likewise.
        window_ticks: likewise.
        segments: likewise.
        sampling: likewise.
        seed: of places, order and buffer.
        size: as for :class:`SpikeClips`.
        windows_per_clip: windows of a clip in an epoch; they are read together.
        shuffle: windows that wait in the buffer; 0: clips come in the set's order.
        prefetch: clips read ahead by threads; 0: a clip is read when it is wanted.
        even: every rank gets equally many windows, as synchronised training needs: the clips that
            are too many, fewer than ranks, are left out of the epoch.
        rank: which of the processes that share the clips this is; default what
            ``torch.distributed`` says if it is initialised, else the variable ``RANK``, else 0.
        world_size: how many there are; default likewise, ``WORLD_SIZE``, 1.

    Raises:
        StoreError: as for :class:`SpikeClips`, or ``even`` leaves no clip.
        ValueError: an argument is out of range, or ``rank`` is given without ``world_size``.
    """

    def __init__(
        self,
        source: Any,
        *,
        split: str | None = None,
        official_split: int | None = None,
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        window_ticks: int = 250,
        segments: int = 1,
        sampling: Sampling = "random",
        seed: int = 0,
        size: tuple[int, int] | None = None,
        windows_per_clip: int = 1,
        shuffle: int = 64,
        prefetch: int = 2,
        even: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        _check_counts(windows_per_clip, shuffle, prefetch, sampling)
        self._ranks = given_ranks(rank, world_size)
        self.clips = SpikeClips(
            source,
            split=split,
            official_split=official_split,
            classes=classes,
            ids=ids,
            window_ticks=window_ticks,
            segments=segments,
            sampling=sampling,
            seed=seed,
            size=size,
        )
        """The clips that windows are taken of, with all that is known of them."""
        self.windows_per_clip, self.shuffle, self.prefetch = windows_per_clip, shuffle, prefetch
        self.even = even
        self._ids = self.clips.ids
        self._together = _together(self.clips)
        self._epochs = Epochs()
        self._place: _Place | None = None
        self._resumed: _Place | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Labels in order; an item's ``label`` is a place in it."""
        return self.clips.class_names

    @property
    def epoch(self) -> int:
        """The epoch that was begun last, or else the one that comes."""
        return (self._place or self._coming()).epoch

    def set_epoch(self, epoch: int) -> None:
        """Make this the next epoch; workers that are already running follow.

        Another epoch than that of a state that was loaded drops the state.
        """
        if epoch < 0 or epoch >> EPOCH_BITS:
            raise ValueError(f"epoch must be 0 or more and below 2**{EPOCH_BITS}, got {epoch}")
        self._epochs.set(epoch)
        self._place = None
        if self._resumed is not None and self._resumed.epoch != epoch:
            self._resumed = None

    def __len__(self) -> int:
        """Windows of an epoch, of this rank and all of its workers."""
        rank, world_size = self._resolved_ranks()
        share = share_of(self._clips_used(world_size), rank, world_size)
        return len(share) * self.windows_per_clip

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._clips_used(self._resolved_ranks()[1])
        if get_worker_info() is not None:
            return self.begun()
        # Nothing is begun before it is asked for: loaders make iterators that they drop.
        self._place = self._coming()
        return self._when_asked()

    def begun(self) -> Iterator[dict[str, Any]]:
        """What iterating gives; the epoch has begun even if no window is ever taken."""
        worker, place = get_worker_info(), self._resumed
        if worker is None:
            place = self._coming()
            self._epochs.begin(place.epoch)
        else:
            epoch = None if place is None else place.epoch
            place = place or _Place(0)
            place = replace(place, epoch=self._epochs.begin_in_worker(worker, epoch))
        self._place, self._resumed = place, None
        return self._items(place)

    def _when_asked(self) -> Iterator[dict[str, Any]]:
        yield from self.begun()

    def state_dict(self) -> dict[str, Any]:
        """The place of the iteration that was begun last, in plain JSON values.

        Raises:
            ValueError: a loader's workers read, and only they know where they are.
        """
        if get_worker_info() is None and self._epochs.in_workers():
            raise ValueError(
                "the windows are read by DataLoader's workers, and only they know where they are. "
                "Use torchdata.stateful_dataloader.StatefulDataLoader and its state_dict"
            )
        place = self._place or self._coming()
        return {
            "epoch": place.epoch,
            "position": place.position,
            "ended": place.ended,
            "shard": list(self._shard()),
            "settings": dict(self._settings),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Have the next iteration go on where the one was that told the state.

        Raises:
            StoreError: the state is malformed, or of other clips, settings, ranks or workers.
        """
        place = _Place.from_state(state_dict)
        check_same(state_dict["settings"], self._settings)
        check_shard(state_dict["shard"], self._shard())
        count = len(self._own_clips(place.epoch)) * self.windows_per_clip
        if place.position > count:
            raise StoreError(f"the state is at window {place.position} of an epoch of {count}")
        self._place = self._resumed = place

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is spawned knows no process group.
        initialised = torch.distributed.is_available() and torch.distributed.is_initialized()
        ranks = self._resolved_ranks() if initialised else self._ranks
        return self.__dict__ | {"_ranks": ranks}

    # --- what comes -------------------------------------------------------------------------

    def _coming(self) -> "_Place":
        """Where the next iteration in this process begins."""
        if self._resumed is None:
            return _Place(self._epochs.coming())
        return _Place(self._resumed.epoch + 1) if self._resumed.ended else self._resumed

    def _items(self, place: "_Place") -> Iterator[dict[str, Any]]:
        """The items from a place on."""
        clips = self._own_clips(place.epoch)
        count = len(clips) * self.windows_per_clip
        rng = np.random.default_rng([self.clips.seed, place.epoch, *self._shard()])
        leaving = through_buffer(count, self.shuffle, rng)
        gone = np.zeros(count, bool)
        gone[list(itertools.islice(leaving, place.position))] = True
        waiting: dict[int, dict[str, Any]] = {}
        reading = self._read(clips, place.epoch, np.flatnonzero(~gone).tolist())
        try:
            for number in leaving:
                while number not in waiting:
                    waiting.update(next(reading))
                place = replace(place, position=place.position + 1)
                self._place = place
                yield waiting.pop(number)
        finally:
            reading.close()
        self._place = replace(place, ended=True)

    def _read(
        self, clips: NDArray[np.int64], epoch: int, numbers: list[int]
    ) -> Generator[dict[int, dict[str, Any]], None, None]:
        """Read windows by number, those of a clip at once, some clips ahead."""
        each, seed = self.windows_per_clip, self.clips.seed

        def read(of_clip: list[int]) -> dict[int, dict[str, Any]]:
            index = int(clips[of_clip[0] // each])
            clip_id = self._ids[index]
            turns = [Turns(seed, clip_id, epoch * each + number % each) for number in of_clip]
            return dict(zip(of_clip, self.clips.drawn(index, turns), strict=True))

        together = (list(own) for _, own in itertools.groupby(numbers, lambda n: n // each))
        if not self.prefetch:
            yield from map(read, together)
            return
        with contextlib.closing(in_order(read, together, self.prefetch)) as ahead:
            for _, outcome in ahead:
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome

    def _own_clips(self, epoch: int) -> NDArray[np.int64]:
        """Places of this shard's clips among all, in the order of reading."""
        flat = np.arange(len(self._ids))
        if self.shuffle:
            order = np.random.default_rng([self.clips.seed, epoch]).permutation(len(self._together))
            places = itertools.chain.from_iterable(self._together[unit] for unit in order)
            flat = np.fromiter(places, np.int64)
        rank, world_size, worker, workers = self._shard()
        share = share_of(self._clips_used(world_size), rank, world_size)
        of_rank = flat[share.start : share.stop]
        share = share_of(len(of_rank), worker, workers)
        return of_rank[share.start : share.stop]

    def _clips_used(self, world_size: int) -> int:
        """Clips of an epoch, over all ranks."""
        count = len(self._ids)
        if self.even and count < world_size:
            raise StoreError(
                f"{self.clips.opened.path}: {count} clips cannot be shared evenly by {world_size} "
                "ranks. Use fewer, or choose more clips"
            )
        return count // world_size * world_size if self.even else count

    def _resolved_ranks(self) -> tuple[int, int]:
        return self._ranks or ranks_around()

    def _shard(self) -> tuple[int, int, int, int]:
        """Rank, how many there are, worker of the rank, and how many of these."""
        worker = get_worker_info()
        own = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return *self._resolved_ranks(), *own

    @functools.cached_property
    def _settings(self) -> dict[str, Any]:
        """What decides which windows come when, in plain JSON values."""
        clips = self.clips
        return {
            "clips": _digest(clips, self._together),
            "seed": clips.seed,
            "window_ticks": clips.segment_ticks * clips.segments,
            "segments": clips.segments,
            "sampling": clips.sampling,
            "size": None if clips.size is None else list(clips.size),
            "windows_per_clip": self.windows_per_clip,
            "shuffle": self.shuffle,
            "even": self.even,
        }


@dataclass(frozen=True, slots=True)
class _Place:
    """How far an epoch has come."""

    epoch: int
    position: int = 0
    """Windows that were given."""
    ended: bool = False
    """Whether it was found that there are no more."""

    @classmethod
    def from_state(cls, state: Any) -> "_Place":
        """What a state tells, once its values are what they must be.

        Raises:
            StoreError: they are not.
        """
        kinds = {"epoch": int, "position": int, "ended": bool, "shard": list, "settings": dict}
        check_kinds(state, kinds)
        epoch, position = state["epoch"], state["position"]
        if min(epoch, position) < 0 or epoch >> EPOCH_BITS:
            raise StoreError(f"the state is damaged: epoch {epoch}, position {position}")
        return cls(epoch, position, state["ended"])


def _together(clips: SpikeClips) -> list[list[int]]:
    """Places of clips that are best read one after the other."""
    places = {clip_id: place for place, clip_id in enumerate(clips.ids)}
    found = (
        [places[clip_id] for clip_id in together if clip_id in places]
        for together in clips.opened.neighbours()
    )
    return [own for own in found if own]


def _digest(clips: SpikeClips, together: Sequence[Sequence[int]]) -> str:
    """Of which clips there are, their order and how they are labelled."""
    digest = hashlib.sha256(json.dumps([clips.class_names, together]).encode())
    for clip_id, label in zip(clips.ids, clips.labels, strict=True):
        stored = clips.opened.clips[clip_id]
        shape = stored.ticks, stored.height_px, stored.width_px
        digest.update(json.dumps([clip_id, label, shape, stored.bits_sha256]).encode())
    return digest.hexdigest()


def _check_counts(windows_per_clip: int, shuffle: int, prefetch: int, sampling: str) -> None:
    if windows_per_clip < 1 or shuffle < 0 or prefetch < 0:
        raise ValueError(
            "windows_per_clip must be at least 1, shuffle and prefetch at least 0, got "
            f"{windows_per_clip}, {shuffle} and {prefetch}"
        )
    if windows_per_clip > 1 and sampling != "random":
        raise ValueError(
            f"sampling {sampling!r} gives one window a clip, got windows_per_clip "
            f"{windows_per_clip}"
        )
