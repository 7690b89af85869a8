"""A page about a set of clips: what a laboratory would send to a colleague.

What there is, what was lost, classes, the cameras' health, intervals, and every clip with a picture
that moves; of many clips the pages lie in a folder beside it.
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spikedata.analysis.clip_pages import (
    PAGE_CLIPS,
    ClipPages,
    ClipTiles,
    check_pages,
    remove_pages,
)
from spikedata.analysis.health import MOST_TICKS, Health, measure_health
from spikedata.analysis.health_page import add_health
from spikedata.analysis.page import Link, Page, new_figure
from spikedata.analysis.pictures import choose_clips
from spikedata.analysis.trains import count_intervals
from spikedata.clips import ChangedClips, ClipSource, lost_spans
from spikedata.errors import SpikeDataError
from spikedata.outputs import Failure, is_being_written, locked, put_into_place, remove, write_whole
from spikedata.remote import on_disk
from spikedata.wording import one_line

_T = TypeVar("_T")

_MOST_LOSSY = 50
"""Clips that the table of losses shows at most."""
_SUMMARY_ROWS = 9
_CLASS_ROWS = 40
_LOST_ROWS = 20
"""Rows of tables; a longer one is cut in pieces side by side."""
_SHOWN_CLIPS = 48
"""Clips that the first of many pages shows."""
_HEALTH_CLIPS = 24
"""Clips of which the health is measured at most ..."""
_HEALTH_TICKS = 2_048
"""... and ticks of each, where there are several."""
_MOST_CAMERAS = 4
_LONGEST_INTERVAL = 64

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many of it, and of how many."""


def report_html(
    store: ClipSource,
    out: Path | str,
    *,
    thumbnails: int | None = 1_000,
    sample_clips: int = 48,
    sample_ticks: int = 1024,
    threads: int = 1,
    progress: Progress | None = None,
    failed: Callable[[Failure], object] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a page about a set of clips, or about one recording.

    Counts and firing rates are of all clips (those that nobody has counted are read); the interval
    histogram and the cameras' health are of a sample, and say so. Up to 100 clips stand on the page
    itself; more stand on pages of 100, by id, in a folder beside it, ``out`` with ``.report``.

    Args:
        store: what to tell of.
        out: HTML file to write.
        thumbnails: clips that have a picture that moves, classes taking turns; all if None. The
            others have one that stands still.
        sample_clips: at most so many clips are read for the intervals.
        sample_ticks: from each at most so many ticks.
        threads: thumbnails that are made at once.
        progress: called in this thread.
        failed: told of each clip that could not be read, which the page names too.
        overwrite: replace ``out`` and its pages, once the new ones are whole.

    Returns:
        ``out``.

    Raises:
        SpikeDataError: ``out`` is there, and ``overwrite`` is False; or the folder holds something
            else.
        ValueError: ``thumbnails`` is negative.
    """
    out = on_disk(out)
    if thumbnails is not None and thumbnails < 0:
        raise ValueError(f"thumbnails must be at least 0, got {thumbnails}")
    _check_out(out, overwrite)  # before the reading, too
    report = _Report(store, progress or (lambda _stage, _done, _total: None))
    report.count_intervals(sample_clips, sample_ticks)
    with locked(out):
        _check_out(out, overwrite)
        _write(report, out, thumbnails, threads, overwrite)
    if failed is not None:
        for failure in report.failures:
            failed(failure)
    return out


def _check_out(out: Path, overwrite: bool) -> None:
    try:
        if out.exists() and not overwrite:
            raise SpikeDataError(f"{out}: exists already. Give --overwrite to replace it")
        check_pages(out, overwrite=overwrite)
    except SpikeDataError:
        is_being_written(out)  # removes the lock file of a run killed at its very end
        raise


def _write(
    report: "_Report", out: Path, thumbnails: int | None, threads: int, overwrite: bool
) -> None:
    """Write the page, after the pages beside it if the clips are many."""
    clip_ids = list(report.source.clips)
    moving = clip_ids if thumbnails is None else choose_clips(report.source, thumbnails)
    pages = ClipPages(clip_ids, out) if len(clip_ids) > PAGE_CLIPS else None
    shown = clip_ids if pages is None else choose_clips(report.source, _SHOWN_CLIPS)
    steps = report.steps("clips", len(shown) + (0 if pages is None else len(clip_ids)))
    tiles = ClipTiles(report.source, moving, threads, steps, report.note_failure)
    page = report.page(pages)
    if shown:
        page.heading("Clips")
    page.animations(tiles.of(shown))
    if pages is not None:
        page.text(f"{len(shown)} of {len(clip_ids):,} clips, classes taking turns. All, by id:")
        page.table(("page", "from", "to"), pages.pages(), most_rows=_CLASS_ROWS)
        _write_pages(pages, report.title, tiles)
    write_whole(out, page.render(), overwrite=overwrite)
    if pages is None:
        remove_pages(out)


def _write_pages(pages: ClipPages, title: str, tiles: ClipTiles) -> None:
    """Write all pages of clips, whole or not at all, in place of an earlier report's."""
    aside = pages.folder.with_name(f"{pages.folder.name}.partial")
    remove(aside)
    try:
        aside.mkdir()
        pages.write(aside, title, tiles)
        put_into_place(aside, pages.folder)
    finally:
        remove(aside)


class _Report:
    """What the first page tells, section by section."""

    def __init__(self, store: ClipSource, progress: Progress) -> None:
        self.title = store.name or store.path.name
        self._progress = progress
        self._failures: list[Failure] = []
        self.source = self._counted(store)
        self._health = self._measured()

    @property
    def failures(self) -> list[Failure]:
        """What could not be read, once each."""
        return list({failure.id: failure for failure in self._failures}.values())

    def note_failure(self, failure: Failure) -> None:
        """Remember what could not be read."""
        self._failures.append(failure)

    def steps(self, stage: str, total: int) -> Callable[[], None]:
        """What to call after each of so many steps."""
        done = iter(range(1, total + 1))
        return lambda: self._progress(stage, next(done), total)

    def count_intervals(self, sample_clips: int, sample_ticks: int) -> None:
        """Count the intervals of some clips, in the first ticks of each."""

        def counted(clip_id: str) -> NDArray[np.int64]:
            ticks = min(sample_ticks, self.source.clips[clip_id].ticks)
            return count_intervals(self.source.read(clip_id, 0, ticks), longest=_LONGEST_INTERVAL)

        sample = choose_clips(self.source, sample_clips)
        self._intervals = list(self._tried("intervals", sample, counted).values())
        self._sample_ticks = sample_ticks

    def page(self, pages: ClipPages | None) -> Page:
        """The first page without its clips; the only one if there are no other ``pages``."""
        source, page = self.source, Page(self.title)
        summary = {key: value for key, value in source.summary().items() if key != "recipe"}
        told = [(key, _shown(value)) for key, value in summary.items()]
        page.table(("", ""), told, most_rows=_SUMMARY_ROWS)
        left_out = {item.id: item for item in (*source.left_out, *self._failures)}
        page.items([*source.notes, *(item.note() for item in left_out.values())])
        _add_losses(page, source)
        _add_lost(page, source)
        page.heading("Classes")
        _add_classes(page, source, pages)
        self._add_health(page)
        if self._intervals:
            page.heading("Inter-spike intervals")
            number = len(self._intervals)
            clips = "clip" if number == 1 else "clips"
            page.text(f"First {self._sample_ticks:,} ticks at most of {number} {clips}.")
            page.figure(_interval_figure(np.sum(self._intervals, axis=0)))
        return page

    # --- reading ----------------------------------------------------------------------------

    def _counted(self, store: ClipSource) -> ClipSource:
        """The clips with their spikes counted; those that cannot be read are noted and left out."""
        if all(stored.spikes is not None for stored in store.clips.values()):
            return store
        counted = self._tried("reading", list(store.clips), store.measured)
        return ChangedClips(store, clips=counted, recipe=store.recipe)

    def _measured(self) -> dict[str, Health]:
        """The health of the only recording, or of some clips, by id."""
        clips = self.source.clips
        if len(clips) == 1:
            return self._tried("health", list(clips), self._health_of)
        chosen = sorted(choose_clips(self.source, _HEALTH_CLIPS))
        return self._tried("health", chosen, functools.partial(self._health_of, most=_HEALTH_TICKS))

    def _health_of(self, clip_id: str, most: int = MOST_TICKS) -> Health:
        return measure_health(self.source.stream(clip_id), most_ticks=most)

    def _tried(self, stage: str, ids: Sequence[str], work: Callable[[str], _T]) -> dict[str, _T]:
        """What came of the clips that can be read; the others are noted."""
        done, step = {}, self.steps(stage, len(ids))
        for clip_id in ids:
            try:
                done[clip_id] = work(clip_id)
            except (SpikeDataError, OSError) as error:
                self._failures.append(Failure(id=clip_id, path="", error=one_line(str(error))))
            step()
        return done

    # --- health -----------------------------------------------------------------------------

    def _add_health(self, page: Page) -> None:
        """The health of the only recording in full; of several, of each and of their cameras."""
        if not self._health:
            return
        page.heading("Health")
        if len(self.source.clips) == 1:
            add_health(page, *self._health.values())
            return
        page.text(
            f"Up to {_HEALTH_TICKS:,} ticks of {len(self._health)} of {len(self.source.clips):,} "
            "clips. What a scene shows is in some clips, what is wrong with a camera in all: see "
            "them taken together below."
        )
        heads = ("clip", "spikes a tick", "hot", "dead", "saturated", "flicker", "ticks lost")
        rows = [(clip_id, *_health_row(health)) for clip_id, health in self._health.items()]
        page.table(heads, rows)
        for name, ids in self._cameras()[:_MOST_CAMERAS]:
            page.text(f"{name}: {len(ids)} clips taken together.")
            health = measure_health(*map(self.source.stream, ids), most_ticks=_HEALTH_TICKS)
            add_health(page, health, curves=False)

    def _cameras(self) -> list[tuple[str, list[str]]]:
        """Cameras of several of the clips whose health is known, most clips first, and these."""
        groups: dict[str, list[str]] = defaultdict(list)
        for clip_id in self._health:
            stored = self.source.clips[clip_id]
            name = f"{stored.camera or 'simulated'}, {stored.size}, {stored.tick_rate_hz:g} Hz"
            groups[name].append(clip_id)
        several = [(name, ids) for name, ids in groups.items() if len(ids) > 1]
        return sorted(several, key=lambda group: (-len(group[1]), group[0]))


def _health_row(health: Health) -> list[str]:
    """The cells of a clip in the table of health."""
    faults = [f"{int(mask_hw.sum()):,}" for mask_hw in health.masks.values()]
    flicker = "too short" if not health.tells_flicker else "-"
    if health.mains is not None:
        flicker = f"{health.mains[0]:.0f} Hz, {health.mains[1]:.1%}"
    lost = sum(ticks for _, ticks, _ in health.lost)
    return [f"{health.mean_rate:.4f}", *faults, flicker, f"{lost:,}"]


def _add_losses(page: Page, store: ClipSource) -> None:
    """What was lost or made good when the clips were made, the worst first."""
    lossy = [(stored.id, stored.losses) for stored in store.clips.values() if stored.losses]
    if not lossy:
        return
    names = sorted(store.losses())
    lossy.sort(key=lambda told: (-sum(told[1].values()), told[0]))
    page.heading("Losses")
    page.text(
        f"{len(lossy):,} of {len(store.clips):,} clips lost something, or had it made good, on the "
        f"way from their source; the {min(len(lossy), _MOST_LOSSY)} with the most:"
    )
    rows = [(clip_id, *(lost.get(name, 0) for name in names)) for clip_id, lost in lossy]
    page.table(("clip", *names), rows[:_MOST_LOSSY], most_rows=_LOST_ROWS)


def _add_lost(page: Page, store: ClipSource) -> None:
    """Where recordings lost something between their whole frames."""
    rows: list[tuple[str, ...]] = []
    number = 0
    for stored in store.clips.values():
        spans = lost_spans(stored.attributes)
        number += len(spans)
        for tick, ticks, size in spans[: _MOST_LOSSY - len(rows)]:
            at_ms = f"{1000 * tick / stored.tick_rate_hz:,.2f}"
            rows.append((stored.id, f"{tick:,}", at_ms, f"{ticks:,}", f"{size:,}"))
    if rows:
        page.heading("Lost spans")
        first = f"; the first {len(rows)}" if number > len(rows) else ""
        page.text(f"{number:,} in all{first}. How many ticks is estimated from the bytes.")
        heads = ("clip", "before tick", "at, ms", "ticks lost", "bytes")
        page.table(heads, rows, most_rows=_LOST_ROWS)


def _add_classes(page: Page, store: ClipSource, pages: ClipPages | None) -> None:
    first: dict[str, int] = {}
    count: Counter[tuple[str, str]] = Counter()
    spikes: Counter[str] = Counter()
    pixel_ticks: Counter[str] = Counter()
    for place, stored in enumerate(store.clips.values()):
        label = stored.label or "(no label)"
        first.setdefault(label, place)
        count[label, stored.clip.split or "none"] += 1
        spikes[label] += stored.spikes or 0
        pixel_ticks[label] += stored.pixel_ticks
    splits = sorted({split for _, split in count})

    def named(label: str) -> str | Link:
        return label if pages is None else pages.link(first[label], label)

    rows = [
        (named(label), *(count[label, split] for split in splits), f"{spikes[label] / pixels:.4f}")
        for label, pixels in sorted(pixel_ticks.items())
    ]
    page.text("Rate: spikes per pixel and tick of all clips of a class.", small=True)
    page.table(("class", *splits, "rate"), rows, most_rows=_CLASS_ROWS)


def _interval_figure(count_l: NDArray[np.int64]) -> Any:
    figure, axes = new_figure(8, 3)
    share_l = count_l / max(1, count_l.sum())
    axes.bar(np.arange(len(share_l)), share_l, width=1.0)
    last = f"interval, ticks (the last bar: {_LONGEST_INTERVAL} and more)"
    axes.set(xlabel=last, ylabel="share of intervals")
    return figure


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)
