"""What text from outside looks like where it is shown."""

import ast
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata import SpikeDataError, markdown_text, one_line, printable, shown

CLI = Path(__file__).resolve().parents[1] / "cli"


@given(st.text())
def test_text_is_printable_and_plain_text_is_left_alone(text):
    told = printable(text)
    assert told.replace("\u200c", "").replace("\u200d", "").isprintable()
    if text.isprintable():
        assert told == text


def test_escapes_and_overrides_are_shown_and_joiners_are_kept():
    assert printable("a\x1b[2Jb\u202ec\u2066d\x9b") == r"a\x1b[2Jb\u202ec\u2066d\x9b"
    assert printable("\udc80") == r"\udc80"  # of a file name that is not UTF-8
    assert printable("می\u200cخواهم") == "می\u200cخواهم"


def test_a_message_is_one_line_of_a_screen_with_both_its_ends():
    told = str(SpikeDataError(f"a.yaml: bad {'x' * 10**6}\n  \x1b[31m. Do this instead"))
    assert len(told) == 1_000
    assert told.startswith("a.yaml: bad xxx")
    assert told.endswith(r"xx \x1b[31m. Do this instead")
    assert " [...] " in told
    assert one_line("two  spaces stay\nlines do not") == "two  spaces stay lines do not"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("it's", '"it\'s"'),
        (1.5, "1.5"),
        ([1, None, "x"], "[1, None, 'x']"),
        ({"a": (1, 2)}, "{'a': (1, 2)}"),
    ],
)
def test_a_value_is_shown_as_its_repr(value, told):
    assert shown(value) == told


def test_a_large_value_is_cut():
    endless: list[object] = []
    endless.append(endless)
    assert shown(1 << 100_000) == "a large int"  # has too many digits to print
    for value in ("x" * 10**6, ["x" * 60] * 10**5, {i: [i] * 99 for i in range(999)}, endless):
        assert len(shown(value)) <= 100


def test_markdown_shows_the_words_themselves():
    assert markdown_text("a\n# [b](c) <i>`") == r"a \# \[b\]\(c\) \<i\>\`"


def test_all_that_the_commands_print_goes_through_one_function():
    """``say`` escapes; the one other call speaks before it can be loaded."""
    calls = {}
    for file in sorted(CLI.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("typer.echo", "print"):
                calls.setdefault(file.name, []).append(node.lineno)
    assert calls.keys() == {"common.py"}
    assert len(calls["common.py"]) == 2


def test_what_libraries_log_does_not_steer_the_terminal(tmp_path):
    import subprocess

    code = (
        "import logging\n"
        "from spikedata_cli.common import new_app, run\n"
        "app = new_app('x')\n"
        "@app.command()\n"
        "def go() -> None:\n    logging.getLogger('x').warning('a %s', 'b\\x1b[2J')\n"
        "run(app)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "a b\\x1b[2J\n"
