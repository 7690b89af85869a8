"""Look at spikes: pictures, contact sheets and movies of them.

Two ways to make a picture of spikes, both in spikes a tick (times the threshold: light).
Texture from playback (TFP) counts the spikes of a window: little noise, moving things blur.
Texture from interval (TFI) takes one over the inter-spike interval around a tick: sharp, noisy.

Only as much of a clip is read as is shown. Shapes: T ticks, H rows, W columns.

Source: L. Zhu et al., "A Retina-Inspired Sampling Method for Visual Texture Reconstruction",
ICME 2019.
"""

import io
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spikedata.clips import ClipSource
from spikedata.errors import SpikeDataError, StoreError
from spikedata.outputs import write_whole, written_aside

_TILE_PX = 128
"""Longer side of a picture on a contact sheet."""
_MOVIE_PX = 240
"""Small clips are magnified until their shorter side is at least this ..."""
_LONGEST_MOVIE_PX = 1920
"""... or until their longer side would be more than this."""
_CAPTION_PX = 14
_REACH_TICKS = 512
"""A single TFI picture looks so far back and ahead; a pixel that is darker stays black."""
MOST_PICTURE_PIXELS = 1 << 26
"""Pixels of a picture that is read, at most."""
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's names of pictures with 16 bits a pixel."""
_ANIMATION_QUALITIES = (60, 40, 20, 5)
"""Of WebP, best first; the first that is small enough is taken."""
_BRIGHT_PERCENT = 99.5
"""This share of a picture's pixels is shown below full white."""


def to_grey(rate_hw: NDArray[np.float64], white_rate: float | None = None) -> NDArray[np.uint8]:
    """Picture of firing rates: 0 is black, ``white_rate`` and more is white.

    Args:
        rate_hw: (H, W), spikes a tick.
        white_rate: if None, the rate that all but the brightest pixels stay below.

    Returns:
        grey_hw: uint8 (H, W).
    """
    white_rate = _white_rate(rate_hw) if white_rate is None else white_rate
    return np.rint(np.clip(rate_hw / white_rate, 0.0, 1.0) * 255).astype(np.uint8)


def _white_rate(rates: NDArray[np.float64]) -> float:
    return float(np.percentile(rates, _BRIGHT_PERCENT)) or 1.0


def draw_picture(
    source: ClipSource,
    clip_id: str,
    *,
    picture: Literal["tfp", "tfi"] = "tfp",
    start: int = 0,
    ticks: int | None = None,
    white: float | None = None,
) -> NDArray[np.uint8]:
    """One picture of a clip, pixel for pixel: nothing is scaled, laid out or written on it.

    Args:
        source: where the clip is.
        clip_id: which.
        picture: TFP of all ticks given, or TFI at the middle one of them, for which up to 512 ticks
            of the clip before and after it are read, whatever is given.
        start: first tick.
        ticks: how many; to the end if None.
        white: spikes a tick that are shown as 255, for example 0.5 for full-scale light at
            threshold 2; if None, the rate that all but the brightest pixels stay below.

    Returns:
        grey_hw: uint8 (H, W), 255 times the rate over ``white``, rounded and cut at 255.

    Raises:
        ValueError: ``white`` is not positive.
        StoreError: there is no such clip, or it is shorter than asked for.
    """
    if white is not None and not 0 < white < math.inf:
        raise ValueError(f"white must be a positive number of spikes a tick, got {white}")
    ticks = _ticks_shown(source, clip_id, start, ticks)
    if picture == "tfp":
        return to_grey(texture_from_playback(source.read(clip_id, start, ticks)), white)
    return to_grey(_interval_around(source, clip_id, start + ticks // 2, _REACH_TICKS), white)


def read_picture(path: Path | str) -> NDArray[np.uint8]:
    """A picture file as grey levels, uint8 (H, W); colours by their luma, 16 bits scaled to 8.

    Raises:
        SpikeDataError: it cannot be read, its pixels have neither 8 nor 16 bits, or it claims more
            than :data:`MOST_PICTURE_PIXELS`.
    """
    from PIL import Image  # noqa: PLC0415  # only pictures need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # told as an error
            picture = Image.open(path)
        with picture:
            width, height = picture.size
            if width * height > MOST_PICTURE_PIXELS:
                raise SpikeDataError(
                    f"{path}: claims {height}x{width} pixels, expected at most "
                    f"{MOST_PICTURE_PIXELS:,}"
                )
            if picture.mode in _DEEP_MODES:
                return ((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8)
            if picture.mode in ("I", "F"):
                raise SpikeDataError(
                    f"{path}: pixels are {picture.mode}, expected 8 or 16 bits. Save it as PNG"
                )
            return np.asarray(picture.convert("L"))
    except SpikeDataError:
        raise
    except Exception as error:  # whatever a damaged picture makes Pillow raise, bombs among it
        raise SpikeDataError(f"{path}: cannot be read as a picture: {error}") from error


def write_picture(path: Path | str, grey_hw: NDArray[np.uint8], *, overwrite: bool = False) -> Path:
    """Write a picture, uint8 (H, W), as PNG.

    Raises:
        SpikeDataError: ``path`` is there, and ``overwrite`` is False.
    """
    write_whole(Path(path), _png(grey_hw), overwrite=overwrite)
    return Path(path)


def view_clip(
    store: ClipSource,
    clip_id: str,
    out: Path | str,
    *,
    picture: Literal["tfp", "tfi"] = "tfp",
    start: int = 0,
    ticks: int | None = None,
    exposure_ticks: int = 32,
    step_ticks: int = 8,
    frame_rate: int = 25,
    overwrite: bool = False,
) -> Path:
    """Show a clip as a file, whose kind its suffix says.

    ``.png`` is one sheet of pictures spread over the clip; ``.gif`` and ``.mp4`` are slow-motion
    movies, one picture every ``step_ticks``.

    Args:
        store: where the clip is.
        clip_id: which.
        out: file to write.
        picture: how pictures are made; TFI looks ``exposure_ticks`` back and ahead.
        start: first tick shown.
        ticks: how many are shown; to the end if None.
        exposure_ticks: ticks that a TFP picture counts, at most those shown.
        step_ticks: from one picture of a movie to the next.
        frame_rate: pictures a second of a movie.
        overwrite: replace ``out``, once the new one is whole.

    Returns:
        ``out``.

    Raises:
        ValueError: another suffix, or a number that is not positive.
        StoreError: there is no such clip, or it is shorter than asked for.
        SpikeDataError: ``out`` is there, and ``overwrite`` is False; or the movie cannot be
            written.
    """
    out = Path(out)
    if out.suffix not in (".png", ".gif", ".mp4"):
        raise ValueError(f"{out}: expected a name that ends in .png, .gif or .mp4")
    if min(exposure_ticks, step_ticks, frame_rate) < 1:
        raise ValueError("exposure_ticks, step_ticks and frame_rate must be at least 1")
    ticks = _ticks_shown(store, clip_id, start, ticks)
    exposure_ticks = min(exposure_ticks, ticks)
    last = start + ticks - exposure_ticks
    sheet = out.suffix == ".png"
    firsts = _spread(start, last) if sheet else range(start, last + 1, step_ticks)
    rates = _pictures(store, clip_id, firsts, exposure_ticks, picture)
    with written_aside(out, overwrite=overwrite) as aside:
        if sheet:
            tiles = [(to_grey(next(rates)), f"tick {first}") for first in firsts]
            aside.write_bytes(_png(lay_out(tiles, columns=4)))
        else:
            _write_movie(rates, out, aside, frame_rate)
    return out


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
    ticks = _ticks_shown(source, clip_id, 0, None)
    exposure_ticks = min(exposure_ticks, max(1, ticks // 4))
    firsts = _spread(0, ticks - exposure_ticks, pictures)
    rates = _pictures(source, clip_id, firsts, exposure_ticks, "tfp")
    small = [_resized(rate_hw, side_px) for rate_hw in rates]
    white_rate = _white_rate(np.stack(small))
    return _webp([to_grey(rate_hw, white_rate) for rate_hw in small], frame_rate, most_bytes)


def _resized(rate_hw: NDArray[np.float64], side_px: int) -> NDArray[np.float64]:
    """The same picture with its longer side ``side_px`` long, by the mean over areas."""
    from PIL import Image  # noqa: PLC0415  # only pictures need it

    height, width = (max(1, round(px * side_px / max(rate_hw.shape))) for px in rate_hw.shape)
    whole = Image.fromarray(rate_hw.astype(np.float32))
    return np.asarray(whole.resize((width, height), Image.Resampling.BOX), np.float64)


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


def _spread(first: int, last: int, count: int = 8) -> list[int]:
    """So many ticks from the first to the last, fewer if there are not so many."""
    steps = max(1, count - 1)
    return sorted({round(first + i * (last - first) / steps) for i in range(count)})


def _ticks_shown(store: ClipSource, clip_id: str, start: int, ticks: int | None) -> int:
    if clip_id not in store.clips:
        raise StoreError(f"{store.path}: no clip {clip_id!r}; it holds {len(store.clips)} clips")
    whole = store.clips[clip_id].ticks
    shown = whole - start if ticks is None else ticks
    if start < 0 or shown < 1 or start + shown > whole:
        raise StoreError(
            f"{store.path}: clip {clip_id}: ticks {start} to {start + shown} are not inside its "
            f"{whole} ticks"
        )
    return shown


def _pictures(
    store: ClipSource,
    clip_id: str,
    firsts: Iterable[int],
    exposure_ticks: int,
    picture: Literal["tfp", "tfi"],
) -> Iterator[NDArray[np.float64]]:
    """One picture (H, W) for each stretch of ticks, read one at a time."""
    for first in firsts:
        if picture == "tfp":
            yield texture_from_playback(store.read(clip_id, first, exposure_ticks))
        else:
            middle = first + exposure_ticks // 2
            yield _interval_around(store, clip_id, middle, exposure_ticks)


def _interval_around(
    store: ClipSource, clip_id: str, tick: int, reach_ticks: int
) -> NDArray[np.float64]:
    """TFI picture (H, W) at a tick of a clip, from so many ticks before and after it."""
    begin = max(0, tick - reach_ticks)
    end = min(store.clips[clip_id].ticks, tick + reach_ticks)
    return texture_from_interval(store.read(clip_id, begin, end - begin), tick - begin)


def contact_sheet(
    store: ClipSource, clip_ids: Sequence[str] | None = None, *, columns: int = 8
) -> NDArray[np.uint8]:
    """One TFP picture a clip, from its middle, with the clip's label under it.

    Args:
        store: where the clips are.
        clip_ids: which; a choice of at most 48, spread over the classes, if None.
        columns: pictures a row.

    Returns:
        grey_hw: uint8 (H, W).
    """
    tiles = []
    for clip_id in choose_clips(store, 48) if clip_ids is None else clip_ids:
        stored = store.clips[clip_id]
        ticks = min(64, stored.ticks)
        middle = store.read(clip_id, (stored.ticks - ticks) // 2, ticks)
        grey_hw = to_grey(texture_from_playback(middle))
        tiles.append((grey_hw, stored.clip.label or clip_id))
    return lay_out(tiles, columns=columns)


def choose_clips(store: ClipSource, count: int) -> list[str]:
    """At most ``count`` clip ids; classes take turns, each in order of id."""
    by_label: dict[str, list[str]] = {}
    for clip_id, stored in store.clips.items():
        by_label.setdefault(stored.clip.label or "", []).append(clip_id)
    queues = [by_label[label] for label in sorted(by_label)]
    longest = max(map(len, queues), default=0)
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)][:count]


def lay_out(tiles: Sequence[tuple[NDArray[np.uint8], str]], *, columns: int) -> NDArray[np.uint8]:
    """Captioned pictures, row by row, each shrunk or magnified to one size.

    Args:
        tiles: grey pictures (h, w) with what is written under them.
        columns: pictures a row.

    Returns:
        grey_hw: uint8 (H, W).

    Raises:
        ValueError: no pictures.
    """
    from PIL import Image, ImageDraw  # noqa: PLC0415  # only pictures need it

    if not tiles:
        raise ValueError("no pictures to lay out")
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    step_y, step_x = _TILE_PX + _CAPTION_PX + 4, _TILE_PX + 4
    sheet = Image.new("L", (columns * step_x, rows * step_y), 255)
    draw = ImageDraw.Draw(sheet)
    for n, (grey_hw, caption) in enumerate(tiles):
        top, left = n // columns * step_y, n % columns * step_x
        scale = _TILE_PX / max(grey_hw.shape)
        size = (max(1, round(grey_hw.shape[1] * scale)), max(1, round(grey_hw.shape[0] * scale)))
        sheet.paste(Image.fromarray(grey_hw).resize(size), (left, top))
        shown = caption if len(caption) <= 20 else caption[:18] + ".."
        # The built-in font knows Latin letters only.
        draw.text((left + 1, top + _TILE_PX + 1), shown.encode("ascii", "replace").decode(), fill=0)
    return np.asarray(sheet)


def _png(grey_hw: NDArray[np.uint8]) -> bytes:
    from PIL import Image  # noqa: PLC0415  # only pictures need it

    buffer = io.BytesIO()
    Image.fromarray(grey_hw).save(buffer, format="PNG")
    return buffer.getvalue()


def _write_movie(
    rates: Iterator[NDArray[np.float64]], out: Path, aside: Path, frame_rate: int
) -> None:
    """Encode pictures one by one into ``aside``; white is what it is in the first."""
    import av  # noqa: PLC0415  # loads FFmpeg

    first_hw = next(rates)
    white_rate = _white_rate(first_hw)
    height, width = _magnify(to_grey(first_hw)).shape
    kind = out.suffix[1:]
    codec = "gif" if kind == "gif" else "libx264" if "libx264" in av.codecs_available else "mpeg4"
    try:
        with av.open(str(aside), "w", format=kind) as container:
            stream = container.add_stream(codec, rate=frame_rate)
            assert isinstance(stream, av.VideoStream)
            stream.pix_fmt = "gray" if kind == "gif" else "yuv420p"
            stream.height, stream.width = height, width
            for rate_hw in itertools.chain([first_hw], rates):
                grey_hw = _magnify(to_grey(rate_hw, white_rate))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey_hw, format="gray")))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise SpikeDataError(
            f"{out}: cannot be written, {width}x{height} pixels as {codec}: {error.strerror}"
        ) from error


def _magnify(grey_hw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Whole times larger if small; an even size, which video codecs ask for."""
    wanted, room = -(-_MOVIE_PX // min(grey_hw.shape)), _LONGEST_MOVIE_PX // max(grey_hw.shape)
    times = max(1, min(wanted, room))
    large_hw = grey_hw.repeat(times, axis=0).repeat(times, axis=1)
    odd_y, odd_x = large_hw.shape[0] % 2, large_hw.shape[1] % 2
    return np.pad(large_hw, ((0, odd_y), (0, odd_x)), mode="edge")
