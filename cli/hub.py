"""`spikedata push-hub` and `spikedata pull`: a data set to the Hub, and back."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .common import advance, errors_in_one_line, fail, print_result, progress_bar, say
from .options import SPIKES, AsJson, DryRun, Overwrite, Workers

Source = Annotated[
    Path | None,
    typer.Argument(help="A set of clips, of any format.  [default: what was packed last]"),
]
Repo = Annotated[
    str | None,
    typer.Option(help="OWNER/NAME or NAME.  [default: SOURCE's name under your account]"),
]
Public = Annotated[
    bool, typer.Option("--public", help="Let everybody see it.  [default: only you]")
]
Licence = Annotated[
    str | None,
    typer.Option(help="Licence, such as cc-by-4.0 or any other.  [default: the clips']"),
]
RecipeOnly = Annotated[
    bool,
    typer.Option(
        "--recipe-only", help="No bits: recipe and digests, for videos that forbid copies."
    ),
]


def push_hub(
    source: Source = None,
    repo: Repo = None,
    public: Public = False,
    licence: Licence = None,
    recipe_only: RecipeOnly = False,
    workers: Workers = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Publish what was packed last on the Hugging Face Hub, privately.

    Sign in first with `hf auth login`, or set HF_TOKEN. Anybody allowed to see the data set loads
    it with plain `datasets.load_dataset`. An upload that was cut short goes on where it was.
    """
    with errors_in_one_line(), progress_bar(None, "file", "push") as bar:
        import spikedata

        report = spikedata.push_hub(
            source or spikedata.last_packed(),
            repo=repo,
            private=not public,
            licence=licence,
            dry_run=dry_run,
            recipe_only=recipe_only,
            workers=workers or spikedata.available_cores(),
            progress=lambda step: advance(bar, step.stage, step.done, step.total),
        )
    values = asdict(report)
    if not as_json:
        card = values.pop("card")
        values["files"] = {file.path: f"{file.size_bytes:,} bytes" for file in report.files}
    print_result(values, as_json)
    if dry_run and not as_json:
        say(f"\nREADME.md\n\n{card}".rstrip("\n"))


Published = Annotated[str, typer.Argument(help="OWNER/NAME of a data set that push-hub made.")]
Out = Annotated[Path, typer.Option(help="Store to write.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit.  [default: the newest]")]
Check = Annotated[
    bool,
    typer.Option("--check", help="Compare OUT, made by you, with the published digests."),
]


def pull(
    repo: Published,
    out: Out = SPIKES,
    revision: Revision = None,
    check: Check = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Download a published data set as a store, every bit checked.

    A data set published as recipes alone has no bits: make them from your copy of the videos with
    `spikedata simulate VIDEOS --recipe recipe.yaml`; then `spikedata pull REPO --check` says
    whether they are the same.
    """
    differences: tuple[str, ...] = ()
    with errors_in_one_line(), progress_bar(None, "step", "pull") as bar:
        import spikedata

        if check:
            differences = spikedata.check_regenerated(repo, out, revision=revision)
        else:
            spikedata.pull(
                repo,
                out,
                revision=revision,
                overwrite=overwrite,
                workers=workers or spikedata.available_cores(),
                progress=lambda step: advance(bar, step.stage, step.done, step.total or bar.total),
            )
    if as_json:
        told = {"differences": list(differences)} if check else {}
        print_result({"store": out, "repo": repo, **told}, as_json)
    else:
        same = f"{out}: the same bits as {repo}"
        say("\n".join(differences) or (same if check else out))
    if differences:
        fail(f"{out}: {len(differences)} differences from {repo}")
