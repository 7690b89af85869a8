"""What each address of the page's server answers.

An address is looked up in a table, and a clip in the set's list: no path is made of what a request
says. Text goes out as JSON and is shown as text.
"""

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from spikedata.analysis import png_bytes
from spikedata.camera import Camera
from spikedata.clip import SPLITS
from spikedata.clips import lost_spans
from spikedata.serving.shelf import Query, Row, Shelf, labels_of
from spikedata.serving.showing import Showing
from spikedata.wording import printable, shown

ASSETS = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        name: (name, "text/javascript; charset=utf-8")
        for name in (
            "page.js",
            "common.js",
            "grid.js",
            "player.js",
            "pixel.js",
            "health.js",
            "labels.js",
            "layouts.js",
        )
    },
}
"""File and kind of each address that is a file of the package."""
MOST_ON_PAGE = 2_000
"""Clips of one page of the grid."""
MOST_STILLS = 64
"""Pictures of one answer."""
_MOST_TOLD = 200
"""Notes, failures and torn groups that are listed; there may be more."""


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    body: bytes
    kind: str
    keep: bool = False
    """Whether the browser may keep it: its address has the version of what it shows."""


class Asked:
    """The values that a request brings, checked as they are taken.

    Args:
        values: by name.
        is_wanted: whether somebody still waits for the answer.
    """

    def __init__(self, values: Mapping[str, Any], is_wanted: Callable[[], bool]) -> None:
        self._values = values
        self.is_wanted = is_wanted

    def text(self, name: str) -> str:
        """A text that must be there.

        Raises:
            ValueError: it is not.
        """
        value = self._values.get(name)
        if not isinstance(value, str):
            raise ValueError(f"{name} must be text, got {shown(value)}")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts, which is written as JSON.

        Raises:
            ValueError: it is none.
        """
        try:
            values = json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} must be a list of texts") from error
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise ValueError(f"{name} must be a list of texts, got {shown(values)}")
        return values

    def number(self, name: str, default: int | None = None) -> int:
        """A whole number from 0 to a thousand million.

        Raises:
            ValueError: it is none.
        """
        value = self._values.get(name, default)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            value = int(value)
        if type(value) is not int or not 0 <= value < 10**9:
            raise ValueError(f"{name} must be a whole number from 0, got {shown(value)}")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """An object that must be there.

        Raises:
            ValueError: it is not.
        """
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be an object, got {shown(value)}")
        return value

    def flag(self, name: str) -> bool:
        """Whether something is wanted.

        Raises:
            ValueError: it is neither true nor false.
        """
        value = self._values.get(name)
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {shown(value)}")
        return value

    def query(self) -> Query:
        """Which clips."""
        chosen = {name: self._values.get(name) for name in ("label", "split", "camera")}
        return Query(**chosen, text=str(self._values.get("text", "")))


class Routes:
    """All that is answered, by address.

    Args:
        shelf: the set of clips.
        showing: pictures of it.
    """

    def __init__(self, shelf: Shelf, showing: Showing) -> None:
        self._shelf, self._showing = shelf, showing
        self.looks: dict[str, Callable[[Asked], Answer]] = {
            "api/set": self._set,
            "api/clips": self._clips,
            "api/clip": self._clip,
            "api/still": functools.partial(self._thumbnail, moving=False),
            "api/stills": self._stills,
            "api/moving": functools.partial(self._thumbnail, moving=True),
            "api/frames": self._frames,
            "api/pixel": self._pixel,
            "api/health": self._health,
            "api/rates": self._rates,
            "api/marked": self._marked,
            "api/layouts": self._layouts,
            "api/layout": self._layout,
            **{name: functools.partial(_asset, *about) for name, about in ASSETS.items()},
        }
        """Answers that change nothing."""
        self.changes: dict[str, Callable[[Asked], Answer]] = {
            "api/label": self._label,
            "api/undo": self._undo,
            "api/camera": self._camera,
        }
        """Answers that change the set."""

    def _set(self, asked: Asked) -> Answer:
        shelf = self._shelf
        shelf.refresh()
        source = shelf.source
        return _json(
            {
                "name": printable(source.name),
                "path": printable(str(shelf.path)),
                "format": source.format,
                "version": shelf.version,
                "clips": len(source.clips),
                "counts": shelf.counts(),
                "splits": list(SPLITS),
                "why_fixed": shelf.why_fixed,
                "notes": [printable(note) for note in source.notes[:_MOST_TOLD]],
                "left_out": len(shelf.left_out),
                "failures": [
                    {
                        "file": number,
                        "id": printable(one.id),
                        "error": one.error,
                        "guess": shelf.file_left_out(number) is not None,
                    }
                    for number, one in enumerate(shelf.left_out[:_MOST_TOLD])
                ],
            }
            | self._torn()
        )

    def _clips(self, asked: Asked) -> Answer:
        rows = self._shelf.rows(asked.query())
        size = min(max(1, asked.number("size", 96)), MOST_ON_PAGE)
        pages = max(1, math.ceil(len(rows) / size))
        page = min(asked.number("page", 0), pages - 1)
        listed = rows[page * size : (page + 1) * size]
        return _json(
            {
                "version": self._shelf.version,
                "total": len(rows),
                "page": page,
                "pages": pages,
                "size": size,
                "clips": [_brief(row) for row in listed],
            }
        )

    def _clip(self, asked: Asked) -> Answer:
        clip_id = asked.text("id")
        row = self._shelf.row(clip_id)
        beside = self._shelf.beside(clip_id, asked.query())
        return _json(self._told(row) | beside | {"version": self._shelf.version})

    def _told(self, row: Row) -> dict[str, Any]:
        """All that is known of a clip, for its own view."""
        stored, source = row.stored, self._shelf.source
        torn = self._shelf.torn_groups().get(stored.clip.group or "")
        return (
            _brief(row)
            | labels_of(stored)
            | {
                "firing_rate": stored.firing_rate,
                "bytes": source.stored_bytes(stored.id),
                "packed_bytes": stored.packed_bytes,
                "losses": stored.losses,
                "lost": lost_spans(stored.attributes),
                "licence": stored.clip.licence,
                "source": stored.clip.source,
                "attributes": stored.attributes,
                "torn": torn,
            }
        )

    def _thumbnail(self, asked: Asked, *, moving: bool) -> Answer:
        clip_id = self._shelf.row(asked.text("id")).stored.id
        side_px = asked.number("px", 128)
        made = self._showing.thumbnail(
            clip_id, side_px=side_px, moving=moving, is_wanted=asked.is_wanted
        )
        return Answer(made, "image/webp", keep=True)

    def _stills(self, asked: Asked) -> Answer:
        ids, side_px = asked.texts("ids")[:MOST_STILLS], asked.number("px", 128)
        made = self._showing.stills(ids, side_px=side_px, is_wanted=asked.is_wanted)
        return Answer(made, "application/octet-stream")

    def _frames(self, asked: Asked) -> Answer:
        made = self._showing.frames(
            self._shelf.row(asked.text("id")).stored.id,
            method=asked.text("method"),
            window_ticks=asked.number("window"),
            start=asked.number("start"),
            step=asked.number("step"),
            count=asked.number("count"),
        )
        return Answer(made, "application/octet-stream")

    def _pixel(self, asked: Asked) -> Answer:
        numbers = {name: asked.number(name) for name in ("x", "y", "start", "ticks")}
        return _json(self._showing.pixel(self._shelf.row(asked.text("id")).stored.id, **numbers))

    def _health(self, asked: Asked) -> Answer:
        clip_id = self._shelf.row(asked.text("id")).stored.id
        return _json(self._showing.health(clip_id).to_dict())

    def _rates(self, asked: Asked) -> Answer:
        clip_id = self._shelf.row(asked.text("id")).stored.id
        return Answer(self._showing.rates(clip_id), "application/octet-stream")

    def _marked(self, asked: Asked) -> Answer:
        clip_id = self._shelf.row(asked.text("id")).stored.id
        return Answer(self._showing.marked(clip_id), "application/octet-stream")

    def _layouts(self, asked: Asked) -> Answer:
        number = asked.number("file")
        found = self._showing.layouts(self._file(number))
        told = [
            one.to_dict()
            | {
                "note": printable(one.note),
                "name": printable(one.name),
                "turned": _turned(one.camera),
            }
            for one in found
        ]
        return _json({"candidates": told, "alike": len(self._shelf.files_left_out())})

    def _layout(self, asked: Asked) -> Answer:
        found = self._showing.layouts(self._file(asked.number("file")))
        number = asked.number("number")
        if number >= len(found):
            raise ValueError(f"there are {len(found)} layouts, got {number}")
        return Answer(png_bytes(found[number].picture_hw), "image/png", keep=True)

    def _file(self, number: int) -> Path:
        path = self._shelf.file_left_out(number)
        if path is None:
            raise ValueError(f"no file {number} waits for its layout")
        return path

    def _camera(self, asked: Asked) -> Answer:
        camera = asked.text("camera")
        opened, told = self._shelf.name_camera(
            asked.number("file"), camera, every=asked.flag("every")
        )
        return _json({"opened": opened, "told": printable(told)})

    def _label(self, asked: Asked) -> Answer:
        was = asked.mapping("was")
        row = self._shelf.change(asked.text("id"), asked.mapping("changes"), was)
        return self._changed(row)

    def _undo(self, asked: Asked) -> Answer:
        return self._changed(self._shelf.undo())

    def _changed(self, row: Row) -> Answer:
        return _json({"clip": self._told(row)} | self._torn())

    def _torn(self) -> dict[str, Any]:
        """Groups on several sides of a split: some of them, and how many there are."""
        torn = self._shelf.torn_groups()
        return {"torn": dict(list(torn.items())[:_MOST_TOLD]), "torn_groups": len(torn)}


def _turned(camera: Camera) -> str | None:
    """What ``--camera`` takes for the same planes upside down; None if nothing."""
    if camera.layout != "planes" or camera.row_bytes is not None:
        return None
    order = "-msb" if camera.bit_order == "big" else ""
    turn = "" if camera.bottom_up else ":bottom-up"
    return f"{camera.height_px}x{camera.width_px}{order}{turn}"


def _brief(row: Row) -> dict[str, Any]:
    """What the grid shows of a clip."""
    stored = row.stored
    return {
        "id": stored.id,
        "label": stored.clip.label,
        "captions": list(stored.clip.captions),
        "split": stored.clip.split,
        "group": stored.clip.group,
        "camera": row.camera,
        "ticks": stored.ticks,
        "height_px": stored.height_px,
        "width_px": stored.width_px,
        "tick_rate_hz": stored.tick_rate_hz,
    }


def _asset(name: str, kind: str, asked: Asked) -> Answer:
    return Answer((resources.files(__package__) / "assets" / name).read_bytes(), kind)


def _json(value: Any) -> Answer:
    """JSON that every browser reads: no infinity in it."""
    return Answer(json.dumps(_finite(value), allow_nan=False).encode(), "application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
