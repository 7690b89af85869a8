"""`spikedata view` and `report`: pictures, movies and pages of clips."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from spikedata import ClipSource

from .common import (
    STATUS_USAGE,
    check_output,
    errors_in_one_line,
    fail,
    notes_of,
    open_set,
    print_notes,
    print_result,
    say,
    usage_errors_in_one_line,
)
from .options import CLIPS_HELP, SPIKES, AsJson, Camera, ClipsArgument, Flip, Overwrite, TickRate

Clip = Annotated[str | None, typer.Argument(help="Id of a clip.  [default: the only one]")]
Store = Annotated[Path, typer.Option(metavar="CLIPS", help=CLIPS_HELP)]
Out = Annotated[Path | None, typer.Option(help="File: .png, .gif or .mp4.  [default: CLIP.png]")]
Picture = Annotated[
    Literal["tfp", "tfi"], typer.Option(help="Mean over a window, or inverse interval.")
]
Start = Annotated[int, typer.Option(help="First tick.")]
Ticks = Annotated[int | None, typer.Option(help="How many ticks.  [default: all]")]
Window = Annotated[int, typer.Option(help="Ticks in one picture of a movie or sheet.")]
Single = Annotated[
    bool,
    typer.Option("--single", help="One plain picture of all ticks given, pixel for pixel."),
]
White = Annotated[
    float | None,
    typer.Option(help="Spikes a tick that are white in a single picture.  [default: as it is]"),
]
Against = Annotated[
    Path | None, typer.Option(help="True picture to compare a single one with: PSNR, SSIM.")
]


def view(
    clip: Clip = None,
    store: Store = SPIKES,
    camera: Camera = None,
    flip: Flip = None,
    out: Out = None,
    picture: Picture = "tfp",
    start: Start = 0,
    ticks: Ticks = None,
    window: Window = 32,
    single: Single = False,
    white: White = None,
    against: Against = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Show a clip as a picture or a movie of the light it recorded.

    With --single the picture has the camera's own size, and --against tells how near it is to a
    true one.
    """
    with errors_in_one_line():
        opened = open_set(store, camera, flip)
        clip = opened.only(clip)
        out = out or Path(f"{clip}.png")
        check_output(out, store, overwrite=overwrite)
        if not single and (white is not None or against is not None):
            fail("--white and --against mean something with --single alone", STATUS_USAGE)
        shown = {"picture": picture, "start": start, "ticks": ticks}
        with usage_errors_in_one_line():
            if single:
                told = _single(opened, clip, out, shown, white, against, overwrite)
            else:
                _movie(opened, clip, out, shown, window, overwrite)
                told = {}
    if as_json:  # which knows no infinity, the PSNR of equal pictures
        finite = {key: value if math.isfinite(value) else None for key, value in told.items()}
        print_result({"out": out, **finite, "notes": notes_of(opened)}, as_json)
    else:
        say("\n".join([str(out), *(f"{key}  {value:.4f}" for key, value in told.items())]))


def _movie(
    source: "ClipSource", clip: str, out: Path, shown: dict[str, Any], window: int, overwrite: bool
) -> None:
    from spikedata import view_clip

    view_clip(source, clip, out, exposure_ticks=window, overwrite=overwrite, **shown)


def _single(
    source: "ClipSource",
    clip: str,
    out: Path,
    shown: dict[str, Any],
    white: float | None,
    against: Path | None,
    overwrite: bool,
) -> dict[str, float]:
    """Write one plain picture; how near it is to the true one, if there is one."""
    from spikedata import draw_picture, picture_quality, read_picture, write_picture

    if out.suffix != ".png":
        fail(f"{out}: a single picture is a .png", STATUS_USAGE)
    truth_hw = None if against is None else read_picture(against)
    grey_hw = draw_picture(source, clip, white=white, **shown)
    quality = {} if truth_hw is None else picture_quality(grey_hw, truth_hw)
    write_picture(out, grey_hw, overwrite=overwrite)
    return quality


ReportPage = Annotated[
    Path | None, typer.Option(help="Page to write.  [default: CLIPS with .html]")
]


def report(
    clips: ClipsArgument = SPIKES,
    camera: Camera = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    out: ReportPage = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a page about CLIPS: classes, firing rates, losses, intervals, a contact sheet."""
    out = out or clips.parent / f"{clips.absolute().stem}.html"
    with errors_in_one_line():
        from spikedata import report_html

        opened = open_set(clips, camera, flip, tick_rate)
        print_notes(opened.leaks())
        check_output(out, clips, overwrite=overwrite)
        written = report_html(opened, out, overwrite=overwrite)
    say(written)
