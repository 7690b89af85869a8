"""The light that spikes recorded, picture by picture, straight from packed trains.

Ways to make a picture, all in spikes a tick (times the threshold: light):

- ``tfp``, texture from playback, counts the spikes of a window: little noise, moving things blur.
- ``tfi``, texture from interval, is one over the interval between two spikes: sharp, noisy.
- ``adaptive`` chooses for each pixel: a long window where nothing moves, shorter ones and at last
  the interval where something does.
- a function of yours, for learned methods.

From one picture to the next only the ticks that enter and leave are looked at, eight at a time;
:mod:`~spikedata.analysis.textures` says slowly what must come out, to the bit.

Shapes: N pictures, T ticks, G groups of eight ticks, H rows, W columns, P = H W pixels.
"""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spikedata import bits
from spikedata.analysis.textures import MOST_DIFFERENCE, nested_windows, sum_around
from spikedata.analysis.trains import flat_blocks
from spikedata.bits import TICKS_PER_GROUP, group_count
from spikedata.plugins import find_function
from spikedata.stream import SpikeSource, SpikeStream

METHODS = ("tfp", "tfi", "adaptive")
REACH_TICKS = 512
"""Intervals are looked for so far back and ahead."""
_LONG_TICKS = 4096
"""Longer windows are counted piece by piece, if they have nothing in common."""
_READ_GROUPS = 64
"""Groups read at a time where pictures follow each other closely."""

Rates = NDArray[np.float32]
Reconstructor = Callable[[NDArray[np.uint8]], Any]
"""Takes the planes of a window, uint8 0/1 (window_ticks, H, W); gives the picture at its middle,
(H, W), in spikes a tick."""


def reconstruct(
    source: SpikeSource,
    method: str | Reconstructor = "tfp",
    *,
    window_ticks: int = 32,
    start: int = 0,
    ticks: int | None = None,
    step_ticks: int | None = None,
    reach_ticks: int = REACH_TICKS,
) -> Rates:
    """Pictures of the light that spikes recorded; all in memory.

    Args:
        source: a stream, a recording, a clip; of one that can be read anywhere, only what is needed
            is read.
        method: ``tfp``, ``tfi``, ``adaptive``, or the name of a function of yours,
            ``package.module:function``, or the function itself: it takes the planes of a window,
            uint8 0/1 (window_ticks, H, W), and gives (H, W) spikes a tick. A function that is
            named is run: take no name from a file that is not yours.
        window_ticks: ticks of a picture's window, at most those given: what TFP counts, the longest
            that ``adaptive`` does; TFI shows its middle tick.
        start: first tick of the first window.
        ticks: in how many all windows lie; to the end if None.
        step_ticks: from one window to the next; ``window_ticks`` if None.
        reach_ticks: how far TFI looks back and ahead, outside the windows too. A pixel whose
            interval is not seen whole gets the highest rate that fits what is seen.

    Returns:
        rate_nhw: float32 (N, H, W), spikes a tick.

    Raises:
        ValueError: a number is not positive, or the ticks are not the source's.
        SpikeDataError: there is no such function, or the source is damaged.
    """
    firsts, window_ticks = _windows(source, window_ticks, start, ticks, step_ticks)
    frames = pictures_at(source, method, firsts, window_ticks, reach_ticks)
    rate_nhw = np.empty((len(firsts), source.height_px, source.width_px), np.float32)
    for n, (_, rate_hw) in enumerate(frames):
        rate_nhw[n] = rate_hw
    return rate_nhw


def reconstruct_frames(
    source: SpikeSource,
    method: str | Reconstructor = "tfp",
    *,
    window_ticks: int = 32,
    start: int = 0,
    ticks: int | None = None,
    step_ticks: int | None = None,
    reach_ticks: int = REACH_TICKS,
) -> Iterator[tuple[int, Rates]]:
    """The pictures of :func:`reconstruct` one by one, in memory that does not grow.

    Args:
        source: as for :func:`reconstruct`, like all others.
        method: likewise.
        window_ticks: likewise.
        start: likewise.
        ticks: likewise.
        step_ticks: likewise.
        reach_ticks: likewise.

    Returns:
        An iterator of ``(tick, rate_hw)``: the middle tick of each window, counted from the start
        of the source, and its picture, float32 (H, W).

    Raises:
        ValueError: as for :func:`reconstruct`.
        SpikeDataError: likewise.
    """
    firsts, window_ticks = _windows(source, window_ticks, start, ticks, step_ticks)
    return pictures_at(source, method, firsts, window_ticks, reach_ticks)


def _windows(
    source: SpikeSource, window_ticks: int, start: int, ticks: int | None, step_ticks: int | None
) -> tuple[range, int]:
    """First ticks of the windows, and their length."""
    ticks = source.ticks - start if ticks is None else ticks
    step_ticks = window_ticks if step_ticks is None else step_ticks
    if min(window_ticks, step_ticks) < 1:
        raise ValueError(
            f"window_ticks and step_ticks must be at least 1, got {window_ticks} and {step_ticks}"
        )
    if start < 0 or ticks < 1 or start + ticks > source.ticks:
        raise ValueError(
            f"ticks {start} to {start + ticks} are not inside the source's {source.ticks}"
        )
    window_ticks = min(window_ticks, ticks)
    return range(start, start + ticks - window_ticks + 1, step_ticks), window_ticks


def pictures_at(
    source: SpikeSource,
    method: str | Reconstructor,
    firsts: Sequence[int],
    window_ticks: int,
    reach_ticks: int = REACH_TICKS,
) -> Iterator[tuple[int, Rates]]:
    """A picture of each window, given by its first tick, in order; see :func:`reconstruct`."""
    if not 1 <= reach_ticks <= bits.MOST_REACH_TICKS:
        raise ValueError(f"reach_ticks must be 1 to {bits.MOST_REACH_TICKS}, got {reach_ticks}")
    pixels = _room(source)
    method = find_method(method) if isinstance(method, str) else method
    picture: _Picture
    apart = all(b - a >= window_ticks for a, b in itertools.pairwise(firsts))
    if method == "tfp" and apart and window_ticks > _LONG_TICKS:
        return _long_exposures(source, firsts, window_ticks)
    if method == "tfp":
        picture = _Playback(pixels, window_ticks)
    elif method == "tfi":
        picture = _Interval(pixels, window_ticks, reach_ticks, source.ticks)
    elif method == "adaptive":
        picture = _Adaptive(source, window_ticks, reach_ticks)
    else:
        picture = _Named(source, window_ticks, method)
    return _drawn(source, picture, firsts, window_ticks)


def find_method(name: str) -> str | Reconstructor:
    """One of :data:`METHODS` as it is; else the function that ``package.module:function`` names.

    Raises:
        SpikeDataError: no such module or function, or the module cannot be imported.
    """
    return name if name in METHODS else find_function(name, "picture", ", ".join(METHODS))


class _Picture(Protocol):
    """A way to make pictures of windows that come in order."""

    def span(self, first: int) -> tuple[int, int]:
        """The ticks it must see for the window from ``first`` on."""

    def at(self, first: int, packed_gp: NDArray[np.uint8], base: int) -> Rates:
        """The picture (P,), or longer; ``base`` is the tick of the groups' first bit."""


def _drawn(
    source: SpikeSource, picture: _Picture, firsts: Sequence[int], window_ticks: int
) -> Iterator[tuple[int, Rates]]:
    height, width = source.height_px, source.width_px
    groups = _held_groups(source, _spans(picture, firsts, window_ticks))
    for first, (packed_gp, base) in zip(firsts, groups, strict=True):
        rate_p = picture.at(first, packed_gp, base)
        yield first + window_ticks // 2, rate_p[: height * width].reshape(height, width)


def _long_exposures(
    source: SpikeSource, firsts: Sequence[int], window_ticks: int
) -> Iterator[tuple[int, Rates]]:
    """TFP pictures of windows too long to be held, which have no tick in common."""
    height, width = source.height_px, source.width_px
    total_p, part_p = np.zeros((2, _room(source)), np.int32)
    parts = [
        (begin, min(begin + _LONG_TICKS, first + window_ticks))
        for first in firsts
        for begin in range(first, first + window_ticks, _LONG_TICKS)
    ]
    last_ticks = {first + window_ticks: first for first in firsts}
    groups = _held_groups(source, ((begin, end, end) for begin, end in parts))
    for (begin, end), (packed_gp, base) in zip(parts, groups, strict=True):
        bits.move_count(packed_gp, (0, 0), (begin - base, end - base), part_p)
        total_p += part_p
        if end in last_ticks:
            rate_p = (total_p[: height * width] / window_ticks).astype(np.float32)
            yield last_ticks[end] + window_ticks // 2, rate_p.reshape(height, width)
            total_p[:] = 0


def _spans(
    picture: _Picture, firsts: Sequence[int], window_ticks: int
) -> Iterator[tuple[int, int, int]]:
    """For each picture the ticks it must see, and the tick up to which the next ones need more."""
    for i, first in enumerate(firsts):
        begin, end = picture.span(first)
        old = firsts[i - 1] if i else first
        if old < first < old + window_ticks:  # what leaves a count is looked at too
            begin = min(begin, old)
        follows = i + 1 < len(firsts) and picture.span(firsts[i + 1])[0] <= end
        yield begin, end, picture.span(firsts[-1])[1] if follows else end


def _room(source: SpikeSource) -> int:
    """P, made a multiple of eight."""
    return -(-source.height_px * source.width_px // 8) * 8


class _Count:
    """The spikes of a window that moves."""

    def __init__(self, pixels: int, ticks: int) -> None:
        self._count_p = np.zeros(pixels, np.int32)
        self._ticks, self._counted = ticks, (0, 0)

    def at(self, first: int, packed_gp: NDArray[np.uint8], base: int) -> NDArray[np.int32]:
        """int32 (P,), changed by the next call."""
        old, old_end = self._counted
        window = (first - base, first - base + self._ticks)
        bits.move_count(packed_gp, (old - base, old_end - base), window, self._count_p)
        self._counted = (first, first + self._ticks)
        return self._count_p


class _Playback:
    def __init__(self, pixels: int, window_ticks: int) -> None:
        self._ticks, self._count = window_ticks, _Count(pixels, window_ticks)
        self._rate_of_count = (np.arange(window_ticks + 1) / window_ticks).astype(np.float32)

    def span(self, first: int) -> tuple[int, int]:
        return first, first + self._ticks

    def at(self, first: int, packed_gp: NDArray[np.uint8], base: int) -> Rates:
        return self._rate_of_count.take(self._count.at(first, packed_gp, base))


class _Interval:
    def __init__(self, pixels: int, window_ticks: int, reach_ticks: int, ticks: int) -> None:
        self._middle, self._reach, self._ticks = window_ticks // 2, reach_ticks, ticks
        self._interval_p = np.empty(pixels, np.int32)
        self._rate_of_interval = np.zeros(2 * reach_ticks + 3, np.float32)
        self._rate_of_interval[1:] = 1 / np.arange(1, 2 * reach_ticks + 3)

    def span(self, first: int) -> tuple[int, int]:
        tick = first + self._middle
        return max(0, tick - self._reach), min(self._ticks, tick + self._reach + 1)

    def at(self, first: int, packed_gp: NDArray[np.uint8], base: int) -> Rates:
        begin, end = self.span(first)
        tick, seen = first + self._middle - base, (begin - base, end - base)
        bits.find_intervals(packed_gp, tick, seen, self._interval_p)
        return self._rate_of_interval.take(self._interval_p)


class _Adaptive:
    def __init__(self, source: SpikeSource, window_ticks: int, reach_ticks: int) -> None:
        self._shape_hw = (source.height_px, source.width_px)
        pixels = _room(source)
        self._interval = _Interval(pixels, window_ticks, reach_ticks, source.ticks)
        self._ticks = window_ticks
        self._halves = [
            (begin, half, _Count(pixels, half), _Count(pixels, half))
            for begin, half in nested_windows(0, window_ticks)
        ]

    def span(self, first: int) -> tuple[int, int]:
        begin, end = self._interval.span(first)
        return min(begin, first), max(end, first + self._ticks)

    def at(self, first: int, packed_gp: NDArray[np.uint8], base: int) -> Rates:
        rate_hw = self._as_picture(self._interval.at(first, packed_gp, base))
        for begin, half, earlier, later in reversed(self._halves):
            counts_p = earlier.at(first + begin, packed_gp, base)
            later_p = later.at(first + begin + half, packed_gp, base)
            change_hw = self._as_picture(later_p - counts_p)
            still_hw = np.abs(sum_around(change_hw)) <= MOST_DIFFERENCE
            mean_p = ((counts_p + later_p) / (2 * half)).astype(np.float32)
            np.copyto(rate_hw, self._as_picture(mean_p), where=still_hw)
        return rate_hw.reshape(-1)

    def _as_picture(self, value_p: NDArray[Any]) -> NDArray[Any]:
        height, width = self._shape_hw
        return value_p[: height * width].reshape(height, width)


class _Named:
    """Pictures by a function of the user's; it sees its window unpacked."""

    def __init__(self, source: SpikeSource, window_ticks: int, function: Any) -> None:
        self._shape_thw = (window_ticks, source.height_px, source.width_px)
        self._function = function

    def span(self, first: int) -> tuple[int, int]:
        return first, first + self._shape_thw[0]

    def at(self, first: int, packed_gp: NDArray[np.uint8], base: int) -> Rates:
        ticks, height, width = self._shape_thw
        planes_tp = bits.unpack_window(packed_gp, first - base, ticks)[:, : height * width]
        made: Any = self._function(planes_tp.reshape(self._shape_thw))
        rate_hw = np.asarray(made)
        fits = rate_hw.shape == self._shape_thw[1:] and rate_hw.dtype.kind in "fiub"
        if not fits or not np.isfinite(rate_hw).all():
            raise ValueError(
                f"the function must give finite numbers {self._shape_thw[1:]} (H, W), got "
                f"{rate_hw.dtype} {rate_hw.shape}"
            )
        return rate_hw.astype(np.float32).reshape(-1)


def _held_groups(
    source: SpikeSource, spans: Iterable[tuple[int, int, int]]
) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """For each span of ticks, in order, the groups (g, P) that hold it, and their first tick.

    What makes P a multiple of eight is all ones, where no spike need be looked for.
    """
    read, pixels = _reader(source), source.height_px * source.width_px
    held_gp, at = np.empty((0, _room(source)), np.uint8), 0
    for first, end, later_end in spans:
        held_end, end_group = at + len(held_gp), group_count(end)
        if end_group > held_end:
            kept_gp = held_gp[max(0, first // TICKS_PER_GROUP - at) :]
            begin = max(first // TICKS_PER_GROUP, held_end)
            # On to where chunks of stores are likely to end.
            ahead = -(-max(end_group, begin + 1) // _READ_GROUPS) * _READ_GROUPS
            end_group = max(end_group, min(ahead, group_count(later_end)))
            at = begin - len(kept_gp)
            held_gp = np.full((end_group - at, _room(source)), 255, np.uint8)
            held_gp[: len(kept_gp)] = kept_gp
            np.concatenate(read(begin, end_group), out=held_gp[len(kept_gp) :, :pixels])
        yield held_gp, at * TICKS_PER_GROUP


def _reader(source: SpikeSource) -> Callable[[int, int], list[NDArray[np.uint8]]]:
    """What reads groups ``begin`` to ``end``, never before those read last, in parts (g, P)."""
    if isinstance(source, SpikeStream):
        flat_gp = np.ascontiguousarray(source.packed_ghw).reshape(len(source.packed_ghw), -1)
        return lambda begin, end: [flat_gp[begin:end]]
    read: Callable[[int, int], SpikeStream] | None = getattr(source, "read", None)
    if read is None or "start" not in inspect.signature(read).parameters:
        return _BlockReader(source).read

    def seek(begin: int, end: int) -> list[NDArray[np.uint8]]:
        first = begin * TICKS_PER_GROUP
        packed_ghw = read(first, min(source.ticks, end * TICKS_PER_GROUP) - first).packed_ghw
        return [packed_ghw.reshape(len(packed_ghw), -1)]

    return seek


class _BlockReader:
    """Reads on through a source that has blocks alone."""

    def __init__(self, source: SpikeSource) -> None:
        self._blocks = flat_blocks(source)
        self._at, self._block_gp = 0, np.empty((0, 0), np.uint8)

    def read(self, begin: int, end: int) -> list[NDArray[np.uint8]]:
        parts = []
        while begin < end:
            if begin >= self._at + len(self._block_gp):
                tick, self._block_gp = next(self._blocks)
                self._at = tick // TICKS_PER_GROUP
                continue
            part_gp = self._block_gp[begin - self._at : end - self._at]
            parts.append(part_gp)
            begin += len(part_gp)
        return parts
