"""`spikedata view`, `compare-images` and `report`: pictures, movies and pages of clips."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spikedata import ClipSource, Failure

from .common import (
    STATUS_USAGE,
    advance,
    check_output,
    end_with_failures,
    errors_in_one_line,
    fail,
    is_number,
    notes_of,
    open_set,
    print_notes,
    print_result,
    progress_bar,
    say,
    usage_errors_in_one_line,
)
from .options import CLIPS_HELP, SPIKES, AsJson, Camera, ClipsArgument, Flip, Overwrite, TickRate

What = Annotated[
    str | None,
    typer.Argument(
        metavar="CLIP|PATH",
        help="Id of a clip of --store; or a camera's file, a folder, any set of clips.  "
        "[default: the only clip of --store]",
    ),
]
ClipOfPath = Annotated[
    str | None,
    typer.Argument(metavar="CLIP", help="Id of a clip of PATH.  [default: the only one]"),
]
Store = Annotated[
    Path | None,
    typer.Option(metavar="CLIPS", help=f"{CLIPS_HELP}  [default: spikes.zarr]"),
]
Out = Annotated[
    Path | None, typer.Option(help="File: .png, .gif, .webp or .mp4.  [default: CLIP.png]")
]
Picture = Annotated[
    str,
    typer.Option(
        metavar="METHOD",
        help="tfp, mean of a window; tfi, inverse interval; adaptive, by motion; or "
        "package.module:function, which is run.",
    ),
]
Start = Annotated[int, typer.Option(help="First tick.")]
Ticks = Annotated[int | None, typer.Option(help="How many ticks.  [default: all]")]
Window = Annotated[int, typer.Option(help="Ticks in one picture of a movie or sheet.")]
Step = Annotated[int, typer.Option(help="Ticks from one picture of a movie to the next.")]
Fps = Annotated[int, typer.Option(help="Pictures a second of a movie.")]
Plain = Annotated[bool, typer.Option("--plain", help="No clock, scale and captions.")]
Single = Annotated[
    bool,
    typer.Option("--single", help="One plain picture of all ticks given, pixel for pixel."),
]
White = Annotated[
    float | None,
    typer.Option(
        help="Spikes a tick that are white.  [default: what 99.5% of the pixels stay below]"
    ),
]
Against = Annotated[
    Path | None, typer.Option(help="True picture to compare a single one with: PSNR, SSIM.")
]


def view(
    what: What = None,
    clip: ClipOfPath = None,
    store: Store = None,
    camera: Camera = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    out: Out = None,
    picture: Picture = "tfp",
    start: Start = 0,
    ticks: Ticks = None,
    window: Window = 32,
    step: Step = 8,
    fps: Fps = 25,
    white: White = None,
    plain: Plain = False,
    single: Single = False,
    against: Against = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Show a clip as pictures or a movie of the light it recorded.

    With --single the picture has the camera's own size, and --against tells how near it is to a
    true one.

    \b
      spikedata view car.dat --camera vidar
      spikedata view wave__a --store packed.zarr --out wave.mp4 --picture adaptive --window 64
      spikedata view packed.h5 wave__a --out wave.gif --step 4 --ticks 400 --fps 12
      spikedata view car.dat --camera vidar --single --start 100 --ticks 1 --picture tfi
    """  # noqa: D301  # the character that keeps a paragraph's lines apart
    with errors_in_one_line():
        path, clip = _looked_at(what, clip, store)
        opened = open_set(path, camera, flip, tick_rate)
        clip = opened.only(clip)
        out = out or Path(f"{clip}.png")
        check_output(out, path, overwrite=overwrite)
        if not single and against is not None:
            fail("--against means something with --single alone", STATUS_USAGE)
        shown = {"picture": picture, "start": start, "ticks": ticks, "white": white}
        movie = {"exposure_ticks": window, "step_ticks": step, "frame_rate": fps, "plain": plain}
        with usage_errors_in_one_line():
            if single:
                told = _single(opened, clip, out, shown, against, overwrite)
            else:
                told = _movie(opened, clip, out, shown | movie, overwrite)
    if as_json:
        print_result({"out": out, **_finite(told), "notes": notes_of(opened)}, as_json)
    else:
        say("\n".join([str(out), *_lines(told)]))


def _looked_at(what: str | None, clip: str | None, store: Path | None) -> tuple[Path, str | None]:
    """The set and the clip of it that the words of a command name."""
    from spikedata import place

    if store is not None:
        if clip is not None:
            fail("with --store, give the id of one clip and no PATH", STATUS_USAGE)
        return store, what
    if clip is not None:
        return place(what or SPIKES), clip
    if what is None or not place(what).exists():
        return SPIKES, _clip_or_path(what)
    if Path(what) != SPIKES and what in _ids_here():
        fail(
            f"{what}: a clip of {SPIKES}, and a file. Give --store {SPIKES}, or --store {what}",
            STATUS_USAGE,
        )
    return place(what), None


def _ids_here() -> set[str]:
    """Ids of the working store's clips; none if it cannot be read, which is no matter here."""
    from spikedata import SpikeDataError, open_clips

    try:
        return set(open_clips(SPIKES).clips) if SPIKES.exists() else set()
    except SpikeDataError:
        return set()


def _clip_or_path(what: str | None) -> str | None:
    if what is not None and not SPIKES.exists():
        fail(f"{what}: no such file, and no {SPIKES} here that could hold a clip of that name")
    return what


def _movie(
    source: "ClipSource", clip: str, out: Path, shown: dict[str, Any], overwrite: bool
) -> dict[str, float]:
    from spikedata import view_clip

    view_clip(source, clip, out, overwrite=overwrite, **shown)
    return {}


def _single(
    source: "ClipSource",
    clip: str,
    out: Path,
    shown: dict[str, Any],
    against: Path | None,
    overwrite: bool,
) -> dict[str, float]:
    """Write one plain picture; how near it is to the true one, if there is one."""
    from spikedata import draw_picture, picture_quality, read_picture, write_picture

    if out.suffix != ".png":
        fail(f"{out}: a single picture is a .png", STATUS_USAGE)
    truth_hw = None if against is None else read_picture(against)
    grey_hw = draw_picture(source, clip, **shown)
    quality = {} if truth_hw is None else picture_quality(grey_hw, truth_hw)
    write_picture(out, grey_hw, overwrite=overwrite)
    return quality


def _finite(told: dict[str, float]) -> dict[str, float | None]:
    """For JSON, which knows no infinity, the PSNR of equal pictures."""
    return {key: value if math.isfinite(value) else None for key, value in told.items()}


def _lines(told: dict[str, float]) -> list[str]:
    return [f"{key}  {value:.4f}" for key, value in told.items()]


OnePicture = Annotated[Path, typer.Argument(help="Picture to judge, .png or another format.")]
Truth = Annotated[Path, typer.Argument(help="The true picture, of the same size.")]


def compare_images(picture: OnePicture, truth: Truth, as_json: AsJson = False) -> None:
    """Tell how near PICTURE is to TRUTH: PSNR and SSIM, as scikit-image counts them.

    \b
      spikedata view car.dat --camera vidar --single --white 0.5 --out car.png
      spikedata compare-images car.png true.png
    """  # noqa: D301  # as above
    with errors_in_one_line(), usage_errors_in_one_line():
        from spikedata import picture_quality, read_picture

        told = picture_quality(read_picture(picture), read_picture(truth))
    if as_json:
        print_result(_finite(told), as_json)
    else:
        say("\n".join(_lines(told)))


ReportPage = Annotated[
    Path | None, typer.Option(help="Page to write.  [default: CLIPS with .html]")
]


Thumbnails = Annotated[
    str, typer.Option(metavar="N|all", help="Clips whose picture moves; others have a still one.")
]


def report(
    clips: ClipsArgument = SPIKES,
    camera: Camera = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    thumbnails: Thumbnails = "1000",
    out: ReportPage = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a page about CLIPS: classes, losses, the camera's health, every clip in motion.

    More than 100 clips stand on pages in a folder beside it, OUT with .report.
    """
    out = out or clips.parent / f"{clips.absolute().stem}.html"
    if thumbnails != "all" and not is_number(thumbnails):
        fail(f"--thumbnails: expected a number or all, got {thumbnails!r}", STATUS_USAGE)
    with errors_in_one_line(), progress_bar(None, "clip", "report") as bar:
        from spikedata import available_cores, report_html

        opened = open_set(clips, camera, flip, tick_rate)
        print_notes(opened.leaks())
        check_output(out, clips, overwrite=True)  # what is there is checked with its lock
        failures: list[Failure] = []
        written = report_html(
            opened,
            out,
            thumbnails=None if thumbnails == "all" else int(thumbnails),
            threads=available_cores(),
            progress=lambda stage, done, total: advance(bar, stage, done, total),
            failed=failures.append,
            overwrite=overwrite,
        )
    say(written)
    end_with_failures(failures)
