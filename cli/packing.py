"""`spikedata pack`: sets of clips and camera recordings to one verified set."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from .common import (
    advance,
    check_engine,
    errors_in_one_line,
    fail,
    print_failures,
    print_notes,
    print_result,
    progress_bar,
    usage_errors_in_one_line,
)
from .options import (
    Address,
    AsJson,
    Camera,
    Flip,
    OnEngine,
    Overwrite,
    TickRate,
    ToCamera,
    WorkersOfAny,
)

Sources = Annotated[
    list[Path] | None,
    typer.Argument(help="Stores, recordings or folders of them.  [default: spikes.zarr]"),
]
To = Annotated[Literal["zarr", "parquet", "hdf5", "dat"], typer.Option(help="What to write.")]
Out = Annotated[
    Path | None, typer.Option(help="Where.  [default: packed.zarr, packed.parquet, ...]")
]
Level = Annotated[
    int | None,
    typer.Option(help="Effort of compression, 1 to 19; hdf5 0 to 9.  [default: 7; hdf5 4]"),
]
Layout = Annotated[
    Literal["auto", "files", "folders"],
    typer.Option(help="Whether a folder of numbered .dat files is one clip."),
]
LabelNames = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Names of classes that recordings only number: a name a line, or .csv or .json.",
    ),
]


def pack(
    sources: Sources = None,
    to: To = "zarr",
    out: Out = None,
    camera: Camera = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    layout: Layout = "auto",
    to_camera: ToCamera = None,
    label_names: LabelNames = None,
    level: Level = None,
    overwrite: Overwrite = False,
    engine: OnEngine = "local",
    address: Address = None,
    workers: WorkersOfAny = None,
    as_json: AsJson = False,
) -> None:
    """Pack stores and camera recordings into one verified data set.

    Without SOURCES it packs spikes.zarr, which `spikedata simulate` writes. Every clip is read
    back from disk and its digest compared. What was packed last is what `spikedata push-hub`
    publishes and what recipes read. What cannot be packed is listed in <out>.failures.jsonl and
    the rest goes on.
    """
    check_engine(engine, address)
    with errors_in_one_line(), progress_bar(None, "clip", "pack") as bar:
        from spikedata import available_cores, pack_clips

        with usage_errors_in_one_line():
            report = pack_clips(
                sources or (),
                to=to,
                out=out,
                camera=camera,
                flip=flip,
                tick_rate_hz=tick_rate,
                layout=layout,
                to_camera=to_camera,
                label_names=label_names,
                level=level,
                overwrite=overwrite,
                workers=workers or (available_cores() if engine == "local" else None),
                engine=engine,
                address=address,
                progress=lambda step: advance(bar, step.stage, step.done, step.total),
            )
    values = asdict(report) | {"ratio": report.packed_bytes / report.stored_bytes}
    if not as_json:
        values["failures"] = len(report.failures)
        values["failure_file"] = report.failure_file if report.failures else None
        del values["notes"]
    print_notes(report.notes)
    print_result(values, as_json)
    print_failures(report.failures)
    if report.failures:
        left_out = f"{len(report.failures)} sources or clips were left out of {report.out}"
        fail(f"{left_out}; see {report.failure_file}")
