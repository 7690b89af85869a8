"""Videos as a set of clips: spikes are simulated when they are read, and nothing is stored.

A clip here has the bits, ticks, digest and facts that :func:`simulate_corpus` would have stored.
What a sensor holds at a tick depends on all light before it, so a window is decoded and simulated
from the clip's beginning to the window's end, block by block; memory holds a block and the
windows. How many ticks a video gives is known when it has been decoded to its end: that is done
once, and noted in an index.

Shapes: G groups of eight ticks, H rows, W columns.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.clip import check_distinct_ids
from spikedata.clips import BitsMeter, ClipBits, ClipSource, StoredClip, size_on_disk
from spikedata.corpora import Corpus, CorpusClip
from spikedata.errors import SpikeDataError, StoreError, VideoError
from spikedata.provenance import versions
from spikedata.recipe import to_dict
from spikedata.simulation import (
    SimulationRecipe,
    check_tools,
    data_set_name,
    film,
)

FRAMES = 16
"""Most frames decoded at a time: a window is not to wait for many that it does not need."""
Progress = Callable[[StoredClip], object]


class LiveBits(ClipBits):
    """One clip, simulated anew each time it is read."""

    step = 32

    def __init__(self, item: CorpusClip, stored: StoredClip, recipe: SimulationRecipe) -> None:
        self.stored = stored
        self._item, self._recipe = item, recipe

    def groups(self, first: int, end: int) -> NDArray[np.uint8]:
        """Groups ``first`` to ``end``: uint8 (end - first, H, W), contiguous.

        Raises:
            VideoError: the video cannot be read, or is not the one it was.
        """
        return self.spans([(first, end)])[0]

    def spans(self, spans: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
        """Several spans of groups in one pass, which ends with the last of them.

        Raises:
            VideoError: as :meth:`groups`.
        """
        shape = self.stored.height_px, self.stored.width_px
        out = [np.empty((end - first, *shape), np.uint8) for first, end in spans]
        last = max(end for _, end in spans)
        done = 0
        with film(self._item, self._recipe, frames=FRAMES) as filmed:
            if (filmed.height_px, filmed.width_px) != shape:
                raise self._changed(f"is {filmed.height_px}x{filmed.width_px} pixels")
            for block_ghw in filmed.blocks():
                for (first, end), own_ghw in zip(spans, out, strict=True):
                    low, high = max(first, done), min(end, done + len(block_ghw))
                    if low < high:
                        own_ghw[low - first : high - first] = block_ghw[low - done : high - done]
                done += len(block_ghw)
                if done >= last:
                    return out
        raise self._changed(f"gives {8 * done} ticks")

    def blocks(self, step: int) -> Iterator[NDArray[np.uint8]]:
        """All groups in order, ``step`` at a time, in one pass; the last time perhaps fewer."""
        waiting: list[NDArray[np.uint8]] = []
        with film(self._item, self._recipe, frames=FRAMES) as filmed:
            for block_ghw in filmed.blocks():
                waiting.append(block_ghw)
                if sum(map(len, waiting)) >= step:
                    joined_ghw = np.concatenate(waiting)
                    whole = len(joined_ghw) // step * step
                    for first in range(0, whole, step):
                        yield joined_ghw[first : first + step]
                    waiting = [joined_ghw[whole:]]
            ticks = filmed.ticks
        if ticks != self.stored.ticks:
            raise self._changed(f"gives {ticks} ticks")
        if sum(map(len, waiting)):
            yield np.concatenate(waiting)

    def _changed(self, now: str) -> VideoError:
        stored = self.stored
        return VideoError(
            f"{self._item.path}: {now}, it had {stored.ticks} of {stored.size} when it was first "
            "read. Begin again with videos that stay as they are"
        )


class LiveClips(ClipSource):
    """Videos under one sensor; made by :func:`open_videos`."""

    format = "video"

    def __init__(
        self, corpus: Corpus, recipe: SimulationRecipe, clips: Mapping[str, StoredClip]
    ) -> None:
        self.path, self.name = corpus.root, data_set_name(corpus)
        self.class_names, self.clips = corpus.class_names, clips
        self.notes, self.left_out = corpus.notes, corpus.left_out
        self.recipe = to_dict(recipe)
        self._items = {item.clip.id: item for item in corpus.clips}
        self._recipe = recipe

    def open_bits(self, clip_id: str) -> LiveBits:
        """The clip's video, to be read when bits are asked for."""
        return LiveBits(self._items[clip_id], self.clips[clip_id], self._recipe)

    def stored_bytes(self, clip_id: str) -> int:
        """Bytes of the video."""
        return size_on_disk(self._items[clip_id].path)


def open_videos(
    corpus: Corpus,
    recipe: SimulationRecipe,
    *,
    index: Path | str | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> LiveClips:
    """Open videos as the set of clips that :func:`simulate_corpus` would make of them.

    Each video is decoded and simulated once to learn how many ticks it gives, and their digest.

    Args:
        corpus: clips and the videos they come from.
        recipe: sensor and video settings.
        index: folder, made if it is not there, where that is noted, a file for each recipe; a
            video that is of the same size and time is then not read again. None: nothing is noted.
        workers: videos read at once for that.
        progress: called for each clip once it is known.

    Raises:
        SpikeDataError: a video cannot be read; the first one is named.
        ValueError: ``workers`` is not positive, or two clips have the same id.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    check_distinct_ids(item.clip.id for item in corpus.clips)
    check_tools(recipe, "cpu")
    notes = _Index(None if index is None else Path(index), recipe)
    found: dict[str, StoredClip] = {}
    failed: list[str] = []
    pool = ThreadPoolExecutor(workers, thread_name_prefix="film")
    try:
        for outcome in pool.map(lambda item: _known(item, recipe, notes), corpus.clips):
            if isinstance(outcome, str):
                failed.append(outcome)
                continue
            found[outcome.id] = outcome
            if progress is not None:
                progress(outcome)
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        more = f" ({len(failed)} videos cannot be read)" if len(failed) > 1 else ""
        raise SpikeDataError(
            f"{failed[0]}{more}. Take such videos out of the folder, or let `spikedata simulate` "
            "make a store, which leaves them out"
        )
    return LiveClips(corpus, recipe, found)


def _known(item: CorpusClip, recipe: SimulationRecipe, notes: "_Index") -> StoredClip | str:
    """What is known of a clip, from the index or its video; or why it cannot be read."""
    try:
        return notes.find(item) or notes.add(item, _measure(item, recipe))
    except (SpikeDataError, ValueError, OSError) as error:
        said = " ".join(str(error).split())
        return said if str(item.path) in said else f"{item.path}: {said}"


def _measure(item: CorpusClip, recipe: SimulationRecipe) -> StoredClip:
    """A clip as a store would tell of it."""
    meter = BitsMeter()
    with film(item, recipe) as filmed:
        for block_ghw in filmed.blocks():
            meter.update(block_ghw)
        return StoredClip(
            clip=filmed.clip(),
            ticks=filmed.ticks,
            height_px=filmed.height_px,
            width_px=filmed.width_px,
            tick_rate_hz=filmed.tick_rate_hz,
            bits_sha256=meter.hexdigest(),
            spikes=meter.spikes,
            attributes=filmed.attributes(),
        )


class _Index:
    """What was measured of videos under one recipe: JSON Lines, one added as soon as it is known.

    A line that was cut off or is damaged is passed over, and its video read again.
    """

    def __init__(self, folder: Path | None, recipe: SimulationRecipe) -> None:
        made_by = versions(("av", "numpy"))
        text = json.dumps({"recipe": to_dict(recipe), "versions": made_by}, sort_keys=True)
        self._file: Path | None = None
        self._one_at_a_time = threading.Lock()
        self._lines: dict[str, Any] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            name = f"videos-{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"
            self._file = folder / name
            self._lines = dict(_lines(self._file))

    def find(self, item: CorpusClip) -> StoredClip | None:
        """A clip whose video is as it was, and whose line tells what lines tell."""
        noted = self._lines.get(item.clip.id)
        try:
            if noted is None or noted["video"] != _video(item):
                return None
            measured = noted["measured"]
            known = item.clip.to_dict() | measured | {"source": item.clip.source | noted["source"]}
            geometry = measured["height_px"], measured["width_px"]
            return StoredClip.from_file(known, measured["attributes"], *geometry)
        except (KeyError, TypeError, StoreError):
            return None

    def add(self, item: CorpusClip, stored: StoredClip) -> StoredClip:
        """Note a clip."""
        if self._file is not None:
            measured = {
                name: getattr(stored, name)
                for name in ("ticks", "height_px", "width_px", "tick_rate_hz")
                + ("bits_sha256", "spikes", "attributes")
            }
            known = item.clip.source.keys()
            source = {k: v for k, v in stored.clip.source.items() if k not in known}
            line = {
                "id": stored.id,
                "video": _video(item),
                "source": source,
                "measured": measured,
            }
            line["digest"] = _digest(line)
            with self._one_at_a_time, self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        return stored


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    """The lines of an index that are as they were written, by id."""
    if not file.is_file():
        return
    for text in file.read_bytes().splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            line = dict(json.loads(text))
            if line.pop("digest") == _digest(line):
                yield str(line["id"]), line


def _digest(line: dict[str, Any]) -> str:
    """Of a line without its digest: a damaged one is not to be believed."""
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:32]


def _video(item: CorpusClip) -> list[Any]:
    """What tells one video from another without reading it."""
    path = item.path
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    told = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = json.dumps([told, item.clip.source.get("name"), item.capture_fps])
    return [len(files), hashlib.sha256(text.encode()).hexdigest()]
