"""`spikedata compare`, `calibrate` and `export`: recordings beside cameras and other tools."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spikedata import ClipStream

from .common import (
    STATUS_USAGE,
    check_output,
    errors_in_one_line,
    fail,
    notes_of,
    open_one,
    print_notes,
    print_result,
    say,
    usage_errors_in_one_line,
)
from .options import (
    AsJson,
    Camera,
    Cameras,
    Flip,
    Flips,
    Overwrite,
    TickRate,
    TickRates,
    ToCamera,
)

Real = Annotated[Path, typer.Argument(help="Recording of a real camera, or a store.")]
Simulated = Annotated[Path, typer.Argument(help="Simulated recording: a store, or a file.")]
Clip = Annotated[
    list[str] | None,
    typer.Option(
        help="Clip of stores; give it twice where REAL's and SIMULATED's have other ids.  "
        "[default: the only one]"
    ),
]
Out = Annotated[Path | None, typer.Option(help="Page with pictures to write, .html.")]


def compare(
    real: Real,
    simulated: Simulated,
    camera: Cameras = None,
    clip: Clip = None,
    flip: Flips = None,
    tick_rate: TickRates = None,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Tell how like REAL a SIMULATED recording is, by its statistics.

    `spikedata simulate --like REAL --sensor vidar-20khz` makes one of the same scene. Of the longer
    one the first ticks are taken, as many as the other has.

    --camera, --clip, --flip and --tick-rate hold for both; given twice, the first for REAL and the
    second for SIMULATED.
    """
    given = {"--clip": clip, "--camera": camera, "--flip": flip, "--tick-rate": tick_rate}
    how = [_for_both(option, values) for option, values in given.items()]
    with errors_in_one_line():
        from spikedata import available_cores, compare_streams, comparison_html

        both = zip((real, simulated), *how, strict=True)
        sources = [open_one(*one) for one in both]
        if out is not None:
            check_output(out, real, simulated, overwrite=overwrite)
        with usage_errors_in_one_line():
            comparison = compare_streams(*sources, threads=available_cores())
        if as_json:
            notes = [note for source in sources for note in notes_of(source)]
            print_result(comparison.to_dict() | {"notes": notes}, as_json)
        else:
            say(comparison.table())
        if out is not None:
            title = f"{real.name} and {simulated.name}"
            comparison_html(comparison, out, title=title, overwrite=overwrite)


def _for_both(option: str, given: Sequence[Any] | None) -> tuple[Any, Any]:
    """What an option says of REAL and of SIMULATED: once for both, or twice."""
    values = given or [None]
    if len(values) > 2:
        fail(f"{option}: at most two, REAL's and SIMULATED's, got {len(values)}", STATUS_USAGE)
    return values[0], values[-1]


Dark = Annotated[Path, typer.Argument(help="Recording in the dark.")]
Medium = Annotated[Path, typer.Argument(help="Recording of an even, medium light.")]
Bright = Annotated[Path, typer.Argument(help="Recording of an even, bright light.")]
SensorFile = Annotated[Path, typer.Option(help="Sensor to write, .yaml; its maps lie beside it.")]
Sensor = Annotated[str, typer.Option(help="Preset that gives what changes from tick to tick.")]


def calibrate(
    dark: Dark,
    medium: Medium,
    bright: Bright,
    out: SensorFile,
    camera: Camera = None,
    flip: Flip = None,
    sensor: Sensor = "vidar-20khz",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Measure each pixel's response and dark charge from three flat fields.

    `spikedata simulate --sensor OUT` then simulates that camera.
    """
    with errors_in_one_line():
        from spikedata import (
            calibrate_pixels,
            load_sensor,
            sensor_files,
            write_sensor,
        )

        base = load_sensor(sensor)
        files = (dark, medium, bright)
        sources = [open_one(path, None, camera, flip) for path in files]
        with usage_errors_in_one_line():
            for path in sensor_files(out):
                check_output(path, *files, Path(sensor), overwrite=overwrite)
            found = calibrate_pixels(*sources)
            write_sensor(found, out, base, overwrite=overwrite)
    print_result(found.summary() | {"sensor": out}, as_json)


Source = Annotated[Path, typer.Argument(help="Store or recording.")]
ExportFile = Annotated[
    Path,
    typer.Argument(help="File: .npy of events (x, y, t, polarity), .npz or .dat of planes."),
]
OneClip = Annotated[str | None, typer.Option(help="Clip of a store.  [default: the only one]")]


def export(
    source: Source,
    out: ExportFile,
    clip: OneClip = None,
    camera: Camera = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    to_camera: ToCamera = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a clip as other tools read it: Tonic's event arrays, Spike-Zoo's and SpikeCV's planes.

    SpikeCV and Spike-Zoo show a .dat file's first row at the bottom: for them use
    --to-camera bottom-up, or a camera such as vidar. `spikedata pack --to dat` writes whole sets.
    """
    with errors_in_one_line():
        from spikedata import write_dat_file, write_events, write_npz

        if out.suffix not in (".npy", ".npz", ".dat"):
            fail(f"{out}: expected a name that ends in .npy, .npz or .dat", STATUS_USAGE)
        if to_camera is not None and out.suffix != ".dat":
            fail("--to-camera means something for .dat alone", STATUS_USAGE)
        spikes = open_one(source, clip, camera, flip, tick_rate)
        check_output(out, source, overwrite=overwrite)
        if out.suffix == ".dat":
            written = write_dat_file(
                out, spikes, to_camera=to_camera, camera=camera, overwrite=overwrite
            )
            print_notes([f"written as {written.in_words}"])
        elif out.suffix == ".npz":
            write_npz(out, spikes, **_class_of(spikes), overwrite=overwrite)
        else:
            with usage_errors_in_one_line():
                write_events(out, spikes, overwrite=overwrite)
    say(out)


def _class_of(spikes: "ClipStream") -> dict[str, Any]:
    """Number and name of the class of what is exported, as `write_npz` takes them."""
    return {"label": spikes.label_number, "label_name": spikes.label}
