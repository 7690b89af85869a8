"""Write reference/cli.md and reference/python.md from the code; run it by its path."""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

REFERENCE = Path(__file__).parent / "reference"
PROGRAMS = {
    "spikedata": ("spikedata_cli.data", "app"),
    "spklip-train": ("spikedata_cli.train", "app"),
    "spklip-eval": ("spikedata_cli.train", "eval_app"),
}
MADE = "<!-- Made by docs/build_reference.py; edit the docstrings instead. -->\n\n"


def cli_reference() -> str:
    """Markdown of every command's help."""
    return MADE + "# Commands\n\n" + "\n".join(_programs())


def _programs() -> Iterator[str]:
    for name, (module, attribute) in PROGRAMS.items():
        command = typer.main.get_command(getattr(importlib.import_module(module), attribute))
        context = typer.Context(command, info_name=name)
        text = get_docs_for_click(obj=command, ctx=context, name=name)
        yield text.replace("\n# ", "\n## ", 1) if text.startswith("\n") else "#" + text


def python_reference() -> str:
    """Markdown of every public name: signature and docstring."""
    return (
        MADE + "# Python\n\n" + "\n".join(_names("spikedata")) + "\n" + "\n".join(_names("spklip"))
    )


def _names(package: str) -> Iterator[str]:
    module = importlib.import_module(package)
    yield f"## {package}\n\n{inspect.getdoc(module)}\n"
    for name in sorted(module.__all__, key=str.lower):
        value = getattr(module, name)
        yield f"### `{name}{_signature(value)}`\n\n{_text(value)}\n"


def _signature(value: Any) -> str:
    if inspect.isfunction(value) or (inspect.isclass(value) and "__init__" in vars(value)):
        parameters = inspect.signature(value).parameters
        return "(" + ", ".join(str(p).partition(":")[0] for p in parameters.values()) + ")"
    return ""


def _text(value: Any) -> str:
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return f"A `{type(value).__name__}`."
    return f"```text\n{inspect.getdoc(value)}\n```"


if __name__ == "__main__":
    (REFERENCE / "cli.md").write_text(cli_reference())
    (REFERENCE / "python.md").write_text(python_reference())
