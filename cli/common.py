"""What the commands share: one-line errors, tables, progress bars."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

STATUS_ERROR = 1
STATUS_USAGE = 2
STATUS_INTERRUPTED = 130


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
    app()


def fail(message: str, status: int = STATUS_ERROR) -> NoReturn:
    """Print one line on stderr and end the command."""
    typer.echo(f"error: {' '.join(str(message).split())}", err=True)
    raise typer.Exit(status)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the command with one line for what is the user's to mend; bugs keep their traceback."""
    from spikedata import SpikeDataError

    try:
        yield
    except SpikeDataError as error:
        fail(str(error))
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


def as_table(values: Mapping[str, Any]) -> str:
    """Keys and values, one pair a line, aligned; nested mappings are indented."""
    return "\n".join(_lines(values, ""))


def _lines(values: Mapping[str, Any], indent: str) -> Iterator[str]:
    width = max((len(str(key)) for key in values), default=0)
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key!s:<{width}}  {_text(value)}".rstrip()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    return "-" if value is None else str(value)
