"""`spklip-eval --explain`: a page of what a model looked at."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    STATUS_USAGE,
    end_with_failures,
    fail,
    say,
    usage_errors_in_one_line,
)

if TYPE_CHECKING:
    from spklip import ExplainedClip, Recipe

PAGE = Path("explain.html")
"""Where the page goes unless told otherwise."""


def explain_to_page(
    checkpoint: str,
    settings: "Recipe",
    *,
    clips: Sequence[str],
    text: str | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the page; print scores and the window that adds most to each."""
    from spklip import explain_clips

    page = out or PAGE
    with usage_errors_in_one_line():
        found = explain_clips(
            checkpoint, settings, page, clips=clips, text=text, overwrite=overwrite
        )
    if as_json:
        say(json.dumps(asdict(found) | {"page": str(page)}))
    else:
        say("\n".join([*_lines(found.clips), f"page: {page}"]))
    end_with_failures(found.failures)


def check_explaining(
    explain: bool, clips: Sequence[str], text: str | None, others: Sequence[object]
) -> None:
    """End with status 2 where an option would change nothing."""
    if explain and any(others):
        fail("--explain goes with neither --search, --top nor --embed", STATUS_USAGE)
    if not explain and (clips or text is not None):
        fail("--clip and --text mean something with --explain alone", STATUS_USAGE)


def _lines(clips: "Sequence[ExplainedClip]") -> Iterator[str]:
    from spikedata import printable

    for clip in clips:
        label, answer = (printable(name or "-") for name in (clip.label, clip.answer))
        yield f"{printable(clip.id)}  label: {label}  answer: {answer}"
        for one in clip.texts:
            weight, centre = max(zip(one.weights, one.centre_ticks, strict=True))
            most = f"most by the window around tick {centre:.0f}: {weight:+.3f}"
            yield f"  {one.score:>6.3f}  {printable(one.text)}  ({most})"
