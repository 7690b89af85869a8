"""Options that several commands share, each declared once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

SPIKES = Path("spikes.zarr")
"""The working store: what `simulate` writes, and others read unless told otherwise."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads.  [default: all cores]")]
WorkersOfAny = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Threads, or workers of Ray.  [default: all cores]"),
]
OnEngine = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Who works: threads of this process, or workers of a Ray cluster."),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster: auto, or HOST:PORT.  [default: RAY_ADDRESS, else Ray is started here]"
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")]
CLIPS_HELP = "Store, Parquet folder or file, HDF5 file, folder of .dat; with --camera, recordings."
ClipsArgument = Annotated[Path, typer.Argument(metavar="CLIPS", help=CLIPS_HELP)]
Camera = Annotated[
    str | None, typer.Option(help="Camera of recordings: a name from `spikedata cameras`.")
]
Flip = Annotated[
    bool | None,
    typer.Option("--flip/--no-flip", help="Turn their rows upside down.  [default: as needed]"),
]
Cameras = Annotated[
    list[str] | None,
    typer.Option("--camera", help="Camera of recordings; twice: REAL's, then SIMULATED's."),
]
Flips = Annotated[
    list[bool] | None,
    typer.Option(
        "--flip/--no-flip",
        help="Turn their rows upside down; twice: REAL's, then SIMULATED's.  [default: as needed]",
    ),
]
TickRates = Annotated[
    list[float] | None,
    typer.Option(
        "--tick-rate",
        help="Ticks a second of recordings, Hz; twice: REAL's, then SIMULATED's.  "
        "[default: CAMERA's]",
    ),
]
TickRate = Annotated[
    float | None, typer.Option(help="Ticks a second of recordings, Hz.  [default: CAMERA's]")
]
ToCamera = Annotated[
    str | None,
    typer.Option(
        help="Layout of .dat files written: a camera, or bottom-up.  [default: CAMERA's, else "
        "upright]"
    ),
]
