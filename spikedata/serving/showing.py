"""What the page shows of one clip: small pictures, the player's pictures, a pixel, its health.

Made when asked for, few at once, from as much of the clip as is shown; the newest are kept.

Shapes: N pictures, H rows, W columns.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from spikedata.analysis import Health, animate_clip, measure_health, reconstruct_frames
from spikedata.errors import SpikeDataError
from spikedata.layouts import LayoutCandidate, rank_layouts
from spikedata.serving.shelf import Shelf
from spikedata.stream import SpikeStream
from spikedata.wording import shown

KEPT_BYTES = 128 << 20
"""Of small pictures, the newest."""
SIDES_PX = (64, 128, 192, 256, 384)
"""Of small pictures; another side is the next larger one."""
METHODS = ("tfp", "tfi", "adaptive")
"""Ways to make the player's pictures; see :func:`spikedata.reconstruct`."""
MOST_PICTURES = 64
MOST_BATCH_BYTES = 32 << 20
"""Of pictures that the player asks for at once."""
MOST_WINDOW_TICKS = 8_192
MOST_PIXEL_TICKS = 16_384
_PIXEL_BLOCK_BYTES = 32 << 20
_KEPT_RESULTS = 8
"""Clips whose health is kept, and files whose layouts are."""
_REACH_PX = 1
"""Neighbours of a pixel that are shown with it, each way."""


class NotWantedError(Exception):
    """Whoever asked has gone."""


Key = tuple[Any, ...]
Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Values by key; the oldest go when all weigh more than ``most``.

    Args:
        most: sum of weights.
        weigh: weight of one value.
    """

    def __init__(self, most: int, weigh: Callable[[Value], int]) -> None:
        self._most, self._weigh = most, weigh
        self._held: OrderedDict[Key, Value] = OrderedDict()
        self._sum = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value, which is the newest then."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, unless it alone weighs too much."""
        with self._lock:
            if key in self._held:
                self._sum -= self._weigh(self._held.pop(key))
            self._held[key] = value
            self._sum += self._weigh(value)
            while self._sum > self._most:
                _, oldest = self._held.popitem(last=False)
                self._sum -= self._weigh(oldest)


class Showing:
    """Pictures of a shelf's clips.

    Args:
        shelf: where the clips are.
        at_once: pictures made at the same time, at most.
    """

    def __init__(self, shelf: Shelf, *, at_once: int) -> None:
        self._shelf = shelf
        self._kept: Kept[bytes] = Kept(KEPT_BYTES, len)
        self._healths: Kept[Health] = Kept(_KEPT_RESULTS, lambda _: 1)
        self._layouts: Kept[tuple[LayoutCandidate, ...]] = Kept(_KEPT_RESULTS, lambda _: 1)
        self._turn = threading.BoundedSemaphore(at_once)

    def thumbnail(
        self, clip_id: str, *, side_px: int, moving: bool, is_wanted: Callable[[], bool]
    ) -> bytes:
        """A small picture of a clip, WebP; a moving one is spread over all of it.

        Raises:
            NotWantedError: whoever asked went away before its turn.
            SpikeDataError: the clip is damaged.
        """
        stored = self._shelf.row(clip_id).stored
        side_px = next((side for side in SIDES_PX if side >= side_px), SIDES_PX[-1])
        side_px = min(side_px, max(stored.height_px, stored.width_px))  # browsers magnify as well
        key = (self._shelf.version, clip_id, side_px, moving)
        made = self._kept.get(key)
        if made is not None:
            return made
        with self._turn:
            if not is_wanted():
                raise NotWantedError
            pictures = {"pictures": 14 if moving else 1, "most_bytes": 20_000 + 200 * side_px}
            made = animate_clip(self._shelf.source, clip_id, side_px=side_px, **pictures)
        self._kept.put(key, made)
        return made

    def prepare(self) -> None:
        """Load what makes pictures, which takes a while, before the first is asked for."""
        first = next(iter(self._shelf.source.clips), None)
        if first is not None:
            self.stills([first], side_px=SIDES_PX[0], is_wanted=lambda: True)

    def stills(
        self, clip_ids: Sequence[str], *, side_px: int, is_wanted: Callable[[], bool]
    ) -> bytes:
        """Still pictures of several clips, each after its length, uint32, little-endian.

        A clip of which there is none has the length 0; asking for it alone tells why.

        Raises:
            NotWantedError: whoever asked went away.
        """
        parts = []
        for clip_id in clip_ids:
            made = b""
            with contextlib.suppress(SpikeDataError, KeyError):
                made = self.thumbnail(clip_id, side_px=side_px, moving=False, is_wanted=is_wanted)
            parts += [len(made).to_bytes(4, "little"), made]
        return b"".join(parts)

    def frames(
        self, clip_id: str, *, method: str, window_ticks: int, start: int, step: int, count: int
    ) -> bytes:
        """Pictures for the player: rates, uint16 (N, H, W), little-endian, 65535 a spike a tick.

        Fewer than asked for where the clip ends, or where they would be too large together.

        Raises:
            ValueError: a number does not fit.
            SpikeDataError: the clip is damaged.
        """
        stored = self._shelf.row(clip_id).stored
        window_ticks = min(window_ticks, stored.ticks)
        if not 1 <= window_ticks <= MOST_WINDOW_TICKS or not 0 <= start <= stored.ticks:
            raise ValueError(f"window 1 to {MOST_WINDOW_TICKS} and a tick of the clip, expected")
        if step < 1 or count < 1:
            raise ValueError("step and count must be positive")
        if method not in METHODS:  # a name of code is taken from the command line alone
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {shown(method)}")
        room = max(1, MOST_BATCH_BYTES // (2 * stored.height_px * stored.width_px))
        firsts = range(start, stored.ticks - window_ticks + 1, step)
        many = min(len(firsts), count, room, MOST_PICTURES)
        if not many:
            return b""
        span = {"start": start, "ticks": (many - 1) * step + window_ticks, "step_ticks": step}
        with self._turn:
            source = self._shelf.source.stream(clip_id)
            frames = reconstruct_frames(source, method, window_ticks=window_ticks, **span)
            return b"".join(_as_uint16(rate_hw) for _, rate_hw in frames)

    def pixel(self, clip_id: str, *, x: int, y: int, start: int, ticks: int) -> dict[str, Any]:
        """When a pixel and its neighbours fired, ticks ``start`` to ``start + ticks``.

        Raises:
            ValueError: the pixel or the ticks lie outside the clip.
            SpikeDataError: the clip is damaged.
        """
        stored = self._shelf.row(clip_id).stored
        height, width = stored.height_px, stored.width_px
        if not (0 <= x < width and 0 <= y < height and 0 <= start < stored.ticks and ticks > 0):
            raise ValueError("the pixel and the ticks must be within the clip")
        ticks = min(ticks, stored.ticks - start, MOST_PIXEL_TICKS)
        top, left = max(0, y - _REACH_PX), max(0, x - _REACH_PX)
        bottom, right = min(height, y + _REACH_PX + 1), min(width, x + _REACH_PX + 1)
        step = max(8, 8 * _PIXEL_BLOCK_BYTES // (height * width) // 8 * 8)
        parts = []
        with self._turn:
            for first in range(start, start + ticks, step):
                size = min(step, start + ticks - first)
                part = self._shelf.source.read(clip_id, first, size)
                near_ghw = np.ascontiguousarray(part.packed_ghw[:, top:bottom, left:right])
                parts.append(SpikeStream(near_ghw, size, part.tick_rate_hz).unpack())
        planes_thw = np.concatenate(parts)
        trains = [
            {"x": column, "y": row, "ticks": _fired(planes_thw[:, row - top, column - left], start)}
            for row in range(top, bottom)
            for column in range(left, right)
        ]
        return {"x": x, "y": y, "start": start, "ticks": ticks, "trains": trains}

    def health(self, clip_id: str) -> Health:
        """What :func:`spikedata.measure_health` says of a clip.

        Raises:
            SpikeDataError: the clip is damaged.
        """
        key = (self._shelf.version, clip_id)
        found = self._healths.get(key)
        if found is None:
            with self._turn:
                found = measure_health(self._shelf.source.stream(clip_id))
            self._healths.put(key, found)
        return found

    def rates(self, clip_id: str) -> bytes:
        """The rate map of a clip, uint16 (H, W), little-endian, 65535 a spike a tick."""
        return _as_uint16(self.health(clip_id).rate_hw)

    def marked(self, clip_id: str) -> bytes:
        """What is wrong with each pixel, uint8 (H, W): 0 nothing, 1 hot, 2 dead, 3 saturated."""
        health = self.health(clip_id)
        kind_hw = np.zeros(health.rate_hw.shape, np.uint8)
        for kind, mask_hw in enumerate((health.hot_hw, health.dead_hw, health.saturated_hw), 1):
            kind_hw[mask_hw] = kind
        return kind_hw.tobytes()

    def layouts(self, path: Path) -> tuple[LayoutCandidate, ...]:
        """What a file may be, best first; see :func:`spikedata.rank_layouts`.

        Raises:
            SpikeDataError: it cannot be read, or no layout fits it.
        """
        key = (self._shelf.version, path)
        found = self._layouts.get(key)
        if found is None:
            with self._turn:
                found = rank_layouts(path)
            self._layouts.put(key, found)
        return found


def _fired(train_t: NDArray[np.uint8], start: int) -> list[int]:
    return [int(tick) + start for tick in np.flatnonzero(train_t)]


def _as_uint16(rate_hw: NDArray[Any]) -> bytes:
    level_hw: NDArray[np.uint16] = np.rint(np.clip(rate_hw, 0.0, 1.0) * 65535).astype("<u2")
    return level_hw.tobytes()
