"""`spikedata info`, `validate` and `cameras`: what a set of clips is, and whether it is sound."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .common import (
    errors_in_one_line,
    fail,
    notes_of,
    open_set,
    print_notes,
    print_result,
    print_rows,
    say,
    usage_errors_in_one_line,
)
from .options import SPIKES, AsJson, Camera, ClipsArgument, Flip, TickRate


def info(
    clips: ClipsArgument = SPIKES,
    camera: Camera = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    each: Annotated[
        bool, typer.Option("--clips", help="List the clips instead, one a line; no bits are read.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what CLIPS holds: clips, classes, splits, geometry, firing rate, losses."""
    with errors_in_one_line():
        opened = open_set(clips, camera, flip, tick_rate)
        if each:
            print_rows(opened.rows, as_json)
            return
        summary, leaks = opened.summary(), opened.leaks()
    print_notes(leaks)
    notes = {"notes": [*notes_of(opened), *leaks]} if as_json else {}
    print_result(summary | notes, as_json)


def validate(
    clips: ClipsArgument = SPIKES,
    quick: Annotated[
        bool, typer.Option("--quick", help="Metadata only: do not decode and hash the bits.")
    ] = False,
    camera: Camera = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    as_json: AsJson = False,
) -> None:
    """Check CLIPS against its format, every bit included; status 1 if a rule is broken."""
    with errors_in_one_line():
        from spikedata import one_line, place
        from spikedata import validate as validate_clips

        clips = place(clips)

        with usage_errors_in_one_line():
            problems = validate_clips(
                clips, deep=not quick, camera=camera, flip=flip, tick_rate_hz=tick_rate
            )
        notes, losses = _told_of(clips, camera, flip, tick_rate)
    if as_json:
        told = {"problems": [asdict(found) for found in problems], "losses": losses, "notes": notes}
        print_result({"store": clips, **told}, as_json)
    for found in () if as_json else problems:
        say(one_line(f"{found.clip or clips}: {found.code}: {found.message}"))
    print_notes(f"{n:,} {name}, when the clips were made" for name, n in losses.items())
    if problems:
        fail(f"{clips}: {len(problems)} broken rules of the store format")
    if not as_json:
        say(f"{clips}: no problems")


def _told_of(
    clips: Path, camera: str | None, flip: bool | None, tick_rate: float | None
) -> tuple[list[str], dict[str, int]]:
    """What was odd about a set, and what was lost when it was made; nothing if none opens."""
    from spikedata import SpikeDataError

    try:
        opened = open_set(clips, camera, flip, tick_rate)
    except SpikeDataError:  # the problems that were found say why
        return [], {}
    leaks = opened.leaks()
    print_notes(leaks)
    return [*notes_of(opened), *leaks], opened.losses()


def cameras(as_json: AsJson = False) -> None:
    """List the cameras and file layouts that `--camera` knows."""
    with errors_in_one_line():
        from spikedata import CAMERAS
    if as_json:
        print_result({camera.name: asdict(camera) for camera in CAMERAS.values()}, as_json)
        return
    other = {"HxW": "Any other plain .dat: its rows and columns, for example 500x800."}
    print_result({camera.name: camera.description for camera in CAMERAS.values()} | other, as_json)
