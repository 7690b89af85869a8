"""Rank the layouts that a camera file may have by what its content says."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikedata.camera import CAMERAS, Camera, find_camera, read_recording
from spikedata.errors import RecordingError
from spikedata.layouts.candidates import (
    KNOWN_SIZES_HW,
    LayoutCandidate,
    Verdict,
    key_of,
    known_cameras,
    plain_camera,
)
from spikedata.layouts.evidence import (
    Stretch,
    find_plane_bytes,
    has_padding,
    likely_widths,
    neighbours,
    picture_of,
)

_SAMPLE_BYTES = 1 << 21
"""Looked at in a file: 160 ticks of 250x400."""
_CHECK_BYTES = 1 << 18
"""Looked at to check a layout that was given: 20 ticks of 250x400."""
_PLANE_BYTES = range(32, 1 << 19)
"""Planes that are looked for: at least 16x16, at most 4 million pixels."""
_MOST_SIZES = 4
"""Plane sizes tried where no rest after spikes shows the right one."""
_MOST_WIDTHS = 4
"""Row widths tried for a plane size."""
_MOST_CANDIDATES = 12
_WRONG_PLANE = 0.5
"""Factor on the score where planes have another size than the pixels' rest shows."""
_WRONG_ROW = 0.9
"""Factor where a row has pixels that are no picture, or a plane shows a picture several times."""

_CERTAIN, _LIKELY = 0.9, 0.7
_LEAST_SCORE, _CERTAIN_SCORE = 0.02, 0.3
_LEAST_LEAD = 0.001
"""Of the score over that of the next, for a certain one."""


def rank_layouts(
    path: Path | str, *, cameras: Sequence[str | Camera] | None = None
) -> tuple[LayoutCandidate, ...]:
    """Layouts that a camera file may have, best first, judged by a bounded part of its content.

    Only what fits the file's length is ranked: all known cameras, sizes common in the field, and
    what the content shows of its own planes and rows. Which row is the top one is not to be told
    from bits: each picture is turned as its camera's are. Files that tell their own layout, NumPy
    archives and 1000x1000 frames with markers, have that as the one candidate.

    Args:
        path: a camera file.
        cameras: rank these alone.

    Returns:
        At most 12 candidates.

    Raises:
        RecordingError: the file cannot be read, or no layout fits it.
    """
    path = Path(path)
    given = None if cameras is None else [_camera(camera) for camera in cameras]
    told = _told_by_file(path, given)
    if told:
        return told
    size = _size(path)
    known = known_cameras() if given is None else given
    known = [camera for camera in known if camera.layout == "planes" and _fits(camera, size)]
    sizes = [] if given is not None else _plane_sizes(size, _SAMPLE_BYTES // 2)
    if not known and not sizes:
        raise RecordingError(f"{path}: no layout has planes of which {size:,} bytes are whole ones")
    ranking = _rank(_stretch(path, 0, _SAMPLE_BYTES), size, known, sizes)
    if ranking.verdict == "cannot tell" and size > 2 * _SAMPLE_BYTES:
        later = _rank(_stretch(path, size // 2, _SAMPLE_BYTES), size, known, sizes)
        ranking = max(ranking, later, key=lambda found: found.certainty * found.score(0))
    return ranking.candidates()


def better_layout(
    path: Path | str, camera: str | Camera
) -> tuple[LayoutCandidate, LayoutCandidate] | None:
    """Whether the content of a file says clearly that it has another layout than the one given.

    Only a quarter of a megabyte at its start is read, or four planes.

    Args:
        path: a ``.dat`` file.
        camera: how it is about to be read.

    Returns:
        The layout given and the better one; None if there is no certain one, or it is the one
        given, or the same but for the order of rows.

    Raises:
        RecordingError: the file cannot be read.
    """
    path, camera = Path(path), _camera(camera)
    if camera.layout != "planes" or camera.height_px is None:
        return None
    size = _size(path)
    if not _fits(camera, size):
        return None
    known = {key_of(found): found for found in known_cameras() if _fits(found, size)}
    known.setdefault(key_of(camera), camera)
    stretch = _stretch(path, 0, max(_CHECK_BYTES, 4 * camera.plane_bytes))
    ranking = _rank(stretch, size, known.values(), [camera.plane_bytes])
    mine = ranking.place_of(camera)
    if ranking.verdict != "certain" or mine is None or mine == 0:
        return None
    return ranking.candidate(mine), ranking.candidate(0)


def _camera(camera: str | Camera) -> Camera:
    return find_camera(camera) if isinstance(camera, str) else camera


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error


def _stretch(path: Path, start: int, length: int) -> Stretch:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            return Stretch(start, np.frombuffer(file.read(length), np.uint8))
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error


def _fits(camera: Camera, size: int) -> bool:
    return bool(size) and size % camera.plane_bytes == 0


def _plane_sizes(size: int, most: int) -> list[int]:
    """Bytes a plane may have, ascending: divisors of a file's size."""
    low_n = np.arange(1, math.isqrt(size) + 1)
    low_n = low_n[size % low_n == 0]
    found = sorted({*low_n.tolist(), *(size // low_n).tolist()})
    return [n for n in found if n in _PLANE_BYTES and n <= most]


# --- files that tell ----------------------------------------------------------------------------


def _told_by_file(path: Path, cameras: Sequence[Camera] | None) -> tuple[LayoutCandidate, ...]:
    """The layouts of a file that tells its own, and of these alone the ones asked for."""
    head = _stretch(path, 0, _CHECK_BYTES)
    if _has_markers(head):
        names = ["sps100"]
    elif bytes(head.data_n[:4]) in (b"PK\x03\x04", b"PK\x05\x06"):
        names = [name for name, camera in CAMERAS.items() if camera.height_px is None]
    else:
        return ()
    tried = [CAMERAS[name] for name in names]
    if cameras is not None:
        asked = {camera.name for camera in cameras}
        tried = [camera for camera in tried if camera.name in asked]
    found, told = [], "no camera asked for has such files"
    for camera in tried:
        try:
            found.append(_read_with(path, camera))
        except RecordingError as error:
            told = str(error)
    if not found:
        raise RecordingError(told if told.startswith(str(path)) else f"{path}: {told}")
    return _Ranking(_sorted(found)).candidates()


def _has_markers(head: Stretch) -> bool:
    """Whether some 64 bytes end, one after another, in line numbers that go up or down by one."""
    data_n = head.data_n[: 128 * 64].astype(np.int64)
    words_n = data_n[:-1] | data_n[1:] << 8
    for phase in range(64):
        lines_n = words_n[phase::64] >> 4 & 0x3FF
        steps_n = np.abs(lines_n[2:] - lines_n[:-2]) == 1
        if len(steps_n) > 16 and steps_n.mean() > 0.75:
            return True
    return False


def _read_with(path: Path, camera: Camera) -> "_Looked":
    """What a file that is no row of plain planes shows, read as its camera's."""
    recording = read_recording(path, camera)
    ticks = 0
    count_hw = np.zeros((recording.height_px, recording.width_px), np.float32)
    for packed_ghw in recording.blocks():
        count_hw += np.bitwise_count(packed_ghw).sum(axis=0, dtype=np.uint16)
        ticks += 8 * len(packed_ghw)
        if ticks >= _MOST_READ:
            break
    picture_hw = count_hw / np.float32(min(ticks, recording.ticks))
    return _Looked(
        camera, recording.ticks, picture_hw, neighbours(picture_hw), 1.0, "the file says so"
    )


_MOST_READ = 64
"""Ticks that are enough of a file that tells its layout."""


# --- files that do not --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Looked:
    """A layout and what it makes of the stretch."""

    camera: Camera
    ticks: int
    picture_hw: NDArray[np.float32]
    """Spikes a tick, rows in the order of the file, or upright where the file was read."""
    alike_s2: NDArray[np.float64]
    """Covariance of neighbours to the right and below, by strips."""
    factor: float
    note: str = ""

    @property
    def value(self) -> float:
        """What it is ranked by."""
        return float(self.alike_s2.mean()) * self.factor

    @property
    def plane_bytes(self) -> int:
        """Of a plane in the file; 0 where the file tells."""
        return self.camera.plane_bytes if self.camera.layout == "planes" else 0

    def ahead_of(self, other: "_Looked") -> float:
        """Share of the strips in which it is better."""
        return _wins(
            self.alike_s2.mean(axis=1) * self.factor, other.alike_s2.mean(axis=1) * other.factor
        )

    def is_contradicted_by(self, other: "_Looked", least: float) -> bool:
        """Whether the other one is clearly better in one of the two directions."""
        if (other.factor, other.plane_bytes) != (self.factor, self.plane_bytes):
            return False
        return any(
            _wins(other.alike_s2[:, axis], self.alike_s2[:, axis]) >= _CERTAIN
            and (other.alike_s2[:, axis].mean() - self.alike_s2[:, axis].mean()) > least
            for axis in (0, 1)
        )

    def picture(self) -> NDArray[np.uint8]:
        """Grey levels, turned as the camera's rows are."""
        turned = self.camera.bottom_up and self.camera.layout == "planes"
        rate_hw = self.picture_hw[::-1] if turned else self.picture_hw
        white = float(np.percentile(rate_hw, 99.5)) or 1.0
        return np.rint(np.clip(rate_hw / white, 0, 1) * 255).astype(np.uint8)


def _wins(mine_s: NDArray[np.float64], other_s: NDArray[np.float64]) -> float:
    count = min(len(mine_s), len(other_s))
    wins_s = mine_s[:count] - other_s[:count]
    return float(((wins_s > 0) + 0.5 * (wins_s == 0)).mean())


class _Ranking:
    """Layouts, best first, and what is certain."""

    def __init__(self, ranked: list[_Looked]) -> None:
        self.ranked = ranked
        best, others = ranked[0], ranked[1:]
        self.variance = float(best.picture_hw.var()) or 1.0
        self.certainty = min((best.ahead_of(other) for other in others[:3]), default=1.0)
        self.verdict = self._verdict()

    def _verdict(self) -> Verdict:
        if self.score(0) < _LEAST_SCORE or self.certainty < _LIKELY:
            return "cannot tell"
        best, others = self.ranked[0], self.ranked[1:]
        least = _LEAST_LEAD * self.variance
        if others and best.value - others[0].value < least:
            return "likely"
        if any(best.is_contradicted_by(other, least) for other in others):
            return "likely"
        sure = self.certainty >= _CERTAIN and self.score(0) >= _CERTAIN_SCORE
        return "certain" if sure else "likely"

    def score(self, place: int) -> float:
        return self.ranked[place].value / self.variance

    def place_of(self, camera: Camera) -> int | None:
        keys = [key_of(looked.camera) for looked in self.ranked]
        return keys.index(key_of(camera)) if key_of(camera) in keys else None

    def candidate(self, place: int) -> LayoutCandidate:
        """As it is given to the caller."""
        looked = self.ranked[place]
        picture_hw = looked.picture()
        return LayoutCandidate(
            camera=looked.camera,
            ticks=looked.ticks,
            height_px=picture_hw.shape[0],
            width_px=picture_hw.shape[1],
            score=self.score(place),
            certainty=looked.ahead_of(self.ranked[0]) if place else self.certainty,
            verdict="cannot tell" if place else self.verdict,
            note=looked.note,
            picture_hw=picture_hw,
        )

    def candidates(self) -> tuple[LayoutCandidate, ...]:
        """All of them, but for the last of many."""
        return tuple(map(self.candidate, range(min(len(self.ranked), _MOST_CANDIDATES))))


def _rank(stretch: Stretch, size: int, known: Iterable[Camera], sizes: list[int]) -> _Ranking:
    by_plane: dict[int, list[Camera]] = {}
    for camera in known:
        by_plane.setdefault(camera.plane_bytes, []).append(camera)
    plane = find_plane_bytes(stretch, sorted({*sizes, *by_plane}))
    searched = [plane] if plane in sizes else []
    if plane is None:
        same = {n: stretch.sameness(n) for n in sizes}
        searched = sorted(same, key=lambda n: -same[n])[:_MOST_SIZES]
    found: list[_Looked] = []
    for n in sorted({*by_plane, *searched}):
        cameras = by_plane.get(n, [])
        found += _look(stretch, size // n, n, cameras, search=n in searched)
    if plane is None:
        found = _less_where_repeated(found)
    else:
        found = [_halved_unless(looked, plane) for looked in found]
    return _Ranking(_sorted(found))


def _look(
    stretch: Stretch, ticks: int, plane_bytes: int, cameras: Sequence[Camera], *, search: bool
) -> list[_Looked]:
    """All cameras with planes of one size; and if ``search``, those of the likeliest widths."""
    rates_b = stretch.rates(plane_bytes)
    padded = [camera for camera in cameras if camera.row_bytes is not None]
    notes: dict[str, str] = {}
    for camera in padded:
        rates_b = _without_padding(rates_b, camera, notes)
    by_key = {key_of(camera): camera for camera in cameras}
    if search:
        for width in likely_widths(rates_b, plane_bytes, most=_MOST_WIDTHS):
            for order in ("little", "big"):
                camera = plain_camera(plane_bytes * 8 // width, width, order)
                by_key.setdefault(key_of(camera), camera)
    found = []
    for camera in by_key.values():
        picture_hw = picture_of(rates_b, camera)
        note = notes.get(camera.name, notes.get("", "") if camera.row_bytes is None else "")
        factor = _WRONG_ROW if note else 1.0
        found.append(_Looked(camera, ticks, picture_hw, neighbours(picture_hw), factor, note))
    return found


def _without_padding(
    rates_b: NDArray[np.float32], camera: Camera, notes: dict[str, str]
) -> NDArray[np.float32]:
    """Rates in which what follows the pixels of a row is grey, if it is no picture.

    Layouts that are wrong about it get a note: under "" those that take it for pixels.
    """
    assert camera.row_bytes is not None
    assert camera.width_px is not None
    row = camera.row_bytes * 8
    left = row - camera.width_px
    if not left:
        return rates_b
    if not has_padding(rates_b, row, camera.width_px):
        notes[camera.name] = f"leaves out {left} columns that look like picture"
        return rates_b
    notes[""] = f"takes {left} bits in {row} for pixels that are none"
    rows_hw = rates_b.reshape(-1, row).copy()
    rows_hw[:, camera.width_px :] = rows_hw[:, : camera.width_px].mean()
    return rows_hw.reshape(-1)


def _halved_unless(looked: _Looked, plane_bytes: int) -> _Looked:
    mine = looked.camera.plane_bytes
    if mine == plane_bytes:
        return looked
    times = mine // plane_bytes
    note = f"a plane would be {times} ticks" if times * plane_bytes == mine else "no whole ticks"
    return replace(looked, factor=looked.factor * _WRONG_PLANE, note=note)


def _less_where_repeated(found: list[_Looked]) -> list[_Looked]:
    """Planes that show what planes of a part of their size show as well count less."""
    best: dict[int, float] = {}
    for looked in found:
        n = looked.camera.plane_bytes
        best[n] = max(best.get(n, 0.0), looked.value)
    judged = []
    for looked in found:
        n = looked.camera.plane_bytes
        parts = [m for m in best if m < n and n % m == 0 and best[m] > 0.95 * best[n]]
        if parts:
            note = f"a plane would show the same {n // min(parts)} times"
            looked = replace(looked, factor=looked.factor * _WRONG_ROW, note=note)
        judged.append(looked)
    return judged


def _sorted(found: list[_Looked]) -> list[_Looked]:
    """Best first; a size known in the field goes before one that is not clearly better."""
    ranked = sorted(found, key=lambda looked: -looked.value)
    factor = ranked[0].factor
    known = next((x for x in ranked if _is_known(x.camera) and x.factor == factor), None)
    if known is None or known is ranked[0] or ranked[0].ahead_of(known) >= _LIKELY:
        return ranked
    return [known, *(looked for looked in ranked if looked is not known)]


def _is_known(camera: Camera) -> bool:
    return camera.name in CAMERAS or (camera.height_px, camera.width_px) in KNOWN_SIZES_HW
