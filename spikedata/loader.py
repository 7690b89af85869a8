"""Feed spikes to a model: a torch data set over a store, Parquet files or a Hub data set.

Batches stay packed, eight ticks to a byte, until they are on the model's device; there
:func:`unpack_planes` makes planes of them.

Shapes: B clips, S segments a clip, T ticks a segment, G = ceil(T / 8) groups of eight ticks,
H rows, W columns.
"""

import copy
import difflib
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, default_collate

from spikedata.bits import pack_ticks
from spikedata.clip import Clip
from spikedata.clips import ClipSource, DatasetRows, StoredClip, check_label, open_clips
from spikedata.errors import StoreError
from spikedata.remote import is_remote

Sampling = Literal["start", "center", "random", "uniform"]

UNLABELLED = -1
"""Label of a clip that has none."""
_DIGEST_TICKS = 4096  # read at once where a digest has to be worked out


class SpikeClips(Dataset[dict[str, Any]]):
    """Windows of clips, one item a clip, for ``torch.utils.data.DataLoader``.

    A clip is cut into ``segments`` equal spans of time, and from each span one stretch of
    ``window_ticks / segments`` ticks is taken, packed from bit 0. Where a stretch lies in its
    span is ``sampling``: at its ``start``, in its ``center``, or anywhere (``random``); with
    ``uniform`` the first begins at the clip's first tick, the last ends at its last, and the
    others lie evenly between. Stretches overlap where a clip is too short for all of them; a clip
    shorter than one stretch is repeated from its beginning.

    ``random`` depends on ``seed``, the epoch and the clip's id alone, not on the number of
    workers, on the order of reading or on which other clips were chosen. It also draws one of the
    clip's captions; otherwise the first is taken.

    An item holds ``packed_sghw`` uint8 (S, G, H, W), ``ticks`` (of a segment), ``label``,
    ``caption``, ``id`` and ``starts``, the first tick of each segment.

    Args:
        source: a set of clips in any format, or its path; or what ``datasets.load_dataset`` gave
            for a published data set (not streaming).
        split: only clips of this split.
        official_split: which of the corpus's official splits ``split`` means, one of
            ``official_splits``; None is the one that the clips were simulated with.
        classes: only clips of these classes; labels are then numbered among them.
        window_ticks: ticks of an item, over all its segments.
        segments: stretches an item is made of, S.
        sampling: where in the clip they lie.
        seed: of ``random``.
        ids: only these clips, in this order.
        size: height and width that every picture is given, px: its middle where it is larger,
            dark around it where it is smaller. Bits cannot be resampled.

    Raises:
        StoreError: the source cannot be read, has no such class, clip or official split, or a
            clip's label is none of its classes.
        ValueError: ``window_ticks`` is not a positive multiple of ``segments``, or ``sampling`` is
            none of the four.
    """

    def __init__(
        self,
        source: Any,
        *,
        split: str | None = None,
        official_split: int | None = None,
        classes: Sequence[str] | None = None,
        window_ticks: int = 250,
        segments: int = 1,
        sampling: Sampling = "random",
        seed: int = 0,
        ids: Sequence[str] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        _check_window(window_ticks, segments, sampling, size)
        self.source = source
        self.split = split
        self.official_split = official_split
        self.segments = segments
        self.segment_ticks = window_ticks // segments
        self.sampling: Sampling = sampling
        self.seed = seed
        self.size = size
        self._store = _open(source)
        self.class_names = _chosen_classes(self._store.class_names, classes)
        """Labels in order; an item's ``label`` is a place in it."""
        self.official_splits = _official_splits(self._store)
        """Numbers of the official splits that clips of the source tell."""
        if official_split is not None and official_split not in self.official_splits:
            raise StoreError(_no_official_split(self._store, official_split, self.official_splits))
        chosen = _chosen_clips(self._store, classes, ids)
        self._clips = [
            stored for stored in chosen if split in (None, _split_of(stored.clip, official_split))
        ]
        self._digests: dict[str, str] = {}
        # In shared memory, so that workers that outlive an epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def copy(self) -> "SpikeClips":
        """The same items with an epoch of their own, which begins at 0."""
        other = copy.copy(self)
        other._epoch = torch.zeros((), dtype=torch.int64)
        other._epoch.share_memory_()  # type: ignore[no-untyped-call]
        return other

    @property
    def opened(self) -> ClipSource:
        """The set of clips that ``source`` names, for what an item does not hold."""
        return self._store

    @property
    def ids(self) -> list[str]:
        """Id of each item."""
        return [stored.clip.id for stored in self._clips]

    @property
    def labels(self) -> list[int]:
        """Label of each item, -1 where there is none."""
        return [self._label(stored) for stored in self._clips]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each item's picture, px, before ``size`` is made of it."""
        return [(stored.height_px, stored.width_px) for stored in self._clips]

    @property
    def groups(self) -> list[str | None]:
        """Group of each item; clips of a group share a scene."""
        return [stored.clip.group for stored in self._clips]

    @property
    def captions(self) -> list[tuple[str, ...]]:
        """All captions of each item."""
        return [stored.clip.captions for stored in self._clips]

    def digest(self, index: int) -> str:
        """Digest of an item's whole clip, hexadecimal: equal bits have equal ones.

        That of the store where it tells one; else the clip is read.
        """
        stored = self._clips[index]
        if stored.bits_sha256:
            return stored.bits_sha256
        if stored.clip.id not in self._digests:
            read = hashlib.sha256(f"{stored.ticks} {stored.height_px} {stored.width_px}".encode())
            for start in range(0, stored.ticks, _DIGEST_TICKS):
                ticks = min(_DIGEST_TICKS, stored.ticks - start)
                part = self._store.read(stored.clip.id, start, ticks).packed_ghw
                read.update(np.ascontiguousarray(part).data)
            self._digests[stored.clip.id] = read.hexdigest()
        return self._digests[stored.clip.id]

    @property
    def epoch(self) -> int:
        """What ``set_epoch`` said last; 0 at first."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw other ``random`` windows; workers that are already running follow."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.drawn(index, [self._draws(self._clips[index])])[0]

    def drawn(self, index: int, draws: Sequence["Draws"]) -> list[dict[str, Any]]:
        """Items of one clip, one for each of ``draws``, which say where ``random`` ones lie.

        Raises:
            StoreError: the clip is damaged.
        """
        stored = self._clips[index]
        places = [self._place(stored, draw) for draw in draws]
        packed = self._stretches(stored, [start for starts, _ in places for start in starts])
        items = []
        for number, (starts, caption) in enumerate(places):
            packed_sghw = np.stack(packed[number * self.segments : (number + 1) * self.segments])
            if self.size is not None:
                packed_sghw = to_size(packed_sghw, self.size)
            item = {
                "packed_sghw": torch.from_numpy(packed_sghw),
                "ticks": self.segment_ticks,
                "label": self._label(stored),
                "caption": caption,
                "id": stored.clip.id,
                "starts": starts,
            }
            items.append(item)
        return items

    def caption(self, index: int) -> str:
        """The caption that an item would have now; no bits are read."""
        stored = self._clips[index]
        return self._place(stored, self._draws(stored))[1]

    def _draws(self, stored: StoredClip) -> np.random.Generator:
        clip_key = zlib.crc32(stored.clip.id.encode())
        return np.random.default_rng([self.seed, self.epoch, clip_key])

    def _place(self, stored: StoredClip, draw: "Draws") -> tuple[list[int], str]:
        """First ticks of an item's segments and its caption."""
        starts = segment_starts(
            stored.ticks, self.segments, self.segment_ticks, self.sampling, draw
        )
        return starts, self._caption(stored.clip, draw)

    def _stretches(self, stored: StoredClip, starts: Sequence[int]) -> list[NDArray[np.uint8]]:
        wanted = self.segment_ticks
        if stored.ticks >= wanted:
            windows = self._store.windows(stored.clip.id, starts, wanted)
            return [window.packed_ghw for window in windows]
        planes_thw = self._store.read(stored.clip.id).unpack()
        repeated_thw = np.resize(planes_thw, (wanted, *planes_thw.shape[1:]))
        return [pack_ticks(repeated_thw)] * len(starts)

    def _label(self, stored: StoredClip) -> int:
        label = stored.clip.label
        return UNLABELLED if label is None else self.class_names.index(label)

    def _caption(self, clip: Clip, draw: "Draws") -> str:
        if not clip.captions:
            return clip.label or ""
        random = self.sampling == "random"
        return clip.captions[int(draw.integers(len(clip.captions))) if random else 0]


class Draws(Protocol):
    """What chooses a window's places, as ``numpy.random.Generator`` does."""

    def integers(self, low: int, /) -> Any:
        """A whole number from 0, below ``low``."""


def _check_window(
    window_ticks: int, segments: int, sampling: str, size: tuple[int, int] | None
) -> None:
    if size is not None and min(size) < 1:
        raise ValueError(f"size must be a positive height and width, got {size}")
    if segments < 1 or window_ticks < segments or window_ticks % segments:
        raise ValueError(
            f"window_ticks must be a positive multiple of segments ({segments}), got {window_ticks}"
        )
    if sampling not in ("start", "center", "random", "uniform"):
        raise ValueError(f"sampling must be start, center, random or uniform, got {sampling!r}")


def to_size(packed: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The middle of pictures (..., H, W) that are larger, dark around those that are smaller."""
    out = np.zeros((*packed.shape[:-2], *size), np.uint8)
    source, target = [], []
    for has, wanted in zip(packed.shape[-2:], size, strict=True):
        kept = min(has, wanted)
        source.append(slice((has - kept) // 2, (has - kept) // 2 + kept))
        target.append(slice((wanted - kept) // 2, (wanted - kept) // 2 + kept))
    out[..., target[0], target[1]] = packed[..., source[0], source[1]]
    return out


def segment_starts(
    clip_ticks: int,
    segments: int,
    segment_ticks: int,
    sampling: Sampling,
    rng: Draws,
) -> list[int]:
    """First tick of each segment; see :class:`SpikeClips`. Zeros if the clip is too short."""
    room = max(0, clip_ticks - segment_ticks)
    if sampling == "uniform" and segments > 1:
        return [room * s // (segments - 1) for s in range(segments)]
    starts = []
    for s in range(segments):
        begin, end = clip_ticks * s // segments, clip_ticks * (s + 1) // segments
        spare = max(0, end - begin - segment_ticks)
        if sampling == "random":
            begin += int(rng.integers(spare + 1))
        elif sampling != "start":
            begin += spare // 2
        starts.append(min(begin, room))
    return starts


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch of items.

    Returns:
        ``packed_bsghw`` uint8 (B, S, G, H, W), ``ticks`` of a segment, ``label_b`` int64 (B,),
        ``captions`` and ``ids``, lists of B strings.

    Raises:
        ValueError: no items, or clips of several sizes.
    """
    if not items:
        raise ValueError("a batch needs at least one item")
    shapes = {tuple(item["packed_sghw"].shape) for item in items}
    if len(shapes) > 1:
        sizes = ", ".join(sorted({f"{shape[-2]}x{shape[-1]}" for shape in shapes}))
        raise ValueError(
            f"clips of one batch have several sizes ({sizes}). Give SpikeClips a size, simulate "
            "with --resize, or use batches of one"
        )
    return {
        # In a worker it stacks into shared memory at once, where torch.stack would be copied again.
        "packed_bsghw": default_collate([item["packed_sghw"] for item in items]),
        "ticks": items[0]["ticks"],
        "label_b": torch.tensor([item["label"] for item in items], dtype=torch.int64),
        "captions": [item["caption"] for item in items],
        "ids": [item["id"] for item in items],
    }


def worker_options(clips: ClipSource, workers: int) -> dict[str, Any]:
    """How many workers a ``DataLoader`` has, and how they begin: keyword arguments of it.

    A process that is forked from one that reads object storage could not read it: those are begun
    anew.
    """
    begin = "spawn" if workers and is_remote(clips.path) else None
    return {"num_workers": workers, "multiprocessing_context": begin}


def _open(source: Any) -> ClipSource:
    if isinstance(source, str | Path):
        return open_clips(source)
    return source if isinstance(source, ClipSource) else DatasetRows(source)


def _chosen_classes(class_names: tuple[str, ...], classes: Sequence[str] | None) -> tuple[str, ...]:
    for name in classes or ():
        if name not in class_names:
            close = difflib.get_close_matches(name, class_names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise StoreError(f"no class {name!r} among {len(class_names)} classes.{hint}")
    return class_names if classes is None else tuple(c for c in class_names if c in set(classes))


def _chosen_clips(
    store: ClipSource,
    classes: Sequence[str] | None,
    ids: Sequence[str] | None,
) -> list[StoredClip]:
    missing = [clip_id for clip_id in ids or () if clip_id not in store.clips]
    if missing:
        raise StoreError(f"no clip {missing[0]!r} ({len(missing)} of {len(ids or ())} are missing)")
    found = [store.clips[clip_id] for clip_id in (store.clips if ids is None else ids)]
    for stored in found:
        check_label(stored.clip, store.class_names)
    return [stored for stored in found if classes is None or stored.clip.label in classes]


def _split_of(clip: Clip, official_split: int | None) -> str | None:
    return clip.split if official_split is None else clip.official_splits.get(official_split)


def _official_splits(store: ClipSource) -> tuple[int, ...]:
    told = {number for stored in store.clips.values() for number in stored.clip.official_splits}
    return tuple(sorted(told))


def _no_official_split(store: ClipSource, asked: int, there: tuple[int, ...]) -> str:
    told = f"only {', '.join(map(str, there))}" if there else "none at all"
    return (
        f"{store.path}: its clips tell no official split {asked} ({told}); simulate again, with "
        "the official lists in or beside the folder of videos"
    )
