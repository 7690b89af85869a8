"""Clips as movies and sheets of pictures, with a clock and a scale.

White is one rate for all pictures of a movie or sheet: it is found first, from pictures spread over
what is shown. Only as much of a clip is read as is shown. Shapes: H rows, W columns.
"""

import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikedata.analysis.pictures import (
    CAPTION_PX,
    caption_font,
    check_white,
    lay_out,
    png_bytes,
    resized,
    ticks_shown,
    to_grey,
    white_rate,
)
from spikedata.analysis.reconstruction import Reconstructor, find_method, pictures_at
from spikedata.clips import ClipSource
from spikedata.errors import SpikeDataError
from spikedata.outputs import written_aside
from spikedata.remote import on_disk

_SHEET_PX = 320
"""Longer side of a picture on a sheet of one clip."""
_SHEET_PICTURES, _SHEET_COLUMNS = 8, 4
_SAMPLES = 8
"""Pictures that white is found from."""
_MOVIE_PX = 240
"""Small clips are magnified until their shorter side is at least this ..."""
_LONGEST_MOVIE_PX = 1920
"""... or until their longer side would be more than this."""
_SMALLEST_FONT_PX = 8
_CODECS = {
    ".gif": ("gif", "gray"),
    ".webp": ("libwebp_anim", "yuv420p"),
    ".mp4": ("libx264", "yuv420p"),
}
_SWIFT = {"libx264": {"preset": "veryfast"}, "libwebp_anim": {"compression_level": "2"}}
"""As large as by the encoders' own choice, in less than half the time; they take most of it."""
_ANIMATION_QUALITIES = (60, 40, 20, 5)
"""Of WebP, best first; the first that is small enough is taken."""


def view_clip(
    store: ClipSource,
    clip_id: str,
    out: Path | str,
    *,
    picture: str | Reconstructor = "tfp",
    start: int = 0,
    ticks: int | None = None,
    exposure_ticks: int = 32,
    step_ticks: int = 8,
    frame_rate: int = 25,
    white: float | None = None,
    plain: bool = False,
    overwrite: bool = False,
) -> Path:
    """Show a clip as a file, whose kind its suffix says.

    ``.png`` is one sheet of pictures spread over the clip; ``.gif``, ``.webp`` and ``.mp4`` are
    slow-motion movies, one picture every ``step_ticks``. Each tells its middle tick, the time of
    that, and the rate that is white, the same in all of them.

    Args:
        store: where the clip is.
        clip_id: which.
        out: file to write.
        picture: how pictures are made, as for :func:`~spikedata.reconstruct`.
        start: first tick shown.
        ticks: how many are shown; to the end if None.
        exposure_ticks: ticks of a picture's window, at most those shown.
        step_ticks: ticks from one picture of a movie to the next.
        frame_rate: its pictures a second.
        white: spikes a tick that are white; if None, what all but the brightest pixels reach.
        plain: write nothing beside the pictures.
        overwrite: replace ``out``, once the new one is whole.

    Returns:
        ``out``.

    Raises:
        ValueError: another suffix, or a number that is not positive.
        StoreError: there is no such clip, or it is shorter than asked for.
        SpikeDataError: ``out`` is there or cannot be written, or there is no such function.
    """
    out = on_disk(out)
    _check_shown(out, min(exposure_ticks, step_ticks, frame_rate), white)
    ticks = ticks_shown(store, clip_id, start, ticks)
    exposure_ticks = min(exposure_ticks, ticks)
    last = start + ticks - exposure_ticks
    shown = _Shown(store, clip_id, picture, exposure_ticks)
    with written_aside(out, overwrite=overwrite) as aside:
        if out.suffix == ".png":
            aside.write_bytes(png_bytes(shown.sheet(start, last, white, plain)))
        else:
            frames = shown.frames(range(start, last + 1, step_ticks), white, plain)
            _write_movie(frames, out, aside, frame_rate)
    return out


def _check_shown(out: Path, least: int, white: float | None) -> None:
    if out.suffix not in (".png", *_CODECS):
        raise ValueError(f"{out}: expected a name that ends in .png, {', '.join(_CODECS)}")
    if least < 1:
        raise ValueError("exposure_ticks, step_ticks and frame_rate must be at least 1")
    check_white(white)


class _Shown:
    """A clip, and how its pictures are made."""

    def __init__(
        self,
        store: ClipSource,
        clip_id: str,
        picture: str | Reconstructor,
        exposure_ticks: int,
    ) -> None:
        self._clip = store.stream(clip_id)
        self._method = find_method(picture) if isinstance(picture, str) else picture
        name = picture if isinstance(picture, str) else getattr(picture, "__name__", "function")
        self._made = name if name == "tfi" else f"{name} of {exposure_ticks} ticks"
        self._exposure_ticks = exposure_ticks

    def sheet(self, start: int, last: int, white: float | None, plain: bool) -> NDArray[np.uint8]:
        """Pictures that begin from ``start`` to ``last``, spread evenly, on one sheet."""
        firsts = _spread(start, last, _SHEET_PICTURES)
        ticks, rates = zip(*self._pictures(firsts), strict=True)
        white = white_rate(rates) if white is None else white
        tiles = [
            (to_grey(rate_hw, white), "" if plain else self._clock(tick))
            for tick, rate_hw in zip(ticks, rates, strict=True)
        ]
        note = None if plain else f"{self._clip.stored.id}: {self._made}, {_scale(white)}"
        return lay_out(tiles, columns=_SHEET_COLUMNS, tile_px=_SHEET_PX, note=note)

    def frames(
        self, firsts: Sequence[int], white: float | None, plain: bool
    ) -> Iterator[NDArray[np.uint8]]:
        """The pictures of a movie, one by one, all of one even size."""
        if white is None:
            sample = sorted({firsts[i] for i in _spread(0, len(firsts) - 1, _SAMPLES)})
            white = white_rate([rate_hw for _, rate_hw in self._pictures(sample)])
        strip = None
        for tick, rate_hw in self._pictures(firsts):
            grey_hw = _magnify(to_grey(rate_hw, white))
            if not plain:
                if strip is None:
                    longest = self._clock(self._clip.ticks)
                    strip = _Strip(grey_hw.shape[1], longest, f"{_scale(white)}, {self._made}")
                grey_hw = strip.below(grey_hw, self._clock(tick))
            yield grey_hw

    def _pictures(self, firsts: Sequence[int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        return pictures_at(self._clip, self._method, firsts, self._exposure_ticks)

    def _clock(self, tick: int) -> str:
        return f"tick {tick}, {1000 * tick / self._clip.tick_rate_hz:.2f} ms"


def _scale(white: float) -> str:
    return f"white {white:.3g} spikes/tick"


class _Strip:
    """A clock and a scale, on one line or two under the pictures of a movie."""

    def __init__(self, width_px: int, longest_clock: str, scale: str) -> None:
        self._width_px, self._scale = width_px, scale.encode("ascii", "replace").decode()
        self._font, room = caption_font(), width_px - 8
        both = self._font.getlength(longest_clock + "    " + self._scale)
        self._lines = 1 if both <= room else 2
        widest = max(longest_clock, self._scale, key=self._font.getlength)
        size_px = CAPTION_PX - 5
        while self._font.getlength(widest) > room and size_px > _SMALLEST_FONT_PX:
            size_px -= 1
            self._font = caption_font(size_px)

    def below(self, grey_hw: NDArray[np.uint8], clock: str) -> NDArray[np.uint8]:
        """The picture with the text under it."""
        from PIL import Image, ImageDraw  # noqa: PLC0415  # only pictures need it

        strip = Image.new("L", (self._width_px, self._lines * CAPTION_PX), 0)
        draw = ImageDraw.Draw(strip)
        draw.text((4, 1), clock, fill=255, font=self._font)
        if self._lines == 1:
            left = self._width_px - 4 - self._font.getlength(self._scale)
            draw.text((left, 1), self._scale, fill=255, font=self._font)
        else:
            draw.text((4, 1 + CAPTION_PX), self._scale, fill=255, font=self._font)
        return np.concatenate([grey_hw, np.asarray(strip)])


def _write_movie(
    frames: Iterator[NDArray[np.uint8]], out: Path, aside: Path, frame_rate: int
) -> None:
    """Encode pictures one by one into ``aside``."""
    import av  # noqa: PLC0415  # loads FFmpeg

    first_hw = next(frames)
    height, width = first_hw.shape
    codec, pixels = _CODECS[out.suffix]
    if codec not in av.codecs_available and out.suffix == ".mp4":
        codec = "mpeg4"
    loop = {} if out.suffix == ".mp4" else {"loop": "0"}
    try:
        with av.open(str(aside), "w", format=out.suffix[1:], options=loop) as container:
            stream = container.add_stream(codec, rate=frame_rate, options=_SWIFT.get(codec, {}))
            assert isinstance(stream, av.VideoStream)
            stream.pix_fmt, stream.height, stream.width = pixels, height, width
            for grey_hw in itertools.chain([first_hw], frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey_hw, format="gray")))
            container.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        raise SpikeDataError(
            f"{out}: cannot be written, {width}x{height} pixels as {codec}: {error}"
        ) from error


def _magnify(grey_hw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Whole times larger if small; an even size, which video codecs ask for."""
    wanted, room = -(-_MOVIE_PX // min(grey_hw.shape)), _LONGEST_MOVIE_PX // max(grey_hw.shape)
    times = max(1, min(wanted, room))
    large_hw = grey_hw.repeat(times, axis=0).repeat(times, axis=1)
    odd_y, odd_x = large_hw.shape[0] % 2, large_hw.shape[1] % 2
    return np.pad(large_hw, ((0, odd_y), (0, odd_x)), mode="edge")


def animate_clip(
    source: ClipSource,
    clip_id: str,
    *,
    pictures: int = 14,
    exposure_ticks: int = 32,
    side_px: int = 128,
    frame_rate: int = 10,
    most_bytes: int = 60_000,
) -> bytes:
    """A small moving picture of a whole clip: TFP pictures spread over it, shown for ever.

    Only the ticks shown are read. White is the same in all pictures.

    Args:
        source: where the clip is.
        clip_id: which.
        pictures: how many; fewer where the clip is too short.
        exposure_ticks: ticks that a picture counts, at most a quarter of the clip.
        side_px: longer side, px.
        frame_rate: pictures a second.
        most_bytes: quality is lowered, then every other picture left out, until it is no larger.

    Returns:
        An animated WebP, a third as large as GIF or APNG of such noisy pictures; every browser
        since 2020 plays it.

    Raises:
        ValueError: a number is not positive.
        StoreError: there is no such clip, or the ticks shown are damaged.
        SpikeDataError: Pillow was built without WebP.
    """
    if min(pictures, exposure_ticks, side_px, frame_rate, most_bytes) < 1:
        raise ValueError("pictures, ticks, pixels, frame_rate and most_bytes must be at least 1")
    ticks = ticks_shown(source, clip_id, 0, None)
    exposure_ticks = min(exposure_ticks, max(1, ticks // 4))
    firsts = _spread(0, ticks - exposure_ticks, pictures)
    clip = source.stream(clip_id)
    rates = pictures_at(clip, "tfp", firsts, exposure_ticks)
    small = [resized(rate_hw, side_px) for _, rate_hw in rates]
    white = white_rate(small)
    return _webp([to_grey(rate_hw, white) for rate_hw in small], frame_rate, most_bytes)


def _webp(greys: list[NDArray[np.uint8]], frame_rate: int, most_bytes: int) -> bytes:
    """Pictures as one animation of at most ``most_bytes``, if that can be."""
    from PIL import Image, features  # noqa: PLC0415  # only pictures need it

    if not features.check("webp"):
        raise SpikeDataError("Pillow here has no WebP. Install its wheel: pip install -U pillow")
    while True:
        first, *others = [Image.fromarray(grey_hw).convert("RGB") for grey_hw in greys]
        shown = {"save_all": True, "append_images": others, "loop": 0}
        duration_ms = round(1000 / frame_rate)
        for quality in _ANIMATION_QUALITIES:
            buffer = io.BytesIO()
            first.save(buffer, "WEBP", quality=quality, method=4, duration=duration_ms, **shown)
            if buffer.tell() <= most_bytes:
                return buffer.getvalue()
        if len(greys) == 1:
            return buffer.getvalue()
        greys, frame_rate = greys[::2], max(1, frame_rate // 2)


def _spread(first: int, last: int, count: int) -> list[int]:
    """So many ticks from the first to the last, fewer if there are not so many."""
    steps = max(1, count - 1)
    return sorted({round(first + i * (last - first) / steps) for i in range(count)})
