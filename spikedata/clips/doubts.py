"""Recordings whose content says another layout than the one they are read with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spikedata.camera import Camera
from spikedata.corpora import as_text
from spikedata.errors import SpikeDataError
from spikedata.layouts import better_layout

MOST_DOUBTS = 16
"""Of a set; after so many no more files are checked, which takes some tens of milliseconds each
where the layout is doubtful, and a few where it is not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutDoubt:
    """What speaks against the layout that a file was given."""

    path: Path
    given: str
    """Name of the layout it is read with."""
    better: str
    """Name of the one that its content shows."""
    given_score: float
    better_score: float


def doubt_about(path: Path, camera: Camera) -> LayoutDoubt | None:
    """Whether a file's content clearly shows another layout; None also where it cannot be read."""
    try:
        found = better_layout(path, camera)
    except SpikeDataError:  # whoever reads it tells
        return None
    if found is None:
        return None
    given, better = found
    return LayoutDoubt(
        path=path,
        given=camera.name,
        better=better.name,
        given_score=given.score,
        better_score=better.score,
    )


def tell_doubts(doubts: Iterable[LayoutDoubt]) -> tuple[str, ...]:
    """One line for all files that were given one layout and show another."""
    alike: dict[tuple[str, str], list[LayoutDoubt]] = {}
    for doubt in doubts:
        alike.setdefault((doubt.given, doubt.better), []).append(doubt)
    return tuple(map(_line, alike.values()))


def _line(doubts: Sequence[LayoutDoubt]) -> str:
    first = doubts[0]
    least = "at least " if len(doubts) >= MOST_DOUBTS else ""
    others = f" and {least}{len(doubts) - 1} more" if len(doubts) > 1 else ""
    looks = "look" if others else "looks"
    name = as_text(str(first.path))
    return (
        f"{name}{others} {looks} like {first.better}, not {first.given} as given: neighbouring "
        f"pixels are alike by {first.better_score:.3f} against {first.given_score:.3f}. It is read "
        f"as given; see `spikedata inspect {name}`"
    )
