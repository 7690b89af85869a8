"""Clips as tiles that move, on one page or on many: the part of a report that grows with the set.

A page is drawn, written and let go before the next one: memory does not depend on how many there
are.
"""

import re
import urllib.parse
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spikedata.analysis.movies import animate_clip
from spikedata.analysis.page import Link, Page
from spikedata.clips import ClipSource, StoredClip
from spikedata.errors import SpikeDataError, StoreError
from spikedata.outputs import Failure, remove, write_whole
from spikedata.wording import one_line

PAGE_CLIPS = 100
"""Clips of a page."""
_SIDE_PX = 160
_MOST_BYTES = 30_000
_STILL_BYTES = 4_000
_MOST_CAPTIONS = 3
_MOST_LETTERS = 120
_PAGE_NAME = re.compile(r"page-\d{4,}\.html")

Tile = tuple[bytes | None, Sequence[str]]


class ClipTiles:
    """Makes the tiles of clips.

    Args:
        source: where the clips are.
        moving: ids of those whose thumbnail moves.
        threads: how many thumbnails are made at once.
        step: called for each tile.
    """

    def __init__(
        self,
        source: ClipSource,
        moving: Collection[str],
        threads: int,
        step: Callable[[], None],
        failed: Callable[[Failure], None],
    ) -> None:
        self._source, self._moving = source, frozenset(moving)
        self._threads, self._step, self._failed = threads, step, failed

    def of(self, clip_ids: Sequence[str]) -> Iterator[Tile]:
        """A thumbnail of each clip, as far as it can be read, and what is known of it."""
        pool = ThreadPoolExecutor(self._threads)
        try:
            for tile in pool.map(self._tile, clip_ids):
                self._step()
                yield tile
        finally:  # on Ctrl-C nobody waits for a whole page
            pool.shutdown(cancel_futures=True)

    def _tile(self, clip_id: str) -> Tile:
        stored = self._source.clips[clip_id]
        lines = _lines(stored)
        # A browser magnifies small ones as well, from fewer bytes.
        how = {"side_px": min(_SIDE_PX, max(stored.height_px, stored.width_px))}
        if clip_id in self._moving:
            how["most_bytes"] = _MOST_BYTES
        else:
            how |= {"pictures": 1, "most_bytes": _STILL_BYTES}
        try:
            return animate_clip(self._source, clip_id, **how), lines
        except (SpikeDataError, OSError) as error:  # one bad clip costs no page
            self._failed(Failure(id=clip_id, path="", error=str(error)))
            return None, [*lines, _brief(f"cannot be read: {one_line(str(error))}")]


def _lines(stored: StoredClip) -> list[str]:
    """What a tile tells of its clip."""
    clip = stored.clip
    seconds = stored.ticks / stored.tick_rate_hz
    lines = [
        clip.id,
        " · ".join(_brief(text) for text in (clip.label or "(no label)", clip.split) if text),
        f"{stored.size}, {stored.ticks:,} ticks, {seconds:.3g} s",
    ]
    if stored.camera:
        lines.append(f"camera {_brief(stored.camera)}")
    if spans := stored.losses.get("lost spans"):
        places = "place" if spans == 1 else "places"
        lines.append(f"{stored.losses.get('ticks lost', 0):,} ticks lost in {spans:,} {places}")
    lines += [_brief(text) for text in clip.captions[:_MOST_CAPTIONS]]
    if len(clip.captions) > _MOST_CAPTIONS:
        lines.append(f"and {len(clip.captions) - _MOST_CAPTIONS} more captions")
    return lines


def _brief(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 3] + "..."


class ClipPages:
    """Which page of a report each clip is on.

    Args:
        clip_ids: of all clips, in order.
        out: the report.
    """

    def __init__(self, clip_ids: Sequence[str], out: Path) -> None:
        self.folder = folder_of(out)
        self._out = out
        self._ids = clip_ids
        self._count = -(-len(clip_ids) // PAGE_CLIPS)

    def pages(self) -> list[tuple[Link, str, str]]:
        """A link to each page, from the report, and the first and the last id on it."""
        return [
            (self.link(n * PAGE_CLIPS, f"page {n + 1}"), ids[0], ids[-1])
            for n in range(self._count)
            if (ids := self._on(n))
        ]

    def link(self, place: int, text: str) -> Link:
        """Words that lead from the report to the page of the clip at ``place`` of the ids."""
        return Link(text, _quoted(f"{self.folder.name}/{_name(place // PAGE_CLIPS)}"))

    def write(self, folder: Path, title: str, tiles: ClipTiles) -> None:
        """Write every page into a folder."""
        for n in range(self._count):
            page = Page(f"{title}: page {n + 1} of {self._count}")
            page.links(self._beside(n))
            page.animations(tiles.of(self._on(n)))
            page.links(self._beside(n))
            write_whole(folder / _name(n), page.render())

    def _on(self, n: int) -> Sequence[str]:
        return self._ids[n * PAGE_CLIPS : (n + 1) * PAGE_CLIPS]

    def _beside(self, n: int) -> Iterator[Link]:
        yield Link("overview", _quoted(f"../{self._out.name}"))
        if n > 0:
            yield Link("previous", _name(n - 1))
        if n + 1 < self._count:
            yield Link("next", _name(n + 1))


def _name(n: int) -> str:
    return f"page-{n + 1:04}.html"


def _quoted(path: str) -> str:
    """A relative address; ``./`` keeps a colon in a name from being read as a protocol."""
    return "./" + urllib.parse.quote(path, errors="surrogateescape")


def folder_of(out: Path) -> Path:
    """Where the pages of a report lie that has more than one."""
    return out.with_name(f"{out.stem}.report")


def check_pages(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder for pages in which something is that is not ours to replace.

    Raises:
        StoreError: it is there and ``overwrite`` is False, or it holds other files.
    """
    folder = folder_of(out)
    if not (folder.exists() or folder.is_symlink()):
        return
    if not overwrite:
        raise StoreError(f"{folder}: exists already. Give --overwrite to replace it")
    other = _not_a_page(folder)
    if other is not None:
        raise StoreError(
            f"{other}: is no page of a report, and --overwrite would remove it. Move it away, or "
            "choose another --out"
        )


def remove_pages(out: Path) -> None:
    """Remove the pages of an earlier report; see :func:`check_pages`."""
    remove(folder_of(out))


def _not_a_page(folder: Path) -> Path | None:
    if folder.is_symlink() or not folder.is_dir():
        return folder
    inside = sorted(folder.iterdir())
    return next((p for p in inside if p.is_dir() or not _PAGE_NAME.fullmatch(p.name)), None)
