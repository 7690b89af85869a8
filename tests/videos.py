"""Videos whose every pixel the tests know."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""What PyAV before 19 needs to open a file whose metadata is not UTF-8."""


def write_video(
    path: Path,
    codes_nhw: NDArray[Any],
    *,
    codec: str = "ffv1",
    pix_fmt: str = "yuv420p",
    color_range: int = 0,
    rate: Fraction | int = 25,
    times_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    rotation: int = 0,
) -> Path:
    """Encode luma codes (N, H, W) as they are; chroma is grey.

    Args:
        color_range: 0 unspecified, 1 limited, 2 full.
        times_ms: when each frame is shown; evenly spaced if not given.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = codes_nhw.shape[1:]
        stream.pix_fmt = pix_fmt
        stream.codec_context.color_range = color_range
        stream.codec_context.thread_count = 1
        if codec == "mpeg4":
            stream.codec_context.bit_rate = 4_000_000
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
            stream.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, codes_hw in enumerate(codes_nhw):
            frame = grey_frame(codes_hw, pix_fmt)
            frame.color_range = color_range
            frame.pts = number if times_ms is None else times_ms[number]
            frame.time_base = 1 / Fraction(rate) if times_ms is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey_frame(codes_hw: NDArray[Any], pix_fmt: str) -> av.VideoFrame:
    """A frame with these luma codes in plane 0 and grey in the other planes."""
    height, width = codes_hw.shape
    frame = av.VideoFrame(width, height, pix_fmt)
    wide = codes_hw.dtype.itemsize
    for number, plane in enumerate(frame.planes):
        line = np.full((plane.buffer_size // plane.line_size, plane.line_size), 128, np.uint8)
        if wide == 2:
            line.view("<u2")[:] = 512
        if number == 0:
            line[:height, : width * wide] = codes_hw.view(np.uint8).reshape(height, -1)
        plane.update(line.tobytes())
    return frame


def gradient(frames: int = 6, height: int = 48, width: int = 70) -> NDArray[np.uint8]:
    """Every code from 0 to 255, moved a little from frame to frame, uint8 (N, H, W)."""
    y, x = np.mgrid[:height, :width]
    still_hw = y * width + x
    return np.stack([(still_hw + 7 * n) % 256 for n in range(frames)]).astype(np.uint8)


def numbered(frames: int, height: int = 16, width: int = 16) -> NDArray[np.uint8]:
    """Flat frames whose code is their number, uint8 (N, H, W)."""
    number = np.arange(frames, dtype=np.uint8)
    return np.broadcast_to(number[:, None, None], (frames, height, width)).copy()
