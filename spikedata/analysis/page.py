"""One HTML page, all in one file: what every report is written as. Text is escaped by Jinja."""

import base64
import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.analysis.pictures import png_bytes
from spikedata.outputs import write_whole
from spikedata.wording import one_line, printable_lines

_log = logging.getLogger(__name__)

_TEMPLATE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .6rem 0 }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left } .small { color: #555; font-size: .9rem }
td a { text-decoration: none } td { overflow-wrap: break-word; max-width: 36rem }
.beside { display: flex; flex-wrap: wrap; gap: 0 1.5rem; align-items: flex-start; font-size: .8rem }
.beside th, .beside td { padding: .1rem .4rem; max-width: 12rem } .beside th { max-width: 6rem }
.links a { margin-right: .6rem }
tr.marked { color: #b00020; font-weight: bold }
img, svg { max-width: 100%; height: auto }
.tiles { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)) }
.tiles figure { margin: 0 } .tiles img { width: 100%; }
.tiles figcaption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto }
</style></head>
<body>
<h1>{{ title }}</h1>
{%- for part in parts %}
{%- if part.kind == "heading" %}
<h2>{{ part.text }}</h2>
{%- elif part.kind == "text" %}
<p{% if part.small %} class="small"{% endif %}>{{ part.text }}</p>
{%- elif part.kind == "items" %}
<ul>{% for item in part["items"] %}<li>{{ item }}</li>{% endfor %}</ul>
{%- elif part.kind == "code" %}
<pre>{{ part.text }}</pre>
{%- elif part.kind == "links" %}
<p class="links">{% for link in part.links %}<a href="{{ link.href }}">{{ link.text }}</a>
{%- endfor %}</p>
{%- elif part.kind == "table" %}
{%- if part.pieces | length > 1 %}<div class="beside">{% endif %}
{%- for piece in part.pieces %}
<table><tr>{% for cell in part.heads %}<th>{{ cell }}</th>{% endfor %}</tr>
{%- for row in piece %}
<tr{% if row.marked %} class="marked"{% endif %}>
{%- for cell in row.cells %}<td>{% if cell.href %}<a href="{{ cell.href }}">{{ cell.text }}</a>
{%- else %}{{ cell }}{% endif %}</td>{% endfor %}</tr>
{%- endfor %}</table>
{%- endfor %}{% if part.pieces | length > 1 %}</div>{% endif %}
{%- elif part.kind == "svg" %}
{{ part.svg | safe }}
{%- elif part.kind == "picture" %}
<img alt="{{ part.alt }}" src="data:image/png;base64,{{ part.png }}">
{%- elif part.kind == "tiles" %}
<div class="tiles">
{%- for tile in part.tiles %}
<figure>{% if tile.data %}<img alt="{{ tile.lines | join(", ") }}" loading="lazy"
 src="data:image/{{ part.format }};base64,{{ tile.data }}">{% endif %}
<figcaption>{% for line in tile.lines %}{{ line }}<br>{% endfor %}</figcaption></figure>
{%- endfor %}</div>
{%- endif %}
{%- endfor %}
</body></html>
"""


@dataclass(frozen=True)
class Link:
    """Words that lead to another page."""

    text: str
    href: str
    """Relative to the page, with whatever is no letter or digit quoted."""


class Page:
    """A page that is added to from top to bottom; equal parts give equal bytes."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[dict[str, Any]] = []

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._parts.append({"kind": "heading", "text": text})

    def text(self, text: str, *, small: bool = False) -> None:
        """A paragraph."""
        self._parts.append({"kind": "text", "text": text, "small": small})

    def items(self, items: Iterable[str]) -> None:
        """A list; nothing if it is empty."""
        if shown := list(items):
            self._parts.append({"kind": "items", "items": shown})

    def code(self, text: str) -> None:
        """Text as it stands."""
        self._parts.append({"kind": "code", "text": text})

    def table(
        self,
        heads: Sequence[Any],
        rows: Iterable[Sequence[Any]],
        *,
        marked: Collection[int] = (),
        most_rows: int | None = None,
    ) -> None:
        """A table; nothing without rows.

        Args:
            heads: of the columns.
            rows: cells of each row; a :class:`Link` is one to follow.
            marked: numbers, from 0, of rows that stand out.
            most_rows: a longer table is cut in pieces, as long as one another, side by side.
        """
        shown = [{"cells": list(row), "marked": n in marked} for n, row in enumerate(rows)]
        if not shown:
            return
        pieces = 1 if most_rows is None else -(-len(shown) // most_rows)
        step = -(-len(shown) // pieces)
        cut = [shown[first : first + step] for first in range(0, len(shown), step)]
        self._parts.append({"kind": "table", "heads": list(heads), "pieces": cut})

    def links(self, links: Iterable[Link]) -> None:
        """A line of links; nothing without any."""
        if shown := list(links):
            self._parts.append({"kind": "links", "links": shown})

    def figure(self, figure: Any) -> None:
        """A ``matplotlib.figure.Figure``, drawn as SVG."""
        matplotlib = _load_matplotlib()
        # Labels and names are anybody's: no mathematics is read in them, nor LaTeX run on them.
        for text in figure.findobj(matplotlib.text.Text):
            text.set(parse_math=False, usetex=False)
        settings = dict(matplotlib.rcParamsDefault) | {"svg.hashsalt": "spikedata"}
        settings.pop("backend", None)  # no window is drawn in
        file = io.StringIO()
        with matplotlib.rc_context(settings), warnings.catch_warnings():
            # The same figure draws the same bytes. A letter that the font lacks is drawn as a box.
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            figure.savefig(file, format="svg", metadata={"Date": None})
        drawn = file.getvalue()
        self._parts.append({"kind": "svg", "svg": drawn[drawn.index("<svg") :]})

    def picture(self, grey_hw: NDArray[np.uint8], alt: str) -> None:
        """A grey picture, uint8 (H, W), and what it shows."""
        png = base64.b64encode(png_bytes(grey_hw)).decode()
        self._parts.append({"kind": "picture", "png": png, "alt": alt})

    def colour_pictures(self, tiles: Iterable[tuple[NDArray[np.uint8], Sequence[str]]]) -> None:
        """Coloured pictures, uint8 (H, W, 3), in a grid, each with lines of text under it.

        Without tiles there is nothing.
        """
        self._tiles("png", ((png_bytes(rgb_hwc), lines) for rgb_hwc, lines in tiles))

    def animations(self, tiles: Iterable[tuple[bytes | None, Sequence[str]]]) -> None:
        """Small moving pictures in a grid, each an animated WebP with lines of text under it.

        A tile without a picture shows its text alone; without tiles there is nothing.
        """
        self._tiles("webp", tiles)

    def _tiles(self, kind: str, tiles: Iterable[tuple[bytes | None, Sequence[str]]]) -> None:
        shown = [
            {"data": base64.b64encode(data).decode() if data else "", "lines": list(lines)}
            for data, lines in tiles
        ]
        if shown:
            self._parts.append({"kind": "tiles", "format": kind, "tiles": shown})

    def render(self) -> str:
        """The page as HTML."""
        from jinja2 import Environment  # noqa: PLC0415  # for reports alone

        template = Environment(autoescape=True, finalize=_harmless).from_string(_TEMPLATE)
        return template.render(title=self._title, parts=self._parts) + "\n"


def _harmless(value: Any) -> Any:
    """What the template is given, without characters that turn the order of writing."""
    plain = isinstance(value, str) and not hasattr(value, "__html__")  # drawings are not text
    return printable_lines(value) if plain else value


def write_page(path: Path, draw: Callable[[], str]) -> None:
    """Write a page of results that are stored already; what hinders that is logged in one line.

    Args:
        path: the page; an earlier one is replaced, or removed.
        draw: gives its HTML.
    """
    try:
        path.unlink(missing_ok=True)
        write_whole(path, draw())
    except Exception as error:  # results cost hours, and no label may cost them
        _log.warning("%s: not written: %s", path, one_line(f"{type(error).__name__}: {error}"))


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A ``matplotlib.figure.Figure`` of so many inches, and its axes, that no window shows."""
    figure = _load_matplotlib().figure.Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def _load_matplotlib() -> Any:
    """Matplotlib, without settings that lie in the working folder, which may be anybody's."""
    if "matplotlib" in sys.modules or not os.path.exists("matplotlibrc"):
        elsewhere: Any = contextlib.nullcontext()
    else:
        elsewhere = _in_an_empty_folder()
    with elsewhere:
        import matplotlib.figure  # noqa: PLC0415  # half a second, for reports alone
        import matplotlib.text  # noqa: PLC0415  # as above
    return matplotlib


@contextlib.contextmanager
def _in_an_empty_folder() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        yield
