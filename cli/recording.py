"""`spikedata record`: a camera's stream, as it comes, into a store."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .common import errors_in_one_line, fail, print_result, say, usage_errors_in_one_line
from .options import AsJson, Flip

if TYPE_CHECKING:
    from spikedata import RecordingStep

From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="SOURCE",
        help="Named pipe, device or file, - for standard input, tcp://HOST:PORT, or "
        "tcp-listen://HOST:PORT.",
    ),
]
Out = Annotated[Path, typer.Option(help="Store to write.")]
RecordedCamera = Annotated[str, typer.Option(help="Whose stream: see `spikedata cameras`; or HxW.")]
ClipId = Annotated[str, typer.Option(help="Id of the clip; one that is taken gets a number.")]
Label = Annotated[str | None, typer.Option(help="Class name.")]
Caption = Annotated[list[str] | None, typer.Option(help="A sentence; may be given again.")]
Split = Annotated[Literal["train", "validation", "test"] | None, typer.Option(help="Its split.")]
Group = Annotated[str | None, typer.Option(help="Clips of one scene share a group.")]
TickRate = Annotated[float | None, typer.Option(help="Ticks a second, Hz.  [default: CAMERA's]")]
Ticks = Annotated[int | None, typer.Option(min=1, help="Take so many, and end.")]
Seconds = Annotated[float | None, typer.Option(min=0, help="Take so many seconds, and end.")]
SplitEvery = Annotated[
    int | None, typer.Option(metavar="TICKS", help="Begin another clip after so many.")
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with OUT: keep what was cut off, add further clips."),
]
Follow = Annotated[bool, typer.Option("--follow", help="Wait for more at the end of a file.")]
Level = Annotated[int, typer.Option(min=1, max=19, help="Effort of compression.")]
RingMb = Annotated[int, typer.Option(min=1, help="Memory for what waits, MB.")]
RecordWorkers = Annotated[
    int | None, typer.Option(min=1, help="Threads that decode and compress.  [default: all cores]")
]


def record(
    out: Out,
    source: From = None,
    camera: RecordedCamera = "vidar",
    clip: ClipId = "recording",
    label: Label = None,
    caption: Caption = None,
    split: Split = None,
    group: Group = None,
    flip: Flip = None,
    tick_rate: TickRate = None,
    ticks: Ticks = None,
    seconds: Seconds = None,
    split_every: SplitEvery = None,
    resume: Resume = False,
    follow: Follow = False,
    level: Level = 1,
    ring_mb: RingMb = 256,
    workers: RecordWorkers = None,
    as_json: AsJson = False,
) -> None:
    """Take a camera's stream, as it comes, into a store.

    It ends with the stream, after --ticks or --seconds, or with Ctrl-C: every whole tick that has
    come is kept. What a killed run left is kept by --resume, all but its last second at most;
    without --from that is all that is done.
    """
    if source is None and not resume:
        fail("give --from, or --resume to keep what was cut off", 2)
    with errors_in_one_line(), _asked_to_stop() as stop, _Told() as told:
        from spikedata import Clip, RecordingConfig, available_cores, record_stream

        with usage_errors_in_one_line():
            about = Clip(
                id=clip, label=label, captions=tuple(caption or ()), split=split, group=group
            )
            config = RecordingConfig(
                camera=camera,
                clip=about,
                flip=flip,
                tick_rate_hz=tick_rate,
                ticks=ticks,
                duration_s=seconds,
                split_ticks=split_every,
                follow=follow,
                level=level,
                ring_bytes=ring_mb << 20,
                workers=workers or available_cores(),
            )
            report = record_stream(
                source, out, config, resume=resume, progress=told.step, tell=told.note, stop=stop
            )
    values = asdict(report)
    if not as_json:
        values["lost"] = len(report.lost)
    print_result(values, as_json)
    if report.is_broken:
        fail(f"{out}: {report.ended}; what was whole is kept")


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set when the process is asked to end, once; asked again, it is interrupted."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def ask(number: int, frame: Any) -> None:
        stop.set()
        for again in numbers:
            signal.signal(again, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Told:
    """How far a run is, on stderr: in one line that changes, or a line now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._every_s = 0.25 if self._is_terminal else 10.0
        self._next_s = time.monotonic() + self._every_s
        self._shown = 0

    def __enter__(self) -> "_Told":
        return self

    def __exit__(self, *exc: object) -> None:
        self._clear()

    def note(self, text: str) -> None:
        """Print a line of its own."""
        from spikedata import one_line

        self._clear()
        say(f"note: {one_line(text)}", err=True)

    def step(self, step: "RecordingStep") -> None:
        """Print how far it is, unless that was told just now."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + self._every_s
        text = (
            f"{step.ticks:,} ticks, {step.duration_s:.1f} s, {step.bytes / 1e6:,.0f} MB, ring "
            f"{step.ring_fill:.0%} full, {step.spikes_per_tick:,.0f} spikes a tick"
        )
        if not self._is_terminal:
            say(text, err=True)
            return
        self._clear()
        say(text, err=True, end="")
        self._shown = len(text)

    def _clear(self) -> None:
        if self._shown:
            say("", err=True, end="\r" + " " * self._shown + "\r")
            self._shown = 0
