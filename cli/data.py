"""The command `spikedata`: video or camera files in, labelled spike data sets out."""

from collections.abc import Callable
from typing import Annotated

import typer

from .checking import cameras, info, validate
from .common import new_app, run, say
from .demo import demo
from .hub import pull, push_hub
from .inspecting import inspect
from .labelling import label
from .looking import compare_images, report, view
from .measuring import calibrate, compare, export
from .packing import pack
from .recording import record
from .repairing import repair
from .simulating import simulate

app = new_app(
    "Spike-camera data sets: simulate them from video, pack recordings, look, check, publish.\n\n"
    "The usual way, in a folder that holds ucf101/:\n\n"
    "\b\n"
    "  spikedata simulate ucf101/ --threshold 2.0\n"
    "  spikedata pack --to zarr\n"
    "  spikedata push-hub\n"
    "  spklip-train recipes/fewshot.yaml\n\n"
    "No data at hand? `spikedata demo` draws some and runs the whole chain on it."
)
_COMMANDS: tuple[Callable[..., None], ...] = (
    *(simulate, record, pack, push_hub, pull),
    *(info, inspect, validate, label, repair),
    *(view, report, compare_images),
    *(cameras, compare, calibrate, export),
    demo,
)
for _command in _COMMANDS:
    app.command()(_command)  # `push_hub` becomes `push-hub`


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        say(version("spklip"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    """Options of the program itself; its help is the application's."""


def main() -> None:
    """Run `spikedata`."""
    run(app)
