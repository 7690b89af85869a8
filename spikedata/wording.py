"""Text from outside made harmless to read: on a terminal, in a message, on a page.

File names, labels, captions, recipes and a server's answers are anybody's. They may steer a
terminal, show a name backwards, or be a hundred thousand letters long.
"""

import re
import reprlib
from typing import Any

MOST_LETTERS = 1_000
"""Of a message: about a screen."""
MOST_SHOWN = 100
"""Of a value within a message."""

_JOINERS = "\u200c\u200d"
"""Not printable to Python, but needed by Persian, by Indic scripts and by emoji."""


def printable(text: str) -> str:
    """Text on one line, without what would steer a terminal or turn the order of writing.

    Whatever is not printable, line breaks too, is written as its escape, such as that of U+001B.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in text
    )


def printable_lines(text: str) -> str:
    """Text of several lines, each :func:`printable`."""
    return "\n".join(map(printable, text.split("\n")))


def one_line(text: str) -> str:
    """A message as one printable line of a screen at most; a longer one keeps both its ends."""
    # Of a text without end only its ends are looked at.
    text = _cut(text, 20 * MOST_LETTERS)
    joined = " ".join(line.strip() for line in text.splitlines()) if text.strip() else text
    return _cut(printable(joined), MOST_LETTERS)


def located(where: object, told: str) -> str:
    """A message with where it happened in front, unless it begins with that itself."""
    return told if told.startswith((f"{where}: ", f"{where}/")) else f"{where}: {told}"


def markdown_text(text: str) -> str:
    """Text as Markdown that shows just it: no mark-up, one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#!|~&])", r"\\\1", printable(" ".join(text.split())))


def shown(value: Any) -> str:
    """A value as a message shows it: its ``repr``, cut where it would be long."""
    try:
        return _cut(_Short.repr(value), MOST_SHOWN)
    except (ValueError, RecursionError):  # a number of too many digits to print; a list in itself
        return f"a large {type(value).__name__}"


class _Repr(reprlib.Repr):
    """Looks at no more of a value than is shown, and leaves what is short as ``repr`` has it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 12
        self.maxstring = self.maxlong = self.maxother = MOST_SHOWN


_Short = _Repr()


def _cut(text: str, most: int) -> str:
    """The beginning, and the end, where the advice stands, of a text that is too long."""
    if len(text) <= most:
        return text
    kept = most - len(_LEFT_OUT)
    head, tail = text[: kept - kept // 3], text[-(kept // 3) :]
    return f"{head}{_LEFT_OUT}{tail}"


_LEFT_OUT = " [...] "
