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

    Seen = tuple[Path, Sequence[LayoutCandidate]]

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
_DRAWN, _DRAWN_FILES = 8, 64
"""Layouts of one file on a sheet, and files on one."""
_HEADINGS = ("layout", "size", "ticks", "score", "certainty", "verdict")


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
        found, failures = _found(files)
        seen = _seen(found, camera, failures)
        if out is not None and seen:
            _write_sheet(seen, out, overwrite)
    if as_json:
        told = [_as_json(path, ranked) for path, ranked in seen]
        print_result({"files": told, "sheet": out if seen else None}, as_json)
    elif seen:
        _print(seen, show=show, alone=len(found) == 1)
        if out is not None:
            say(f"\npictures: {out}")
    print_failures(failures)
    if failures:
        fail(f"{len(failures)} files or folders could not be read as any layout")


def _found(files: Sequence[Path]) -> "tuple[list[Path], list[Failure]]":
    from spikedata import Failure, SpikeDataError, find_recordings

    found: list[Path] = []
    failures: list[Failure] = []
    for path in files:
        try:
            found += find_recordings(path)
        except SpikeDataError as error:
            failures.append(Failure(id=str(path), path=str(path), error=str(error)))
    return found, failures


def _seen(found: list[Path], cameras: list[str] | None, failures: "list[Failure]") -> "list[Seen]":
    """Each file with all its layouts, of several files the best alone; and what failed."""
    from spikedata import Failure, SpikeDataError, rank_layouts

    seen: list[Seen] = []
    with progress_bar(len(found), "file", "inspect") as bar:
        for path in found:
            try:
                ranked = rank_layouts(path, cameras=cameras)
                seen.append((path, ranked if len(found) == 1 else ranked[:1]))
            except SpikeDataError as error:
                failures.append(Failure(id=str(path), path=str(path), error=str(error)))
            bar.update()
    return seen


def _print(seen: "list[Seen]", *, show: bool, alone: bool) -> None:
    if alone:
        _print_all(*seen[0])
    else:
        rows = [(str(path), *_cells(ranked[0])) for path, ranked in seen]
        _print_table([("file", *_HEADINGS), *rows])
    if show:
        _print_pictures(seen)


def _print_all(path: Path, ranked: "Sequence[LayoutCandidate]") -> None:
    """A table of all layouts of one file, and what to do next."""
    _print_table([(*_HEADINGS, ""), *((*_cells(found), found.note) for found in ranked)])
    command = _command(path, ranked[0])
    if ranked[0].verdict == "cannot tell":
        say("\nThe content cannot tell: look at the pictures, with --show or --out FILE.png.")
    turned = "--no-flip" if ranked[0].camera.bottom_up else "--flip"
    say(f"\n{command}\nIf it is upside down, which no file tells: {turned}")


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


def _print_pictures(seen: "list[Seen]") -> None:
    """Of one file its first layouts side by side, of several the best of each."""
    from spikedata import dots_of, printable

    shown = _captioned(seen)[:_SHOWN] if len(seen) == 1 else _captioned(seen)
    for first in range(0, len(shown), _SHOWN):
        some = shown[first : first + _SHOWN]
        pictures = [dots_of(found.picture_hw, _LETTERS) for _, found in some]
        say("\n" + " ".join(printable(name)[:_LETTERS].ljust(_LETTERS) for name, _ in some))
        for n in range(max(map(len, pictures))):
            lines = (lines[n] if n < len(lines) else " " * _LETTERS for lines in pictures)
            say(" ".join(lines).rstrip())


def _captioned(seen: "list[Seen]") -> "list[tuple[str, LayoutCandidate]]":
    """The layouts of one file, or the best of each of several."""
    if len(seen) == 1:
        return [(f"{n + 1}. {found.name}", found) for n, found in enumerate(seen[0][1])]
    return [(f"{path.name}: {ranked[0].name}", ranked[0]) for path, ranked in seen]


def _write_sheet(seen: "list[Seen]", out: Path, overwrite: bool) -> None:
    from spikedata import draw_layouts, write_picture

    shown = _captioned(seen)[: _DRAWN if len(seen) == 1 else _DRAWN_FILES]
    titles = [title for title, _ in shown]
    sheet_hw = draw_layouts([found for _, found in shown], titles=titles)
    write_picture(out, sheet_hw, overwrite=overwrite)


def _command(path: Path, found: "LayoutCandidate") -> str:
    """The command line that packs a file as this layout."""
    return f"spikedata pack {shlex.quote(str(path))} --camera {shlex.quote(found.name)}"


def _as_json(path: Path, found: "Sequence[LayoutCandidate]") -> dict[str, Any]:
    told = [one.to_dict() for one in found]
    return {"file": str(path), "candidates": told, "command": _command(path, found[0])}
