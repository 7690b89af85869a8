"""What the commands share: one-line errors, notes, tables, progress bars, opening and checking."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from spikedata import ClipSource, ClipStream, Corpus, Failure

STATUS_ERROR = 1
STATUS_USAGE = 2
STATUS_INTERRUPTED = 130

NUMBA_SETTINGS = ".numba_config.yaml"
"""Read by numba from the working folder whenever it compiles."""


def new_app(help_text: str) -> typer.Typer:
    """A typer application with plain output."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


def run(app: typer.Typer) -> None:
    """Run a command line.

    OpenMP's threads spin while they wait. Where something else wants the cores too, such as the
    process that reads the next batch, that makes a step several times as long: let them sleep.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _check_whose_spikedata_this_is()
    _keep_code_of_the_working_folder_out()
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_OneLine())
    app()


def _keep_code_of_the_working_folder_out() -> None:
    """Take from the working folder, which may be somebody's download, data alone.

    It is not on the path of a console script, unless as a name to be looked up in it, which an
    editable installation leaves there; but it would be first on the path of a Python process that
    a library starts. Numba takes settings from a file in it, which may name code to run.
    """
    sys.path[:] = [place for place in sys.path if os.path.isabs(place)]
    os.environ["PYTHONSAFEPATH"] = "1"
    if Path(NUMBA_SETTINGS).exists():
        say(
            f"error: {NUMBA_SETTINGS}: settings of numba, which can name code to run. Delete or "
            "rename it; settings of your own can be NUMBA_... environment variables",
            err=True,
        )
        raise SystemExit(STATUS_ERROR)


class _OneLine(logging.Formatter):
    """What libraries log, without what would steer the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        from spikedata import printable_lines

        return printable_lines(super().format(record))


def _check_whose_spikedata_this_is() -> None:
    """End here if the other project called spikedata was installed into the same folder."""
    import spikedata

    if "SpikeDataError" not in getattr(spikedata, "__all__", ()):
        typer.echo(
            f"error: {spikedata.__path__[0]} holds files of another project: pip uninstall "
            "spikedata, then pip install --force-reinstall --no-deps spklip",
            err=True,
        )
        raise SystemExit(STATUS_ERROR)


def say(text: object, *, err: bool = False, end: str = "\n") -> None:
    """Print, and nothing that would steer the terminal: all printing goes through here."""
    from spikedata import printable_lines

    typer.echo(printable_lines(str(text)) + end, err=err, nl=False)


def fail(message: str, status: int = STATUS_ERROR) -> NoReturn:
    """Print one line on stderr and end the command."""
    from spikedata import one_line

    say(f"error: {one_line(message)}", err=True)
    raise typer.Exit(status)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the command with one line for what is the user's to mend; bugs keep their traceback."""
    from spikedata import SpikeDataError

    try:
        yield
    except SpikeDataError as error:
        fail(str(error))
    except BrokenPipeError:  # who read the output has seen enough
        raise
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        named = f"{error.filename}: " if error.filename else ""
        fail(f"{named}{error.strerror}")
    except KeyboardInterrupt:
        fail("interrupted", STATUS_INTERRUPTED)


@contextmanager
def usage_errors_in_one_line() -> Iterator[None]:
    """Treat a ValueError as an option that does not fit: one line, status 2."""
    try:
        yield
    except ValueError as error:
        fail(str(error), STATUS_USAGE)


@contextmanager
def progress_bar(total: int | None, unit: str, text: str) -> Iterator[Any]:
    """A tqdm bar on stderr; silent where stderr is not a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, desc=text, disable=None, file=sys.stderr) as bar:
        yield bar


def is_number(text: str) -> bool:
    """Whether ``text`` is digits that `int` reads; ``str.isdigit`` alone also takes "²"."""
    return text.isascii() and text.isdigit()


def print_result(values: Mapping[str, Any], as_json: bool) -> None:
    """Print a result on stdout, as a table or as JSON."""
    say(json.dumps(values, indent=2, default=str) if as_json else as_table(values))


def print_rows(read: Callable[[], Iterable[Mapping[str, Any]]], as_json: bool) -> None:
    """Print rows of the same keys on stdout, one a line: a JSON list, or columns under a head.

    They may be many: they are read twice, for the widths of the columns, rather than kept.
    """
    if as_json:
        before = "["
        for row in read():
            say(before + json.dumps(row, default=str), end="")
            before = ",\n "
        say("[]" if before == "[" else "]")
        return
    widths: dict[str, int] = {}
    for row in read():
        for key, value in row.items():
            widths[key] = max(widths.get(key, len(key)), len(_text(value)))
    if widths:
        say("  ".join(key.ljust(width) for key, width in widths.items()).rstrip())
    for row in read():
        say("  ".join(_text(row[key]).ljust(width) for key, width in widths.items()).rstrip())


def print_failures(failures: "Iterable[Failure]") -> None:
    """Print on stderr what was left out, one line each."""
    for failure in failures:
        say(failure_line(failure), err=True)


def end_with_failures(failures: "Sequence[Failure]") -> None:
    """Print which clips could not be read, and end with status 1 if there are any."""
    print_failures(failures)
    if failures:
        count = len({failure.id for failure in failures})
        fail(f"{count} clips could not be read; the rest is done")


def failure_line(failure: "Failure") -> str:
    """What failed, and why."""
    from spikedata import one_line

    return one_line(f"failed: {failure.told()}")


def print_notes(notes: Iterable[str]) -> None:
    """Print on stderr what the user should know."""
    from spikedata import one_line

    for note in notes:
        say(f"note: {one_line(note)}", err=True)


def notes_of(opened: "ClipSource | Corpus | ClipStream") -> list[str]:
    """What was odd when something was opened, and what it was opened without."""
    return [*opened.notes, *(failure.note() for failure in opened.left_out)]


def advance(bar: Any, stage: str, done: int, total: int) -> None:
    """Show how far a piece of work of several stages is."""
    bar.total, bar.n = total, done
    bar.set_description(stage)


def open_set(
    path: Path, camera: str | None, flip: bool | None = None, tick_rate: float | None = None
) -> "ClipSource":
    """Open a set of clips; what is odd about it, or left out, goes to stderr."""
    from spikedata import open_clips

    with usage_errors_in_one_line():
        source = open_clips(path, camera=camera, flip=flip, tick_rate_hz=tick_rate)
    print_notes(notes_of(source))
    return source


def open_one(
    path: Path,
    clip: str | None,
    camera: str | None,
    flip: bool | None = None,
    tick_rate: float | None = None,
) -> "ClipStream":
    """Open one clip of a set, or one recording; what is odd about the set goes to stderr."""
    from spikedata import open_spikes

    with usage_errors_in_one_line():
        spikes = open_spikes(path, camera=camera, clip=clip, flip=flip, tick_rate_hz=tick_rate)
    print_notes(notes_of(spikes))
    return spikes


def check_engine(engine: str, address: str | None) -> None:
    """Refuse an address of a cluster that nothing would be done on."""
    if address is not None and engine != "ray":
        fail("--address: is that of a Ray cluster; give --engine ray too", STATUS_USAGE)


def check_output(out: Path, *read: Path, overwrite: bool) -> None:
    """Refuse OUT before any work: it is read, or lies in a store that is, or is there already."""
    for path in read:
        itself = out.exists() and path.exists() and out.samefile(path)
        inside = (path / "zarr.json").is_file() and path.resolve() in out.resolve().parents
        if itself or inside:
            fail(f"{out}: would change {path}, which is read here. Choose another name")
    if out.is_dir():
        fail(f"{out}: is a folder; give the name of a file")
    if out.exists() and not overwrite:
        fail(f"{out}: exists already. Give --overwrite to replace it")


def as_table(values: Mapping[str, Any]) -> str:
    """Keys and values, one pair a line, aligned; nested mappings are indented."""
    return "\n".join(_lines(values, ""))


def _lines(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    from spikedata import printable

    named = {printable(str(key)): value for key, value in values.items()}
    width = max(map(len, named), default=0)
    for key, value in named.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key:<{width}}  {_text(value)}".rstrip()


def _text(value: Any) -> str:
    from spikedata import printable

    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    return "-" if value is None else printable(str(value))
