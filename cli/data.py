"""The command `spikedata`: video or camera files in, labelled spike data sets out.

The file is long because a command's options, which are its help, stand with the one call it makes.
"""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .common import (
    STATUS_INTERRUPTED,
    STATUS_USAGE,
    as_table,
    errors_in_one_line,
    fail,
    new_app,
    progress_bar,
    run,
    usage_errors_in_one_line,
)

if TYPE_CHECKING:
    from spikedata import (
        ClipSource,
        ClipStream,
        Corpus,
        Failure,
        SimulationRecipe,
        StoredClip,
    )

app = new_app(
    "Spike-camera data sets: simulate them from video, pack recordings, look, check, publish.\n\n"
    "The usual way, in a folder that holds ucf101/:\n\n"
    "\b\n"
    "  spikedata simulate ucf101/ --threshold 2.0\n"
    "  spikedata pack --to zarr\n"
    "  spikedata push-hub\n"
    "  spklip-train recipes/fewshot.yaml\n\n"
    "No data at hand? `spikedata demo` draws some and runs the whole chain on it."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Clips at once.  [default: all cores]")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")]
CLIPS_HELP = "Store, Parquet folder or file, HDF5 file, folder of .dat; with --camera, recordings."
ClipsArgument = Annotated[Path, typer.Argument(metavar="CLIPS", help=CLIPS_HELP)]
Camera = Annotated[
    str | None, typer.Option(help="Camera of recordings: a name from `spikedata cameras`.")
]
Flip = Annotated[
    bool | None,
    typer.Option("--flip/--no-flip", help="Turn their rows upside down.  [default: as needed]"),
]
TickRate = Annotated[
    float | None,
    typer.Option(min=1, help="Ticks a second of recordings, Hz.  [default: CAMERA's]"),
]
SPIKES = Path("spikes.zarr")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("spklip"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    """Options of the program itself; its help is the application's."""


@app.command()
def simulate(
    corpus: Annotated[
        Path | None,
        typer.Argument(help="Folder of videos: UCF101, HMDB51, class folders or metadata.jsonl."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Store to write or continue.")] = SPIKES,
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML file with all settings, such as a published data set has."),
    ] = None,
    sensor: Annotated[
        str | None,
        typer.Option(
            help="Preset or YAML file: ideal, vidar-20khz, vidar-40khz, my.yaml.  [default: ideal]"
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Ticks of full-scale light that fire one spike.  [default: SENSOR's, 2]"),
    ] = None,
    ticks_per_frame: Annotated[
        int | None, typer.Option(help="Ticks between two frames.  [default: SENSOR's, 10]")
    ] = None,
    tick_rate: Annotated[
        float | None,
        typer.Option(help="Ticks a second wanted, Hz, instead of --ticks-per-frame."),
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(
            help="Light between two frames: hold, linear, flow (optical flow, then linear) or "
            "your own package.module:function.  [default: SENSOR's, linear]"
        ),
    ] = None,
    reset: Annotated[
        Literal["subtract", "zero"] | None,
        typer.Option(help="What a spike leaves: the surplus charge, or nothing."),
    ] = None,
    transfer: Annotated[
        Literal["identity", "srgb", "bt709"] | None, typer.Option(help="Grey level to light.")
    ] = None,
    start: Annotated[
        Literal["random", "zero"] | None, typer.Option(help="Charge before the first tick.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of everything random.  [default: SENSOR's, 0]")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other value: noise.dead_time=0."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="Recording of a still scene whose rates give the light, for compare."),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="Camera of LIKE: a name from `spikedata cameras`.")
    ] = None,
    resize: Annotated[
        str | None, typer.Option(metavar="HxW", help="Resize frames, for example 120x160.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Resample videos to this frame rate first, Hz.")
    ] = None,
    layout: Annotated[
        Literal["auto", "ucf101", "hmdb51", "folder", "metadata"],
        typer.Option(help="How CORPUS is laid out."),
    ] = "auto",
    split: Annotated[
        int | None,
        typer.Option(help="Official split of UCF101 or HMDB51: 1 to 3.  [default: 1]"),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(help="Folder of the official split files, if not in or beside CORPUS."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Only these classes.")
    ] = None,
    caption: Annotated[
        list[str] | None,
        typer.Option(help="Caption template, repeatable.  [default: a video of {name}]"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many clips, spread over classes and splits.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only part I of N, one a machine; pack joins the stores."),
    ] = None,
    decoder: Annotated[
        Literal["auto", "pyav", "opencv", "decord"] | None,
        typer.Option(help="What decodes videos.  [default: auto]"),
    ] = None,
    damaged: Annotated[
        Literal["keep", "refuse"] | None,
        typer.Option(help="Damaged videos: keep what can be read, or refuse.  [default: keep]"),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Where spikes are simulated; same bits.")
    ] = "cpu",
    workers: Workers = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Turn every video of CORPUS into spikes.

    Run the same command again to go on after an interruption: whole clips are skipped. A video
    that cannot be read is listed in <out>.failures.jsonl and the rest goes on.
    """
    if ticks_per_frame is not None and tick_rate is not None:
        fail("give --ticks-per-frame or --tick-rate, not both", STATUS_USAGE)
    if recipe is not None and sensor is not None:
        fail("give --recipe or --sensor, not both: a recipe has its sensor", STATUS_USAGE)
    if (corpus is None) == (like is None):
        fail("give a folder of videos, or --like RECORDING", STATUS_USAGE)
    own = interpolation if interpolation not in (None, "hold", "linear") else None
    given = {
        "sensor.threshold": threshold,
        "sensor.ticks_per_frame": ticks_per_frame,
        "sensor.interpolation": None if own else interpolation,
        "sensor.reset": reset,
        "sensor.transfer": transfer,
        "sensor.start": start,
        "sensor.seed": seed,
        "video.decoder": decoder,
        "video.resize": _size(resize),
        "video.fps": fps,
        "video.damaged": damaged,
        "interpolator": own,
        "tick_rate_hz": tick_rate,
        "split": split,
    }
    words = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    # Of two ways to say one thing, the option wins over the recipe's other way.
    words += ["tick_rate_hz=null"] if ticks_per_frame is not None else []
    words += ["interpolator=null"] if interpolation in ("hold", "linear") else []
    words += [f"sensor.{word}" for word in settings or ()]
    with errors_in_one_line():
        if like is not None:
            videos_only = {
                "--recipe": recipe,
                "--splits": splits,
                "--classes": classes,
                "--caption": caption,
                "--limit": limit,
                "--shard": shard,
                "--device": None if device == "cpu" else device,
                **{f"--{key.rpartition('.')[2]}": given[key] for key in _OF_VIDEOS},
            }
            _refuse_with_like([name for name, value in videos_only.items() if value is not None])
        resolved = _resolve(recipe, sensor or "ideal", words)
        if like is not None:
            _simulate_like(like, out, resolved, camera, workers, dry_run, as_json)
            return
        from spikedata import find_corpus

        found = find_corpus(
            str(corpus),
            kind=layout,
            split=resolved.split,
            splits=splits,
            classes=tuple(name.strip() for name in classes.split(",")) if classes else (),
            limit=limit,
            **({"caption_templates": caption} if caption else {}),
        )
        if shard is not None:
            found = _shard(found, shard)
        if dry_run:
            _print(_plan(found, resolved, out), as_json)
        else:
            _simulate(found, out, resolved, device, workers, as_json)


_OF_VIDEOS = (
    "sensor.ticks_per_frame",
    "sensor.interpolation",
    "sensor.transfer",
    "video.decoder",
    "video.resize",
    "video.fps",
    "video.damaged",
    "interpolator",
    "tick_rate_hz",
    "split",
)
"""Settings that mean nothing for a still scene."""


def _refuse_with_like(options: list[str]) -> None:
    spelled = {"--tick_rate_hz": "--tick-rate", "--interpolator": "--interpolation"}
    if options:
        names = ", ".join(spelled.get(name, name.replace("_", "-")) for name in options)
        fail(f"--like simulates a still scene and takes no {names}", STATUS_USAGE)


def _size(text: str | None) -> list[int] | None:
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        fail(f"--resize: expected HxW, for example 120x160, got {text!r}", STATUS_USAGE)
    return [int(height), int(width)]


def _shard(corpus: "Corpus", text: str) -> "Corpus":
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit()):
        fail(f"--shard: expected I/N, for example 1/8, got {text!r}", STATUS_USAGE)
    with usage_errors_in_one_line():
        return corpus.shard(int(number), int(of))


def _resolve(file: Path | None, sensor: str, words: list[str]) -> "SimulationRecipe":
    from spikedata import RecipeError, simulation_recipe

    try:
        return simulation_recipe(words, sensor=sensor, file=file)
    except RecipeError as error:
        fail(str(error), STATUS_USAGE)


def _plan(corpus: "Corpus", recipe: "SimulationRecipe", out: Path) -> dict[str, Any]:
    from collections import Counter

    from spikedata import to_dict

    splits = Counter(item.clip.split or "none" for item in corpus.clips)
    return {
        "corpus": f"{corpus.root} ({corpus.name})",
        "clips": len(corpus.clips),
        "classes": len(corpus.class_names),
        "splits": dict(sorted(splits.items())),
        "notes": list(corpus.notes),
        "out": f"{out} ({'continued' if out.exists() else 'new'})",
        "recipe": to_dict(recipe),
    }


def _simulate_like(
    recording: Path,
    out: Path,
    recipe: "SimulationRecipe",
    camera: str | None,
    workers: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    from spikedata import available_cores, open_spikes, simulate_recording, to_dict

    if dry_run:
        ticks = open_spikes(recording, camera=camera).ticks
        plan = {"like": recording, "ticks": ticks, "out": out, "sensor": to_dict(recipe.sensor)}
        _print(plan, as_json)
        return
    with usage_errors_in_one_line():
        stored = simulate_recording(
            recording, out, recipe.sensor, camera=camera, threads=workers or available_cores()
        )
    _print({"store": out, "clip": stored.clip.id, "ticks": stored.ticks}, as_json)


def _simulate(
    corpus: "Corpus",
    out: Path,
    recipe: "SimulationRecipe",
    device: Literal["cpu", "cuda"],
    workers: int | None,
    as_json: bool,
) -> None:
    from spikedata import Failure, available_cores, simulate_corpus

    for note in corpus.notes:
        typer.echo(f"note: {note}", err=True)
    with _stop_on_interrupt() as stop, progress_bar(len(corpus.clips), "clip", "simulate") as bar:

        def advance(outcome: "StoredClip | Failure") -> None:
            bar.update()
            if isinstance(outcome, Failure):
                bar.write(f"failed: {outcome.id}: {outcome.error}", file=sys.stderr)

        report = simulate_corpus(
            corpus,
            out,
            recipe,
            workers=workers or available_cores(),
            device=device,
            progress=advance,
            stop=stop,
        )
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    failures = report.failures
    told: dict[str, Any] = {
        "store": str(report.store),
        "written": report.written,
        "skipped": report.skipped,
        "failed": len(failures),
    }
    if as_json:
        told["failed"] = [asdict(failure) for failure in failures]
        told |= {"losses": report.losses, "notes": [*corpus.notes, *report.notes]}
    _print(told, as_json)
    if report.stopped:
        fail("interrupted; run the same command again to go on", STATUS_INTERRUPTED)
    if failures:
        fail(f"{len(failures)} of {len(corpus.clips)} clips failed; see {report.failure_file}")


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C asks the run to stop and lets it clean up; the second kills."""
    stop = threading.Event()

    def ask(_signal: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@app.command()
def pack(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Stores, recordings or folders of them.  [default: spikes.zarr]"),
    ] = None,
    to: Annotated[
        Literal["zarr", "parquet", "hdf5", "dat"], typer.Option(help="What to write.")
    ] = "zarr",
    out: Annotated[
        Path | None, typer.Option(help="Where.  [default: packed.zarr, packed.parquet, ...]")
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="Camera of recordings: a name from `spikedata cameras`.")
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Turn rows upside down.  [default: as CAMERA needs]"),
    ] = None,
    tick_rate: Annotated[
        float | None, typer.Option(help="Ticks a second of recordings, Hz.  [default: CAMERA's]")
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(help="Effort of compression, 1 to 19; hdf5 0 to 9.  [default: 7; hdf5 4]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Pack stores and camera recordings into one verified data set.

    Without SOURCES it packs spikes.zarr, which `spikedata simulate` writes. Every clip is read
    back from disk and its digest compared. What was packed last is what `spikedata push-hub`
    publishes and what recipes read. What cannot be packed is listed in <out>.failures.jsonl and
    the rest goes on.
    """
    with errors_in_one_line(), progress_bar(None, "clip", "pack") as bar:
        from spikedata import available_cores, pack_clips

        with usage_errors_in_one_line():
            report = pack_clips(
                sources or (),
                to=to,
                out=out,
                camera=camera,
                flip=flip,
                tick_rate_hz=tick_rate,
                level=level,
                overwrite=overwrite,
                workers=workers or available_cores(),
                progress=lambda step: _advance(bar, step.stage, step.done, step.total),
            )
    values = asdict(report) | {"ratio": report.packed_bytes / report.stored_bytes}
    if not as_json:
        values["failures"] = len(report.failures)
        values["failure_file"] = report.failure_file if report.failures else None
    _print(values, as_json)
    for failure in report.failures:
        typer.echo(f"failed: {failure.id}: {failure.error}", err=True)
    if report.failures:
        left_out = f"{len(report.failures)} sources or clips were left out of {report.out}"
        fail(f"{left_out}; see {report.failure_file}")


@app.command("push-hub")
def push_hub(
    source: Annotated[
        Path | None,
        typer.Argument(help="Store or packed Parquet folder.  [default: what was packed last]"),
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option(help="OWNER/NAME or NAME.  [default: SOURCE's name under your account]"),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see it.  [default: only you]")
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(help="Licence, such as cc-by-4.0 or any other.  [default: the clips']"),
    ] = None,
    recipe_only: Annotated[
        bool,
        typer.Option(
            "--recipe-only", help="No bits: recipe and digests, for videos that forbid copies."
        ),
    ] = False,
    workers: Workers = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Publish what was packed last on the Hugging Face Hub, privately.

    Sign in first with `hf auth login`, or set HF_TOKEN. Anybody allowed to see the data set loads
    it with plain `datasets.load_dataset`. An upload that was cut short goes on where it was.
    """
    with errors_in_one_line(), progress_bar(None, "file", "push") as bar:
        from spikedata import available_cores, last_packed, publish

        report = publish(
            source or last_packed(),
            repo=repo,
            private=not public,
            licence=licence,
            dry_run=dry_run,
            recipe_only=recipe_only,
            workers=workers or available_cores(),
            progress=lambda step: _advance(bar, step.stage, step.done, step.total),
        )
    values = asdict(report)
    if not as_json:
        card = values.pop("card")
        values["files"] = {file.path: f"{file.size_bytes:,} bytes" for file in report.files}
    _print(values, as_json)
    if dry_run and not as_json:
        typer.echo(f"\nREADME.md\n\n{card}")


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="OWNER/NAME of a data set that push-hub made.")],
    out: Annotated[Path, typer.Option(help="Store to write.")] = SPIKES,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit.  [default: the newest]")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare OUT, made by you, with the published digests."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
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
        from spikedata import available_cores, check_regenerated, fetch

        if check:
            differences = check_regenerated(repo, out, revision=revision)
        else:
            fetch(
                repo,
                out,
                revision=revision,
                overwrite=overwrite,
                workers=workers or available_cores(),
                progress=lambda step: _advance(bar, step.stage, step.done, step.total or bar.total),
            )
    if as_json:
        told = {"differences": list(differences)} if check else {}
        _print({"store": out, "repo": repo, **told}, as_json)
    else:
        same = f"{out}: the same bits as {repo}"
        typer.echo("\n".join(differences) or (same if check else out))
    if differences:
        fail(f"{out}: {len(differences)} differences from {repo}")


@app.command()
def info(
    clips: ClipsArgument = SPIKES,
    camera: Camera = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    as_json: AsJson = False,
) -> None:
    """Tell what CLIPS holds: clips, classes, splits, geometry, firing rate, losses."""
    with errors_in_one_line():
        summary = _open(clips, camera, flip, tick_rate).summary()
    _print(summary, as_json)


def _open(
    path: Path, camera: str | None, flip: bool | None = None, tick_rate: float | None = None
) -> "ClipSource":
    """Open a set of clips; what is odd about it, or left out, goes to stderr."""
    from spikedata import open_clips

    source = open_clips(path, camera=camera, flip=flip, tick_rate_hz=tick_rate)
    for note in source.notes:
        typer.echo(f"note: {note}", err=True)
    for failure in source.left_out:
        typer.echo(f"note: left out: {failure.id}: {failure.error}", err=True)
    return source


@app.command()
def validate(
    clips: ClipsArgument = SPIKES,
    quick: Annotated[
        bool, typer.Option("--quick", help="Metadata only: do not decode and hash the bits.")
    ] = False,
    camera: Camera = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    as_json: AsJson = False,
) -> None:
    """Check CLIPS against its format, every bit included; status 1 if a rule is broken."""
    with errors_in_one_line():
        from spikedata import validate as validate_clips

        problems = validate_clips(
            clips, deep=not quick, camera=camera, flip=flip, tick_rate_hz=tick_rate
        )
        losses = {} if problems else _open(clips, camera, flip, tick_rate).losses()
    if as_json:
        told = [asdict(found) for found in problems]
        _print({"store": clips, "problems": told, "losses": losses}, as_json)
    for found in () if as_json else problems:
        typer.echo(f"{found.clip or clips}: {found.code}: {found.message}")
    if problems:
        fail(f"{clips}: {len(problems)} broken rules of the store format")
    if not as_json:
        typer.echo(f"{clips}: no problems")
    for name, number in losses.items():
        typer.echo(f"note: {number:,} {name}, when the clips were made", err=True)


@app.command()
def view(
    clip: Annotated[str, typer.Argument(help="Id of a clip.")],
    store: Annotated[Path, typer.Option(metavar="CLIPS", help=CLIPS_HELP)] = SPIKES,
    camera: Camera = None,
    flip: Flip = None,
    out: Annotated[
        Path | None, typer.Option(help="File: .png, .gif or .mp4.  [default: CLIP.png]")
    ] = None,
    picture: Annotated[
        Literal["tfp", "tfi"], typer.Option(help="Mean over a window, or inverse interval.")
    ] = "tfp",
    start: Annotated[int, typer.Option(help="First tick.")] = 0,
    ticks: Annotated[int | None, typer.Option(help="How many ticks.  [default: all]")] = None,
    window: Annotated[int, typer.Option(help="Ticks in one picture of a movie.")] = 32,
    overwrite: Overwrite = False,
) -> None:
    """Show a clip as a picture or a movie of the light it recorded."""
    out = out or Path(f"{clip}.png")
    with errors_in_one_line():
        from spikedata import view_clip

        opened = _open(store, camera, flip)
        _check_output(out, store, overwrite=overwrite)
        with usage_errors_in_one_line():
            written = view_clip(
                opened,
                clip,
                out,
                picture=picture,
                start=start,
                ticks=ticks,
                window_ticks=window,
                overwrite=overwrite,
            )
    typer.echo(written)


@app.command()
def report(
    clips: ClipsArgument = SPIKES,
    camera: Camera = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    out: Annotated[
        Path | None, typer.Option(help="Page to write.  [default: CLIPS with .html]")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a page about CLIPS: classes, firing rates, losses, intervals, a contact sheet."""
    out = out or clips.parent / f"{clips.absolute().stem}.html"
    with errors_in_one_line():
        from spikedata import report_html

        opened = _open(clips, camera, flip, tick_rate)
        _check_output(out, clips, overwrite=overwrite)
        written = report_html(opened, out, overwrite=overwrite)
    typer.echo(written)


def _check_output(out: Path, *read: Path, overwrite: bool) -> None:
    """Refuse OUT before any work: it is read, or lies in a store that is, or is there already."""
    for path in read:
        itself = out.exists() and path.exists() and out.samefile(path)
        inside = (path / "zarr.json").is_file() and path.resolve() in out.resolve().parents
        if itself or inside:
            fail(f"{out}: would change {path}, which is read here. Choose another name")
    if out.is_dir():
        fail(f"{out}: is a folder; give the name of a file")
    if out.exists() and not overwrite:
        fail(f"{out}: exists already. Give --overwrite to replace it")


@app.command()
def cameras(as_json: AsJson = False) -> None:
    """List the cameras and file layouts that `--camera` knows."""
    with errors_in_one_line():
        from spikedata import CAMERAS
    if as_json:
        _print({camera.name: asdict(camera) for camera in CAMERAS.values()}, as_json)
        return
    other = {"HxW": "Any other plain .dat: its rows and columns, for example 500x800."}
    _print({camera.name: camera.description for camera in CAMERAS.values()} | other, as_json)


@app.command()
def compare(
    real: Annotated[Path, typer.Argument(help="Recording of a real camera, or a store.")],
    simulated: Annotated[Path, typer.Argument(help="Simulated recording: a store, or a file.")],
    camera: Annotated[
        str | None, typer.Option(help="Camera of files: a name from `spikedata cameras`.")
    ] = None,
    clip: Annotated[
        list[str] | None,
        typer.Option(
            help="Clip of stores; give it twice where REAL's and SIMULATED's have other ids.  "
            "[default: the only one]"
        ),
    ] = None,
    tick_rate: Annotated[
        float | None,
        typer.Option(min=1, help="Ticks a second of files, Hz.  [default: CAMERA's]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Page with pictures to write, .html.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Tell how like REAL a SIMULATED recording is, by its statistics.

    `spikedata simulate --like REAL --sensor vidar-20khz` makes one of the same scene. Of the longer
    one the first ticks are taken, as many as the other has.
    """
    clips: list[str | None] = [*clip] if clip else [None]
    if len(clips) > 2:
        fail(f"--clip: at most two, REAL's and SIMULATED's, got {len(clips)}", STATUS_USAGE)
    with errors_in_one_line():
        from spikedata import available_cores, compare_streams, comparison_html, open_spikes

        sources = [
            open_spikes(path, camera=camera, clip=its_clip, tick_rate_hz=tick_rate)
            for path, its_clip in ((real, clips[0]), (simulated, clips[-1]))
        ]
        if out is not None:
            _check_output(out, real, simulated, overwrite=overwrite)
        with usage_errors_in_one_line():
            comparison = compare_streams(*sources, threads=available_cores())
        if out is not None:
            title = f"{real.name} and {simulated.name}"
            comparison_html(comparison, out, title=title, overwrite=overwrite)
    if as_json:
        _print(comparison.to_dict(), as_json)
    else:
        typer.echo(comparison.table())


@app.command()
def calibrate(
    dark: Annotated[Path, typer.Argument(help="Recording in the dark.")],
    medium: Annotated[Path, typer.Argument(help="Recording of an even, medium light.")],
    bright: Annotated[Path, typer.Argument(help="Recording of an even, bright light.")],
    out: Annotated[Path, typer.Option(help="Sensor to write, .yaml; its maps lie beside it.")],
    camera: Annotated[
        str | None, typer.Option(help="Camera of the files: a name from `spikedata cameras`.")
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Turn rows upside down.  [default: as CAMERA needs]"),
    ] = None,
    sensor: Annotated[
        str, typer.Option(help="Preset that gives what changes from tick to tick.")
    ] = "vidar-20khz",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Measure each pixel's response and dark charge from three flat fields.

    `spikedata simulate --sensor OUT` then simulates that camera.
    """
    with errors_in_one_line():
        from spikedata import (
            calibrate_pixels,
            load_sensor,
            open_spikes,
            sensor_files,
            write_sensor,
        )

        base = load_sensor(sensor)
        files = (dark, medium, bright)
        sources = [open_spikes(path, camera=camera, flip=flip) for path in files]
        with usage_errors_in_one_line():
            for path in sensor_files(out):
                _check_output(path, *files, Path(sensor), overwrite=overwrite)
            found = calibrate_pixels(*sources)
            write_sensor(found, out, base, overwrite=overwrite)
    _print(found.summary() | {"sensor": out}, as_json)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="Store or recording.")],
    out: Annotated[
        Path, typer.Argument(help="File: .npy of (x, y, t) events, or .npz of planes as `spk`.")
    ],
    clip: Annotated[
        str | None, typer.Option(help="Clip of a store.  [default: the only one]")
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="Camera of a file: a name from `spikedata cameras`.")
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip", help="Turn a file's rows upside down.  [default: as CAMERA needs]"
        ),
    ] = None,
    tick_rate: Annotated[
        float | None,
        typer.Option(min=1, help="Ticks a second of a file, Hz.  [default: CAMERA's]"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a clip as other tools read it: Tonic's event arrays, Spike-Zoo's planes.

    For .dat files, which SpikeCV reads, use `spikedata pack --to dat`.
    """
    with errors_in_one_line():
        from spikedata import open_spikes, write_events, write_npz

        if out.suffix not in (".npy", ".npz"):
            fail(f"{out}: expected a name that ends in .npy or .npz", STATUS_USAGE)
        spikes = open_spikes(source, camera=camera, clip=clip, flip=flip, tick_rate_hz=tick_rate)
        _check_output(out, source, overwrite=overwrite)
        if out.suffix == ".npz":
            write_npz(out, spikes, **_class_of(spikes), overwrite=overwrite)
        else:
            with usage_errors_in_one_line():
                write_events(out, spikes, overwrite=overwrite)
    typer.echo(out)


def _class_of(spikes: "ClipStream") -> dict[str, Any]:
    """Number and name of the class of what is exported, as `write_npz` takes them."""
    return {"label": spikes.label_number, "label_name": spikes.label}


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to make, or to go on in.")] = Path(
        "spikedata-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of drawings, spikes and weights.")] = 0,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Draw a labelled corpus and run the whole chain on it, without a download.

    Squares, circles and triangles move left, right, up and down; they are simulated, packed, and
    SPKLIP learns to name them: minutes on two CPU cores. Run it again to go on.
    """
    from .demo import DemoConfig, print_demo, run_demo

    with errors_in_one_line():
        result = run_demo(out, DemoConfig(seed=seed), workers=workers)
        print_demo(result, as_json=as_json)


def _advance(bar: Any, stage: str, done: int, total: int) -> None:
    bar.total, bar.n = total, done
    bar.set_description(stage)


def _print(values: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(values, indent=2, default=str) if as_json else as_table(values))


def main() -> None:
    """Run `spikedata`."""
    run(app)
