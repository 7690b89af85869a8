"""`spikedata label`: what clips show, who they are for, in a store or in the list beside files."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
    STATUS_USAGE,
    errors_in_one_line,
    fail,
    print_failures,
    print_notes,
    print_result,
    usage_errors_in_one_line,
)
from .options import AsJson, Camera

Set = Annotated[
    Path, typer.Argument(metavar="SET", help="A Zarr store, or a folder of recordings.")
]
Clips = Annotated[list[str] | None, typer.Argument(metavar="CLIP", help="Ids of clips.")]
Label = Annotated[str | None, typer.Option(help="Their class.")]
Caption = Annotated[
    list[str] | None, typer.Option(help="A sentence that describes them; may be given again.")
]
Split = Annotated[str | None, typer.Option(help="train, validation or test.")]
Group = Annotated[str | None, typer.Option(help="Clips of one group share a scene.")]
NoLabel = Annotated[bool, typer.Option("--no-label", help="They have no class.")]
NoCaptions = Annotated[bool, typer.Option("--no-captions", help="They have no captions.")]
NoSplit = Annotated[bool, typer.Option("--no-split", help="They are of no split.")]
NoGroup = Annotated[bool, typer.Option("--no-group", help="They are of no group.")]
Table = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="A .csv or .jsonl with columns id, label, caption, split, group; blank: as it is.",
    ),
]
DropUnused = Annotated[
    bool,
    typer.Option("--drop-unused", help="Take out class names that no clip has; renumbers others."),
]


def label(
    set_: Set,
    clips: Clips = None,
    label: Label = None,
    caption: Caption = None,
    split: Split = None,
    group: Group = None,
    no_label: NoLabel = False,
    no_captions: NoCaptions = False,
    no_split: NoSplit = False,
    no_group: NoGroup = False,
    table: Table = None,
    drop_unused: DropUnused = False,
    camera: Camera = None,
    as_json: AsJson = False,
) -> None:
    """Change label, captions, split or group of clips of SET; no bit of them is written.

    A store is changed in its place. For a folder of recordings it goes to metadata.jsonl beside
    them, which then has a line for each. Captions that only name the class follow a new label.
    """
    given = {"label": label, "captions": caption, "split": split, "group": group}
    cleared = {"label": no_label, "captions": no_captions, "split": no_split, "group": no_group}
    change = _change(given, cleared)
    if bool(clips) != bool(change):
        fail("give CLIP and what it shall have: --label, --caption, --split, ...", STATUS_USAGE)
    if not (clips or table or drop_unused):
        fail("give CLIP and --label or the like, or --from FILE", STATUS_USAGE)
    with errors_in_one_line(), usage_errors_in_one_line():
        from spikedata import read_labels, relabel

        changes, bad_lines = read_labels(table) if table else ({}, ())
        for clip in clips or ():
            changes[clip] = changes.get(clip, {}) | change
        report = relabel(set_, changes, camera=camera, drop_unused=drop_unused)
    failures = (*bad_lines, *report.failures)
    values = asdict(report) | {"failures": [asdict(failure) for failure in failures]}
    if not as_json:
        values |= {"changed": len(report.changed), "class_names": len(report.class_names)}
        values["failures"] = len(failures)
        del values["warnings"]
    print_notes(report.warnings)
    print_result(values, as_json)
    print_failures(failures)
    if failures:
        fail(f"{len(failures)} clips are not labelled as was asked; the rest is done")


def _change(given: dict[str, Any], cleared: dict[str, bool]) -> dict[str, Any]:
    """What each clip shall have; None and no captions where it shall have none."""
    for key, no in cleared.items():
        if no and given[key]:
            fail(f"--no-{key} and {key} {given[key]!r} are opposites", STATUS_USAGE)
    change = {key: value for key, value in given.items() if value}
    return change | {key: [] if key == "captions" else None for key, no in cleared.items() if no}
