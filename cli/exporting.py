"""`spklip-eval --export-onnx`: the video half of a model as a file for other programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .common import STATUS_USAGE, fail, say

if TYPE_CHECKING:
    from spklip import Recipe


def export_to_onnx(
    checkpoint: str, settings: "Recipe", out: Path, *, overwrite: bool, as_json: bool
) -> None:
    """Write the file; print what it takes and how near it is to the model."""
    from spklip import export_onnx

    told = asdict(export_onnx(checkpoint, settings, out, overwrite=overwrite)) | {"out": str(out)}
    say(json.dumps(told) if as_json else "\n".join(f"{k}: {v}" for k, v in told.items()))


def check_exporting(out: Path | None, others: Sequence[object]) -> None:
    """End with status 2 where another option asks for something else."""
    if out is not None and any(others):
        fail("--export-onnx goes with --overwrite, --json and KEY=VALUE alone", STATUS_USAGE)
