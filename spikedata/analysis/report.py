"""A page about a set of clips: classes, firing rates, losses, intervals, a contact sheet."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spikedata.analysis.page import Page, new_figure
from spikedata.analysis.pictures import choose_clips, contact_sheet
from spikedata.analysis.trains import count_intervals
from spikedata.clips import ClipSource
from spikedata.errors import SpikeDataError
from spikedata.outputs import write_whole

_MOST_LOSSY = 50
"""Clips that the table of losses shows at most."""


def report_html(
    store: ClipSource,
    out: Path | str,
    *,
    sample_clips: int = 48,
    sample_ticks: int = 1024,
    overwrite: bool = False,
) -> Path:
    """Write a page about a store: classes, firing rates, intervals and a contact sheet.

    Counts and firing rates are of all clips (they were noted when the clips were written); the
    interval histogram and the pictures are of a sample, and say so.

    Args:
        store: what to tell of.
        out: HTML file to write, all in one.
        sample_clips: at most so many clips are read.
        sample_ticks: from each at most so many ticks.
        overwrite: replace ``out``, once the new one is whole.

    Returns:
        ``out``.

    Raises:
        SpikeDataError: ``out`` is there, and ``overwrite`` is False.
    """
    out = Path(out)
    if out.exists() and not overwrite:  # before the reading, too
        raise SpikeDataError(f"{out}: exists already. Give --overwrite to replace it")
    page = _page(store, sample_clips, sample_ticks)
    write_whole(out, page.render(), overwrite=overwrite)
    return out


def _page(store: ClipSource, sample_clips: int, sample_ticks: int) -> Page:
    page = Page(store.name or store.path.name)
    summary = {key: value for key, value in store.summary().items() if key != "recipe"}
    page.table(("", ""), [(key, _shown(value)) for key, value in summary.items()])
    page.items([*store.notes, *(item.note() for item in store.left_out)])
    _add_losses(page, store)
    page.heading("Classes")
    _add_classes(page, store)
    if sample := choose_clips(store, sample_clips):
        page.heading("Inter-spike intervals")
        page.text(f"First {sample_ticks} ticks at most of {len(sample)} clips.")
        page.figure(_interval_figure(store, sample, sample_ticks))
        page.heading("Clips")
        page.text("Texture from playback, 64 ticks from the middle of each clip.")
        page.picture(contact_sheet(store, sample), "contact sheet")
    return page


def _add_losses(page: Page, store: ClipSource) -> None:
    """What was lost or made good when the clips were made, the worst first."""
    lossy = [(stored.id, stored.losses) for stored in store.clips.values() if stored.losses]
    if not lossy:
        return
    names = sorted(store.losses())
    lossy.sort(key=lambda told: (-sum(told[1].values()), told[0]))
    page.heading("Losses")
    page.text(
        f"{len(lossy)} of {len(store.clips)} clips lost something, or had it made good, on the "
        f"way from their source; the {min(len(lossy), _MOST_LOSSY)} with the most:"
    )
    rows = [(clip_id, *(lost.get(name, 0) for name in names)) for clip_id, lost in lossy]
    page.table(("clip", *names), rows[:_MOST_LOSSY])


def _add_classes(page: Page, store: ClipSource) -> None:
    count: Counter[tuple[str, str]] = Counter()
    spikes: Counter[str] = Counter()
    pixel_ticks: Counter[str] = Counter()
    for clip_id in store.clips:
        stored = store.measured(clip_id)
        label = stored.label or "(no label)"
        count[label, stored.clip.split or "none"] += 1
        spikes[label] += stored.spikes or 0
        pixel_ticks[label] += stored.pixel_ticks
    splits = sorted({split for _, split in count})
    rows = [
        (label, *(count[label, split] for split in splits), f"{spikes[label] / pixels:.4f}")
        for label, pixels in sorted(pixel_ticks.items())
    ]
    page.table(("class", *splits, "spikes per pixel and tick"), rows)


def _interval_figure(store: ClipSource, clip_ids: Sequence[str], most_ticks: int) -> Any:
    streams = (
        store.read(clip_id, 0, min(most_ticks, store.clips[clip_id].ticks)) for clip_id in clip_ids
    )
    count_l = np.sum([count_intervals(stream, longest=64) for stream in streams], axis=0)
    figure, axes = new_figure(8, 3)
    share_l = count_l / max(1, count_l.sum())
    axes.bar(np.arange(len(share_l)), share_l, width=1.0)
    axes.set(xlabel="interval, ticks (the last bar: 64 and more)", ylabel="share of intervals")
    return figure


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
