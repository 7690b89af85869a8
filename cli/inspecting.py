"""`spikedata inspect`: which layout a camera file has, judged by what it shows."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    check_output,
    errors_in_one_line,
    fail,
    print_failures,
    print_result,
    progress_bar,
    say,
)
from .options import AsJson, Overwrite

if TYPE_CHECKING:
    from spikedata import Failure, LayoutCandidate

    Ranked = dict[Path, tuple[LayoutCandidate, ...]]

Files = Annotated[list[Path], typer.Argument(help="Camera files, or folders of them.")]
Camera = Annotated[
    list[str] | None,
    typer.Option("--camera", help="Rank this one alone; may be given again for several."),
]
Out = Annotated[Path | None, typer.Option(help="Sheet of pictures to write, a .png.")]
Show = Annotated[bool, typer.Option("--show", help="Draw pictures in the terminal too.")]

_SHOWN = 3
"""Pictures side by side in a terminal ..."""
_LETTERS = 26
"""... each so many letters wide: 80 with the gaps."""
_DRAWN = 8


def inspect(
    files: Files,
    camera: Camera = None,
    out: Out = None,
    show: Show = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Rank the layouts that camera FILES may have by what they show, best first.

    Of one file all layouts are listed, of several the best of each. The score is how alike
    neighbouring pixels are; a layout is certain, likely, or the content cannot tell. Which row is
    the top one cannot be told: look at the pictures (--out, --show).
    """
    with errors_in_one_line():
        if out is not None:
            check_output(out, *files, overwrite=overwrite)
        ranked, failures = _ranked(files, camera)
        if out is not None and ranked:
            _write_sheet(ranked, out, overwrite)
        if as_json:
            told = [_as_json(path, found) for path, found in ranked.items()]
            print_result({"files": told, "sheet": out if ranked else None}, as_json)
        elif len(ranked) == 1:
            _print_all(*next(iter(ranked.items())))
        else:
            _print_best(ranked)
        if show and not as_json:
            _print_pictures(ranked)
        if out is not None and ranked and not as_json:
            say(f"\npictures: {out}")
    print_failures(failures)
    if failures:
        fail(f"{len(failures)} files or folders could not be read as any layout")


def _ranked(files: Sequence[Path], cameras: list[str] | None) -> "tuple[Ranked, list[Failure]]":
    from spikedata import Failure, SpikeDataError, find_recordings, rank_layouts

    ranked: Ranked = {}
    failures: list[Failure] = []
    found: list[Path] = []
    for path in files:
        try:
            found += find_recordings(path)
        except SpikeDataError as error:
            failures.append(Failure(id=str(path), path=str(path), error=str(error)))
    with progress_bar(len(found), "file", "inspect") as bar:
        for path in found:
            try:
                ranked[path] = rank_layouts(path, cameras=cameras)
            except SpikeDataError as error:
                failures.append(Failure(id=str(path), path=str(path), error=str(error)))
            bar.update()
    return ranked, failures


def _print_all(path: Path, found: "Sequence[LayoutCandidate]") -> None:
    """A table of all layouts of one file, and what to do next."""
    rows: list[tuple[str, ...]] = [("layout", "size", "ticks", "score", "strips", "verdict", "")]
    rows += [(*_cells(one), one.note) for one in found]
    _print_table(rows)
    command = _command(path, found[0])
    if found[0].verdict == "cannot tell":
        say("\nThe content cannot tell: look at the pictures, with --show or --out FILE.png.")
    if command:
        say(f"\n{command}")
    else:
        say(f"\nNo --camera is called {found[0].name}; in Python it is a Camera.")


_BEST_HEADS = ("file", "layout", "size", "ticks", "score", "strips", "verdict")


def _print_best(ranked: "Ranked") -> None:
    """A line a file."""
    rows: list[tuple[str, ...]] = [
        ("file", "layout", "size", "ticks", "score", "strips", "verdict")
    ]
    rows += [(str(path), *_cells(found[0])) for path, found in ranked.items()]
    if ranked:
        _print_table(rows)


def _cells(found: "LayoutCandidate") -> tuple[str, ...]:
    size = f"{found.height_px}x{found.width_px}"
    judged = (f"{found.score:.3f}", f"{found.certainty:.2f}", found.verdict)
    return found.name, size, f"{found.ticks:,}", *judged


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    from spikedata import printable

    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say("  ".join(cells).rstrip())


def _print_pictures(ranked: "Ranked") -> None:
    """Of one file its first layouts side by side, of several the best of each."""
    from spikedata import dots_of, printable

    shown = [(path.name, found[0]) for path, found in ranked.items()]
    if len(ranked) == 1:
        shown = [(found.name, found) for found in next(iter(ranked.values()))[:_SHOWN]]
    for first in range(0, len(shown), _SHOWN):
        some = shown[first : first + _SHOWN]
        pictures = [dots_of(found.picture_hw, _LETTERS) for _, found in some]
        say("\n" + " ".join(printable(name)[:_LETTERS].ljust(_LETTERS) for name, _ in some))
        for n in range(max(map(len, pictures))):
            lines = (lines[n] if n < len(lines) else " " * _LETTERS for lines in pictures)
            say(" ".join(lines).rstrip())


def _write_sheet(ranked: "Ranked", out: Path, overwrite: bool) -> None:
    from spikedata import draw_layouts, write_picture

    if len(ranked) == 1:
        sheet_hw = draw_layouts(next(iter(ranked.values()))[:_DRAWN])
    else:
        titles = [f"{path.name}: {found[0].name}" for path, found in ranked.items()]
        sheet_hw = draw_layouts([found[0] for found in ranked.values()], titles=titles)
    write_picture(out, sheet_hw, overwrite=overwrite)


def _command(path: Path, found: "LayoutCandidate") -> str | None:
    """The command line that packs a file as this layout."""
    if not found.is_named:
        return None
    return f"spikedata pack {shlex.quote(str(path))} --camera {found.name}"


def _as_json(path: Path, found: "Sequence[LayoutCandidate]") -> dict[str, Any]:
    told = [one.to_dict() for one in found]
    return {"file": str(path), "candidates": told, "command": _command(path, found[0])}
