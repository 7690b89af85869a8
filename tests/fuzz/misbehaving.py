"""A reader that does what it must not, as the file says: the harness is tested on it."""

import os
import time
from pathlib import Path

from spikedata.errors import SpikeDataError

from .targets import Place, Target, Told


class _AsItIsError(SpikeDataError):
    """Tells what it was told to, without making it harmless."""

    __str__ = Exception.__str__


def _build(home: Path) -> list[Place]:
    file = home / "what.txt"
    file.write_text("nothing")
    return [Place(file=file, home=home)]


def _read(place: Place, told: Told) -> None:
    what = place.file.read_text()
    if what == "raise":
        raise KeyError("x")
    if what == "abort":
        os.abort()
    if what == "take memory":
        time.sleep(0.2 * len(b"x" * (1 << 30)) / (1 << 30))
    while what == "spin":
        pass
    while what == "hang":
        time.sleep(1)
    with told.refusing():
        if what == "refuse":
            raise SpikeDataError("one line")
        if what == "refuse in two lines":
            raise _AsItIsError("one\ntwo")
        if what == "refuse at length":
            raise _AsItIsError("x" * 1001)


TARGETS = {"anything": Target(kind="bytes", build=_build, read=_read)}
