"""`spklip-eval --search` and `--embed`: a store ranked by sentences, its embeddings as Parquet."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import (
    STATUS_USAGE,
    end_with_failures,
    fail,
    say,
    usage_errors_in_one_line,
)

if TYPE_CHECKING:
    from spklip import Recipe, SearchReport

PAGE = Path("search.html")
"""Where the page goes unless told otherwise."""
TOP = 24
"""Clips shown of each sentence unless told otherwise."""


def use_store(
    checkpoint: str,
    settings: "Recipe",
    sentences: Sequence[str],
    *,
    embed: Path | None,
    split: str | None,
    top: int | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Search a store, write its embeddings, or both in one pass; print what was done."""
    from spklip import embed_store, search_store

    told: dict[str, Any]
    if sentences:
        page = out or PAGE
        with usage_errors_in_one_line():
            found = search_store(
                checkpoint,
                settings,
                sentences,
                split=split,
                top=TOP if top is None else top,
                page=page,
                embeddings=embed,
                overwrite=overwrite,
            )
        told = _found(found) | {"page": str(page)}
        clips, failures = found.clips, found.failures
    else:
        assert embed is not None
        written = embed_store(checkpoint, settings, embed, split=split, overwrite=overwrite)
        clips, failures = written.clips, written.failures
        told = {"clips": clips, "features": written.features}
    told |= {"embeddings": str(embed) if embed else None}
    told |= {"failures": [asdict(failure) for failure in failures]}
    say(json.dumps(told) if as_json else "\n".join(_text(told)))
    end_with_failures(failures)


def check_options(
    sentences: Sequence[str], embed: Path | None, top: int | None, out: Path | None
) -> None:
    """End with status 2 where an option would change nothing."""
    if not sentences and top is not None:
        fail("--top means something with --search alone", STATUS_USAGE)
    if not sentences and embed and out:
        fail("--out names the page of --search; --embed names its own file", STATUS_USAGE)


def _found(report: "SearchReport") -> dict[str, Any]:
    return {
        "clips": report.clips,
        "searches": [
            {"sentence": sentence, "hits": [asdict(hit) for hit in hits]}
            for sentence, hits in report.hits.items()
        ],
    }


def _text(told: dict[str, Any]) -> Iterator[str]:
    from spikedata import printable

    for search in told.get("searches", ()):
        yield printable(search["sentence"])
        hits = search["hits"]
        width = max(len(printable(hit["id"])) for hit in hits)
        yield f"  rank   score  {'clip':<{width}}  label"
        for hit in hits:
            clip = f"{printable(hit['id']):<{width}}"
            label = "-" if hit["label"] is None else printable(hit["label"])
            yield f"  {hit['rank']:>4}  {hit['score']:>6.3f}  {clip}  {label}"
        yield ""
    yield f"clips: {told['clips']}"
    for name in ("page", "embeddings"):
        if told.get(name):
            yield f"{name}: {told[name]}"
