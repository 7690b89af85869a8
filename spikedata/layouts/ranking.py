"""Rank the layouts that a camera file may have by what its content says."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikedata.camera import Camera, find_camera
from spikedata.errors import RecordingError
from spikedata.layouts.candidates import LayoutCandidate, key_of, known_cameras, plain_camera
from spikedata.layouts.evidence import (
    Stretch,
    find_plane_bytes,
    has_padding,
    likely_widths,
    neighbours,
    picture_of,
    size_of,
    stretch_of,
)
from spikedata.layouts.judging import Looked, Ranking
from spikedata.layouts.telling import looked_as_told

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
_WRONG_PLANE = 0.5
"""Factor on the score where planes have another size than the pixels' rest shows."""
_WRONG_ROW = 0.9
"""Factor where a row has pixels that are no picture, or a plane shows a picture several times."""


def rank_layouts(
    path: Path | str, *, cameras: Sequence[str | Camera] | None = None
) -> tuple[LayoutCandidate, ...]:
    """Layouts that a camera file may have, best first, judged by a bounded part of its content.

    Only what fits the file's length is ranked: all known cameras, sizes common in the field, and
    what the content shows of its own planes and rows. Which row is the top one is not to be told
    from bits: each picture is turned as its camera's are. Files that tell their own layout, arrays
    of NumPy and HDF5 and 1000x1000 frames with markers, are read as they say.

    Args:
        path: a camera file.
        cameras: rank these alone.

    Returns:
        At least one and at most 12 candidates.

    Raises:
        RecordingError: the file cannot be read, or no layout fits it.
        PackedSetError: it is a set of clips of ours.
    """
    path = Path(path)
    given = None if cameras is None else [as_camera(camera) for camera in cameras]
    told = looked_as_told(path, given)
    if told:
        return Ranking(told, sure_of_plane=True).candidates()
    size = size_of(path)
    known = known_cameras() if given is None else given
    known = [camera for camera in known if _fits(camera, size)]
    sizes = _plane_sizes(size) if given is None else []
    if not known and not sizes:
        raise RecordingError(f"{path}: {_why_none(path, size)}")
    ranking = _rank(stretch_of(path, 0, _SAMPLE_BYTES), size, known, sizes)
    if ranking.verdict == "cannot tell" and size > 2 * _SAMPLE_BYTES:
        later = _rank(stretch_of(path, size // 2, _SAMPLE_BYTES), size, known, sizes)
        ranking = max(ranking, later, key=lambda found: found.certainty * found.score(0))
    return ranking.candidates()


def better_layout(
    path: Path | str, camera: str | Camera
) -> tuple[LayoutCandidate, LayoutCandidate] | None:
    """Whether the content of a file says clearly that it has another layout than the one given.

    Where it does not, a quarter of a megabyte at the file's start is read, or four planes.

    Args:
        path: a ``.dat`` file.
        camera: how it is about to be read.

    Returns:
        The layout given and the better one; None if there is no certain one, or it is the one
        given, or the same but for the order of rows.

    Raises:
        RecordingError: the file cannot be read.
    """
    path, camera = Path(path), as_camera(camera)
    size = size_of(path)
    if not _fits(camera, size):
        return None
    given = {key_of(camera): camera}
    others = {key_of(found): found for found in known_cameras() if _fits(found, size)}
    known = list({**others, **given}.values())
    stretch = stretch_of(path, 0, max(_CHECK_BYTES, 4 * camera.plane_bytes))
    ranking = _rank(stretch, size, known, [camera.plane_bytes], alone=camera.plane_bytes)
    if ranking.verdict != "certain" or ranking.place_of(camera) == 0:
        return None
    # It is worth a second look, at more of the file and at every size.
    ranked = rank_layouts(path)
    best = ranked[0]
    if best.verdict != "certain" or key_of(best.camera) == key_of(camera):
        return None
    mine = [found for found in ranked if key_of(found.camera) == key_of(camera)]
    return (mine or rank_layouts(path, cameras=[camera]))[0], best


def as_camera(camera: str | Camera) -> Camera:
    """The camera, if need be by its name.

    Raises:
        RecordingError: no such camera.
    """
    return find_camera(camera) if isinstance(camera, str) else camera


def _fits(camera: Camera, size: int) -> bool:
    """Whether a file of this size holds whole planes of this camera."""
    return camera.layout == "planes" and size > 0 and size % camera.plane_bytes == 0


def _plane_sizes(size: int) -> list[int]:
    """Bytes a plane may have, ascending: divisors of a file's size, twice in what is looked at."""
    low_n = np.arange(1, math.isqrt(size) + 1)
    low_n = low_n[size % low_n == 0]
    found = sorted({*low_n.tolist(), *(size // low_n).tolist()})
    most = min(size, _SAMPLE_BYTES) // 2
    return [n for n in found if n in _PLANE_BYTES and n <= most]


def _why_none(path: Path, size: int) -> str:
    """What to tell of a file that no layout fits; near ones, if its planes show."""
    told = f"no layout has planes of which {size:,} bytes are whole ones"
    by_size = {camera.plane_bytes: camera for camera in reversed(known_cameras())}
    plane = find_plane_bytes(stretch_of(path, 0, _SAMPLE_BYTES), sorted(by_size))
    if plane is None:
        return told
    return (
        f"{told}. Its content looks like planes of {plane:,} bytes ({by_size[plane].name}), of "
        f"which {size % plane:,} are left over: it was cut off, or has a header"
    )


# --- looking ------------------------------------------------------------------------------------


def _rank(
    stretch: Stretch,
    size: int,
    known: Sequence[Camera],
    sizes: Sequence[int],
    *,
    alone: int | None = None,
) -> Ranking:
    """Look at known cameras and at what else planes of some sizes can be.

    Planes of ``alone`` bytes are looked at alone if they turn out to be the right ones.
    """
    by_plane: dict[int, list[Camera]] = {n: [] for n in sizes}
    for camera in known:
        by_plane.setdefault(camera.plane_bytes, []).append(camera)
    plane = find_plane_bytes(stretch, sorted(by_plane))
    searched = [] if plane is None else [plane]
    if plane is None:
        same = {n: stretch.sameness(n) for n in sizes}
        searched = sorted(same, key=lambda n: -same[n])[:_MOST_SIZES]
    found: list[Looked] = []
    for n, cameras in sorted(by_plane.items()):
        search = n in searched and n in sizes
        if (cameras or search) and (n == alone or plane is None or alone != plane):
            found += _look(stretch, size // n, n, cameras, search=search)
    if plane is None:
        found = _less_where_repeated(found)
    else:
        found = [_less_unless(looked, plane) for looked in found]
    return Ranking(found, sure_of_plane=plane is not None)


def _look(
    stretch: Stretch, ticks: int, plane_bytes: int, cameras: Sequence[Camera], *, search: bool
) -> list[Looked]:
    """All cameras with planes of one size; and if ``search``, those of the likeliest widths."""
    rates_b = stretch.rates(plane_bytes)
    notes: dict[str, str] = {}
    for camera in cameras:
        if camera.row_bytes is not None:
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
        note = notes.get(camera.name if camera.row_bytes else "", "")
        factor = _WRONG_ROW if note else 1.0
        found.append(Looked(camera, ticks, picture_hw, neighbours(picture_hw), factor, note))
    return found


def _without_padding(
    rates_b: NDArray[np.float32], camera: Camera, notes: dict[str, str]
) -> NDArray[np.float32]:
    """Rates in which what follows the pixels of a row is grey, if it is no picture.

    Layouts that are wrong about it get a note: under "" those that take it for pixels.
    """
    _, width = camera.size
    rows_hw = rates_b.reshape(-1, camera.row_bits).copy()
    left = camera.row_bits - width
    if not left:
        return rates_b
    if not has_padding(rows_hw, width):
        notes[camera.name] = f"leaves out {left} columns that look like picture"
        return rates_b
    notes[""] = f"takes {left} bits in {camera.row_bits} for pixels that are none"
    rows_hw[:, width:] = rows_hw[:, :width].mean()
    return rows_hw.reshape(-1)


def _less_unless(looked: Looked, plane_bytes: int) -> Looked:
    mine = looked.plane_bytes
    if mine == plane_bytes:
        return looked
    times = mine // plane_bytes
    note = f"a plane would be {times} ticks" if times * plane_bytes == mine else "no whole ticks"
    return replace(looked, factor=looked.factor * _WRONG_PLANE, note=note)


def _less_where_repeated(found: list[Looked]) -> list[Looked]:
    """Planes that show what planes of a part of their size show as well count less."""
    best: dict[int, float] = {}
    for looked in found:
        n = looked.plane_bytes
        best[n] = max(best.get(n, 0.0), looked.value)
    judged = []
    for looked in found:
        n = looked.plane_bytes
        parts = [m for m in best if m < n and n % m == 0 and best[m] > 0.95 * best[n]]
        if parts:
            note = f"a plane would show the same {n // min(parts)} times"
            looked = replace(looked, factor=looked.factor * _WRONG_ROW, note=note)
        judged.append(looked)
    return judged
