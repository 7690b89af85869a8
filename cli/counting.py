"""`spklip-eval --energy`: what a model's video tower computes for a clip, layer by layer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .common import STATUS_USAGE, fail, say

if TYPE_CHECKING:
    from spklip import Recipe

COSTS = "fp32"
"""Cost table unless told otherwise."""


def count_to_table(
    checkpoint: str,
    settings: "Recipe",
    *,
    costs: str | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Count; print the table of layers, and write a page where one is asked for."""
    from spklip import energy_table, measure_energy

    priced = costs or COSTS
    energy = measure_energy(checkpoint, settings, costs=priced, out=out, overwrite=overwrite)
    if as_json:
        say(json.dumps(energy | ({} if out is None else {"page": str(out)})))
        return
    say(energy_table(energy, priced))
    if out is not None and out.exists():
        say(f"page: {out}")


def check_counting(energy: bool, costs: str | None, others: Sequence[object]) -> None:
    """End with status 2 where an option would change nothing."""
    if energy and any(others):
        fail("--energy goes with neither --search, --top, --embed nor --explain", STATUS_USAGE)
    if costs is not None and not energy:
        fail("--costs means something with --energy alone", STATUS_USAGE)
