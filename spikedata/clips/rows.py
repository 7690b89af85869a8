"""Rows of a published data set, as ``datasets.load_dataset`` gives them, as a set of clips."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spikedata.clips.frames import ClipFrames
from spikedata.clips.rules import label_of, parse_json
from spikedata.clips.source import ClipSource
from spikedata.clips.stored import CLIP_KEYS, MEASURED_KEYS, StoredClip
from spikedata.errors import StoreError

_FACTS = {*CLIP_KEYS, *MEASURED_KEYS, "height", "width"} - {"licence", "source"}
"""Columns that a row must have besides its bits."""


class DatasetRows(ClipSource):
    """Clips in the rows of a ``datasets.Dataset``, or of all splits of a ``DatasetDict``.

    Raises:
        StoreError: it is something else, streams, or lacks columns.
    """

    format = "parquet"

    def __init__(self, loaded: Any) -> None:
        parts = list(loaded.values()) if isinstance(loaded, dict) else [loaded]
        for part in parts:
            _check_part(part)
        self.path = Path(str(parts[0].info.dataset_name or "data set"))
        self.name, self.recipe = self.path.name, {}
        self.class_names = tuple(getattr(parts[0].features["label"], "names", None) or ())
        self._bits = [part.select_columns(["bits", "chunk_ticks"]) for part in parts]
        self._places: dict[str, tuple[int, int]] = {}
        clips: dict[str, StoredClip] = {}
        for number, part in enumerate(parts):
            for row, stored in enumerate(_facts(part, self.class_names)):
                if stored.id in clips:
                    raise StoreError(f"clip {stored.id} is there twice")
                clips[stored.id] = stored
                self._places[stored.id] = number, row
        self.clips = {clip_id: clips[clip_id] for clip_id in sorted(clips)}

    def open_bits(self, clip_id: str) -> ClipFrames:
        """Load the clip's row."""
        part, place = self._places[clip_id]
        row = self._bits[part][place]
        return ClipFrames(self.clips[clip_id], row["chunk_ticks"], row["bits"] or ())


def _check_part(part: Any) -> None:
    if not hasattr(part, "features") or not hasattr(part, "select_columns"):
        raise StoreError(f"cannot read clips from a {type(part).__name__}")
    if not hasattr(part, "__len__"):
        raise StoreError("a streaming data set has no random access; load it whole")
    lacking = {*_FACTS, "bits", "chunk_ticks"} - set(part.column_names)
    if lacking:
        raise StoreError(f"the data set has no columns {', '.join(sorted(lacking))}")


def _facts(part: Any, class_names: tuple[str, ...]) -> Iterator[StoredClip]:
    columns = _FACTS | ({"provenance"} & {*part.column_names})
    for row in part.select_columns(sorted(columns)):
        text = (row.pop("provenance", None) or "{}").encode()
        provenance = parse_json(text, "attributes_malformed", "provenance")
        label = label_of(row["label"], class_names)
        source = provenance.get("source", {})
        known = row | {"label": label, "licence": None, "source": source}
        yield StoredClip.from_file(known, {}, row["height"], row["width"])
