"""`spikedata view` and `report`: pictures, movies and pages of clips."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .common import check_output, errors_in_one_line, open_set, usage_errors_in_one_line
from .options import CLIPS_HELP, SPIKES, Camera, ClipsArgument, Flip, Overwrite, TickRate


def view(
    clip: Annotated[str, typer.Argument(help="Id of a clip.")],
    store: Annotated[Path, typer.Option(metavar="CLIPS", help=CLIPS_HELP)] = SPIKES,
    camera: Camera = None,
    flip: Flip = None,
    out: Annotated[
        Path | None, typer.Option(help="File: .png, .gif or .mp4.  [default: CLIP.png]")
    ] = None,
    picture: Annotated[
        Literal["tfp", "tfi"], typer.Option(help="Mean over a window, or inverse interval.")
    ] = "tfp",
    start: Annotated[int, typer.Option(help="First tick.")] = 0,
    ticks: Annotated[int | None, typer.Option(help="How many ticks.  [default: all]")] = None,
    window: Annotated[int, typer.Option(help="Ticks in one picture of a movie.")] = 32,
    overwrite: Overwrite = False,
) -> None:
    """Show a clip as a picture or a movie of the light it recorded."""
    out = out or Path(f"{clip}.png")
    with errors_in_one_line():
        from spikedata import view_clip

        opened = open_set(store, camera, flip)
        check_output(out, store, overwrite=overwrite)
        with usage_errors_in_one_line():
            written = view_clip(
                opened,
                clip,
                out,
                picture=picture,
                start=start,
                ticks=ticks,
                window_ticks=window,
                overwrite=overwrite,
            )
    typer.echo(written)


def report(
    clips: ClipsArgument = SPIKES,
    camera: Camera = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    out: Annotated[
        Path | None, typer.Option(help="Page to write.  [default: CLIPS with .html]")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a page about CLIPS: classes, firing rates, losses, intervals, a contact sheet."""
    out = out or clips.parent / f"{clips.absolute().stem}.html"
    with errors_in_one_line():
        from spikedata import report_html

        opened = open_set(clips, camera, flip, tick_rate)
        check_output(out, clips, overwrite=overwrite)
        written = report_html(opened, out, overwrite=overwrite)
    typer.echo(written)
