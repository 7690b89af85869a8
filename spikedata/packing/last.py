"""What was packed last in a directory, which the next commands there take."""

import json
from pathlib import Path

from spikedata.errors import StoreError
from spikedata.outputs import (
    write_whole,
)
from spikedata.remote import RemotePath, is_remote, place

STATE_FILE = ".spikedata.json"


def last_packed(directory: Path | str = ".") -> Path:
    """What :func:`pack_clips` wrote last from ``directory``.

    Raises:
        StoreError: nothing was packed here, or it is gone.
    """
    directory = Path(directory)
    state = directory / STATE_FILE
    try:
        packed = str(json.loads(state.read_text(encoding="utf-8"))["packed"])
        path = place(packed) if is_remote(packed) else directory / packed
        there = path.exists()  # too long a name is an error of the system's
    except FileNotFoundError:
        raise StoreError(
            f"{directory}: nothing was packed here yet. Run `spikedata pack --to zarr`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{state}: cannot be read: {error}") from error
    if not there:
        raise StoreError(f"{path}: was packed last but is gone. Run `spikedata pack --to zarr`")
    return path


def remember(out: Path) -> None:
    """Note in this directory what was packed."""
    here = Path.cwd()
    path = out.resolve()
    is_below = not isinstance(path, RemotePath) and path.is_relative_to(here)
    text = path.relative_to(here).as_posix() if is_below else str(path)
    state = here / STATE_FILE
    write_whole(state, json.dumps({"packed": text}) + "\n")
