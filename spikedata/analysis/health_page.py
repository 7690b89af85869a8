"""What :func:`measure_health` found, on a page: sentences, a rate map, curves."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.analysis.health import Health, places
from spikedata.analysis.page import Page, new_figure
from spikedata.analysis.stats import MAINS_HZ

_HOT, _DEAD, _SATURATED = "#ff2d2d", "#00c8ff", "#ff9d00"


def add_health(page: Page, health: Health, *, curves: bool = True) -> None:
    """Add all that is known of a recording's health to a page.

    Args:
        page: which.
        health: of one recording, or of several of one camera.
        curves: draw the rate over time too, which is of a recording alone.
    """
    page.items(health.findings())
    page.figure(_map(health))
    if curves:
        page.figure(_curves(health))


def _map(health: Health) -> Any:
    """The rate of every pixel, with the pixels marked that something is wrong with."""
    height, width = health.rate_hw.shape
    figure, axes = new_figure(9, min(9.0, max(2.0, 7.5 * height / width + 0.6)))
    white = float(np.percentile(health.rate_hw, 99.5)) or 1.0
    how: dict[str, Any] = {"interpolation": "nearest", "aspect": "equal"}
    image = axes.imshow(health.rate_hw, cmap="gray", vmin=0, vmax=white, **how)
    figure.colorbar(image, ax=axes, label="spikes a tick", shrink=0.8)
    if health.saturated_hw.any():  # mostly surfaces: a mark a pixel would hide them
        axes.imshow(_coloured(health.saturated_hw, (255, 157, 0, 110)), **how)
        label = f"saturated: {int(health.saturated_hw.sum()):,}"
        axes.scatter([], [], marker="s", s=45, color=_SATURATED, label=label)
    for name, mask_hw, mark in (
        ("hot", health.hot_hw, {"marker": "o", "edgecolors": _HOT, "facecolors": "none"}),
        ("dead", health.dead_hw, {"marker": "x", "color": _DEAD}),
    ):
        if len(found := places(mask_hw)):
            axes.scatter(found[:, 0], found[:, 1], s=45, label=f"{name}: {len(found):,}", **mark)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.06), ncols=3, frameon=False)
    axes.set(title="Firing rate of each pixel", xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return figure


def _coloured(mask_hw: NDArray[np.bool_], rgba: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """A picture, uint8 (H, W, 4), of one colour where a mask is set and clear elsewhere."""
    return np.where(mask_hw[..., None], np.array(rgba, np.uint8), np.uint8(0))


def _curves(health: Health) -> Any:
    """The mean rate over time, and its spectrum."""
    figure, (time, spectrum) = new_figure(11, 3.2, columns=2)
    ends = {start for start, _ in health.stretches[1:]}
    # A gap where nothing was read is no line.
    broken = np.flatnonzero(np.isin(health.tick_n, list(ends)))
    time_s = np.insert(health.tick_n / health.tick_rate_hz, broken, np.nan)
    time.plot(time_s, np.insert(health.rate_n, broken, np.nan), linewidth=0.8)
    time.set(title="Mean rate over time", xlabel="time, s", ylabel="spikes a tick")
    time.set_ylim(0, 1.15 * float(health.rate_n.max()) or 1.0)
    for hz in MAINS_HZ:
        spectrum.axvline(hz, color="#b00020", linewidth=0.6, linestyle=":")
    if len(health.frequency_hz):
        spectrum.loglog(health.frequency_hz, np.maximum(health.amplitude, 1e-7), linewidth=0.8)
    for axis in (spectrum.xaxis, spectrum.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    spectrum.set(
        title="Its spectrum; dotted: 100 and 120 Hz", xlabel="Hz", ylabel="amplitude, of the mean"
    )
    return figure
