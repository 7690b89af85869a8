"""`spikedata repair`: what a store lost, made again or named."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .common import (
    advance,
    errors_in_one_line,
    fail,
    print_failures,
    print_notes,
    print_result,
    progress_bar,
)
from .options import SPIKES, AsJson, DryRun, Workers

Store = Annotated[Path, typer.Argument(help="A Zarr store.")]
Videos = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="VIDEOS",
        help="Folder of the videos that it was simulated from, to make clips again.",
    ),
]
GiveUp = Annotated[
    bool, typer.Option("--give-up", help="Take out what cannot be made again; the rest is whole.")
]


def repair(
    store: Store = SPIKES,
    videos: Videos = None,
    give_up: GiveUp = False,
    workers: Workers = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Find clips of STORE that are damaged or gone, and make them again or name them.

    Every bit is checked. Clips are made again with the store's own recipe and take their place only
    if their bits have the digest that was noted. What is left is named, with status 1, until it
    is made again or given up; the catalogue is written anew.
    """
    with errors_in_one_line(), progress_bar(None, "clip", "check") as bar:
        import spikedata

        corpus = None if videos is None else spikedata.find_corpus(videos)
        report = spikedata.repair_store(
            store,
            corpus,
            give_up=give_up,
            dry_run=dry_run,
            workers=workers or spikedata.available_cores(),
            progress=lambda done, total: advance(bar, "check", done, total),
        )
    if corpus is not None:
        print_notes(corpus.notes)
    values = asdict(report)
    if not as_json:
        values |= {key: len(values[key]) for key in ("found", "made_again", "given_up", "left")}
    print_result(values, as_json)
    print_failures(report.left)
    if report.left:
        fail(
            f"{store}: {len(report.left)} clips are damaged or gone. Give --from VIDEOS to make "
            "them again, or --give-up to go on without them"
        )
