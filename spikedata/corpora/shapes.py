"""Draw a labelled corpus of moving shapes: real video files, no download.

Each class is a shape and a motion ("a square moves left"). Where a clip goes is told only by the
order of its frames: a track is drawn without knowing its direction, and two opposite motions run
along it in opposite order. A picture of mean brightness therefore tells horizontal from vertical,
never left from right.

Shapes: N frames, H rows, W columns.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.errors import CorpusError
from spikedata.outputs import put_into_place

SHAPES = ("square", "circle", "triangle")
MOTIONS = ("left", "right", "up", "down")
SHAPE_CLASSES = tuple(f"{shape}_moves_{motion}" for shape in SHAPES for motion in MOTIONS)
"""Class names, as :func:`draw_shapes` spells them."""

_CAPTION = "a {shape} moves {motion}"
_CODEC = "ffv1"  # lossless, and part of every FFmpeg: the file holds exactly what was drawn


def draw_shapes(
    root: Path | str,
    *,
    clips_per_class: int = 50,
    test_per_class: int = 10,
    size: tuple[int, int] = (48, 48),
    frames: int = 14,
    frame_rate: int = 30,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw moving shapes into a new folder of videos with a ``metadata.jsonl``.

    Every scene (a still background) is the ground of one clip of each class, and is one group:
    backgrounds say nothing of the class, and none is on both sides of the split.

    Args:
        root: folder to make; must not exist.
        clips_per_class: training clips of each of the 12 classes.
        test_per_class: held-out clips of each class.
        size: height and width of a frame, px; each even and at least 24.
        frames: frames of a clip, at least 2.
        frame_rate: frames a second.
        seed: same seed, same frames.
        progress: called with (clips done, clips in all) after each clip.

    Returns:
        ``root``, which then holds the whole corpus.

    Raises:
        CorpusError: ``root`` exists.
        ValueError: a size or count is too small.
    """
    root = Path(root)
    _check(clips_per_class, test_per_class, size, frames)
    if root.exists():
        raise CorpusError(f"{root}: already there. Name another folder, or remove this one")
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # what an interrupted call left
    scenes = clips_per_class + test_per_class
    rows = []
    for scene in range(scenes):
        split = "train" if scene < clips_per_class else "test"
        (partial / split).mkdir(parents=True, exist_ok=True)
        for row, luma_nhw in _scene_clips(scene, split, size, frames, seed):
            _write_video(partial / row["file_name"], luma_nhw, frame_rate)
            rows.append(row)
            if progress is not None:
                progress(len(rows), scenes * len(SHAPE_CLASSES))
    lines = (json.dumps(row, sort_keys=True) + "\n" for row in rows)
    (partial / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    put_into_place(partial, root)
    return root


def draw_directions(
    scene: int, *, size: tuple[int, int], frames: int, seed: int = 0
) -> dict[str, NDArray[np.uint8]]:
    """One scene in which order alone tells four clips apart: a shape moves along two tracks.

    Each track is run both ways, so the frames of one clip are those of another backwards. No
    picture without time tells left from right or up from down.

    Args:
        scene: its number; with ``seed`` it decides ground, shape and tracks.
        size: height and width of a frame, px; each at least 24.
        frames: frames of a clip, at least 2.
        seed: same seed, same frames.

    Returns:
        luma uint8 (N, H, W) of each of the motions ``left``, ``right``, ``up``, ``down``.
    """
    ground_hw = draw_ground(np.random.default_rng((seed, scene)), size)
    shape = SHAPES[scene % len(SHAPES)]
    clips = {}
    for axis, pair in enumerate((MOTIONS[:2], MOTIONS[2:])):
        for motion in pair:
            rng = np.random.default_rng((seed, scene, axis))
            clips[motion] = draw_clip(rng, ground_hw, shape=shape, motion=motion, frames=frames)
    return clips


def _check(clips_per_class: int, test_per_class: int, size: tuple[int, int], frames: int) -> None:
    if clips_per_class < 1 or test_per_class < 0:
        raise ValueError(
            f"need at least 1 training and 0 test clips, got {clips_per_class}, {test_per_class}"
        )
    if min(size) < 24 or any(side % 2 for side in size):
        raise ValueError(f"size must be even and at least 24x24, got {size[0]}x{size[1]}")
    if frames < 2:
        raise ValueError(f"frames must be at least 2 to show motion, got {frames}")


def _scene_clips(
    scene: int, split: str, size: tuple[int, int], frames: int, seed: int
) -> Iterator[tuple[dict[str, Any], NDArray[np.uint8]]]:
    ground_hw = draw_ground(np.random.default_rng((seed, scene)), size)
    for index, label in enumerate(SHAPE_CLASSES):
        shape, _, motion = label.split("_")
        rng = np.random.default_rng((seed, scene, 1 + index))
        row = {
            "file_name": f"{split}/s{scene:04d}_{label}.avi",
            "label": label,
            "captions": [_CAPTION.format(shape=shape, motion=motion)],
            "split": split,
            "group": f"scene{scene:04d}",
        }
        yield row, draw_clip(rng, ground_hw, shape=shape, motion=motion, frames=frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Track:
    """What is drawn of a clip before its direction is known."""

    radius_px: float
    tilt_rad: float
    light: float
    """Luma of the shape, 0..255."""
    across_px: float
    """Where it is on the axis it does not move along."""
    start_px: float
    """Where it is on its axis in the track's first frame; the motion may run it backwards."""
    step_px: float
    """Way between two frames, > 0."""


def draw_clip(
    rng: np.random.Generator,
    ground_hw: NDArray[np.float64],
    *,
    shape: str,
    motion: str,
    frames: int,
) -> NDArray[np.uint8]:
    """One clip: a shape crosses part of a still ground at constant speed.

    With the same ``rng`` state, opposite motions are each other reversed in time.

    Args:
        rng: decides size, tilt, brightness, place and speed, never the direction.
        ground_hw: luma (H, W), 0..255, as :func:`draw_ground` makes it.
        shape: one of ``SHAPES``.
        motion: one of ``MOTIONS``.
        frames: number of frames, N.

    Returns:
        luma_nhw: uint8 (N, H, W), full range.
    """
    vertical = motion in ("up", "down")
    height_px, width_px = ground_hw.shape
    along_px, side_px = (height_px, width_px) if vertical else (width_px, height_px)
    track = _draw_track(rng, ground_hw, along_px, side_px, frames)
    steps = np.arange(frames)[:: -1 if motion in ("left", "up") else 1]
    luma_nhw = np.empty((frames, height_px, width_px), np.uint8)
    for n, step in enumerate(steps):
        at_px = track.start_px + track.step_px * step
        y_px, x_px = (at_px, track.across_px) if vertical else (track.across_px, at_px)
        cover_hw = _cover(shape, track, y_px, x_px, height_px, width_px)
        luma_nhw[n] = np.rint(ground_hw + (track.light - ground_hw) * cover_hw)
    return luma_nhw


def _draw_track(
    rng: np.random.Generator,
    ground_hw: NDArray[np.float64],
    along_px: int,
    side_px: int,
    frames: int,
) -> _Track:
    """The shape stays whole inside the frame; its light differs well from the mean ground."""
    radius_px = min(along_px, side_px) * rng.uniform(0.18, 0.25)
    margin_px = 1.25 * radius_px + 1.5  # corners reach further than the radius, and are soft
    room_px = along_px - 2 * margin_px
    way_px = room_px * rng.uniform(0.6, 0.95)
    contrast = rng.uniform(60, 110) * rng.choice((-1.0, 1.0))
    mean = float(ground_hw.mean())
    light = mean + contrast if 20 <= mean + contrast <= 250 else mean - contrast
    return _Track(
        radius_px=radius_px,
        tilt_rad=rng.uniform(-0.2, 0.2),
        light=light,
        across_px=rng.uniform(margin_px, side_px - margin_px),
        start_px=margin_px + rng.uniform(0.0, room_px - way_px),
        step_px=way_px / (frames - 1),
    )


def _cover(
    shape: str, track: _Track, y_px: float, x_px: float, height_px: int, width_px: int
) -> NDArray[np.float64]:
    """Share of each pixel that the shape covers, (H, W), 0..1."""
    y_h1 = np.arange(height_px)[:, None] + 0.5 - y_px
    x_1w = np.arange(width_px)[None, :] + 0.5 - x_px
    cos, sin = np.cos(track.tilt_rad), np.sin(track.tilt_rad)
    u_hw, v_hw = cos * x_1w + sin * y_h1, cos * y_h1 - sin * x_1w
    radius_px = track.radius_px
    if shape == "circle":
        outside_hw = np.hypot(u_hw, v_hw) - radius_px
    elif shape == "square":
        outside_hw = np.maximum(abs(u_hw), abs(v_hw)) - 0.82 * radius_px
    else:  # triangle, point up
        slope_hw = 0.866 * abs(u_hw) - 0.5 * v_hw
        outside_hw = np.maximum(v_hw, slope_hw) - 0.62 * radius_px
    cover_hw: NDArray[np.float64] = np.clip(0.5 - outside_hw, 0.0, 1.0)
    return cover_hw


def draw_ground(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
    """A still background: a gradient, a soft texture and some clutter.

    Args:
        rng: decides everything.
        size: height and width, px.

    Returns:
        ground_hw: luma (H, W), 0..255.
    """
    height_px, width_px = size
    y_h1 = np.linspace(-0.5, 0.5, height_px)[:, None]
    x_1w = np.linspace(-0.5, 0.5, width_px)[None, :]
    angle = rng.uniform(0, 2 * np.pi)
    ground_hw: NDArray[np.float64] = rng.uniform(80, 170) + rng.uniform(0, 40) * (
        np.cos(angle) * x_1w + np.sin(angle) * y_h1
    )
    for _ in range(3):  # soft waves
        wave_y, wave_x = rng.normal(0, 8, 2)
        phase = rng.uniform(0, 2 * np.pi)
        ground_hw = ground_hw + rng.uniform(1, 5) * np.sin(wave_y * y_h1 + wave_x * x_1w + phase)
    for _ in range(rng.integers(2, 6)):  # still clutter: soft-edged bars and boxes
        at_y, at_x = rng.uniform(-0.5, 0.5, 2)
        half_y, half_x = rng.uniform(0.03, 0.25, 2)
        inside_hw = (abs(y_h1 - at_y) < half_y) & (abs(x_1w - at_x) < half_x)
        ground_hw = ground_hw + rng.uniform(-18, 18) * inside_hw
    return np.clip(ground_hw, 0.0, 255.0)


def _write_video(path: Path, luma_nhw: NDArray[np.uint8], frame_rate: int) -> None:
    import av  # noqa: PLC0415  # loads FFmpeg; only drawing needs an encoder here

    height_px, width_px = luma_nhw.shape[1:]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(_CODEC, rate=Fraction(frame_rate))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = height_px, width_px, "yuv420p"
        stream.codec_context.thread_count = 1
        frame = np.full((height_px * 3 // 2, width_px), 128, np.uint8)  # grey: chroma is 128
        for luma_hw in luma_nhw:
            frame[:height_px] = np.rint(luma_hw * (219 / 255) + 16)  # limited range
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="yuv420p")))
        container.mux(stream.encode(None))
