"""What a clip costs each command, and a shuffled epoch, in sets of 100, 1,000 and 13,320 clips.

``python tests/benchmarks/test_scale.py [CLIPS ...]`` prints a table in Markdown: the processor's
milliseconds a clip, children's too, in a process that has begun. The clips are of 120 ticks at
16x24, so what counts is what is done for each clip, not its bits; 13,320 is UCF101's number.
Under pytest it runs on a few clips and checks that each command did its work.
"""

import contextlib
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from spikedata import SpikeClips, collate, open_clips

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hub_server import HubServer
from tools import random_frames, run_program, write_grey

COUNTS = (100, 1_000, 13_320)
CLASSES = 101
ENOUGH_S = 15.0
"""What has taken so long in all is not measured again."""
SETS = {"Zarr": "s.zarr", "Parquet": "packed.parquet", "HDF5": "packed.h5"}
CORPUS = "ucf101"
LISTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "ucf101" / "ucfTrainTestlist"
"""UCF101's own lists, where they lie beside the project."""

Times = dict[tuple[str, str], float]
"""Processor's seconds of each command and layout."""


def names_of_clips(clips: int) -> list[str]:
    """``<Class>/<clip>.avi`` of UCF101, spread over its lists; made up where those are not here."""
    if LISTS.exists():
        lines = [line for file in LISTS.glob("t*list01.txt") for line in file.read_text().split()]
        names = sorted(line for line in lines if line.endswith(".avi"))
        if clips <= len(names):
            return [names[n * len(names) // clips] for n in range(clips)]
    made = []
    for n in range(clips):
        of_class, number = n % CLASSES, n // CLASSES
        stem = f"v_Class{of_class}_g{number // 6 + 1:02d}_c{number % 6 + 1:02d}"
        made.append(f"Class{of_class}/{stem}.avi")
    return made


def write_videos(root: Path, clips: int) -> Path:
    """A corpus in UCF101's layout and names, with its lists, of a few tiny videos.

    No two files are the same, and few are of one size, as there: what follows a video differs.
    """
    drawn = [
        write_grey(root.parent / f"drawn{n}.avi", random_frames(n, 12, 16, 24)).read_bytes()
        for n in range(4)
    ]
    rng = random.Random(0)
    for n, name in enumerate(names_of_clips(clips)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        junk = rng.randbytes(8 + 2 * rng.randrange(2 * clips))
        (root / name).write_bytes(drawn[n % 4] + b"JUNK" + struct.pack("<I", len(junk)) + junk)
    if LISTS.exists():
        shutil.copytree(LISTS, root / LISTS.name)
    return root


def timed(task: Callable[[], object], output: Path | None) -> float:
    """Processor's seconds, the least of up to five times: what else is done only adds to them."""
    worked: list[float] = []
    while not worked or (len(worked) < 5 and sum(worked) < ENOUGH_S):
        if output is not None:
            discard(output)
        began = processor_s()
        task()
        worked.append(processor_s() - began)
    return min(worked)


def processor_s() -> float:
    """What this process and those that it waited for have taken."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


Step = tuple[str, str, Callable[[], object], Path | None]
"""Command, layout, how to run it, and what it writes."""


def steps(folder: Path) -> Iterator[Step]:
    """All of them, each after those whose output it reads."""
    repos: list[str] = []

    def run(*words: str) -> None:
        done = run_program("spikedata", *words, cwd=folder)
        assert not done.returncode, done.stderr

    def command(verb: str, layout: str, *words: str, out: str = "") -> Step:
        if not out:
            return verb, layout, lambda: run(*words), None
        return verb, layout, lambda: run(*words, "--out", out), folder / out

    def publish(name: str) -> None:
        repos.append(f"tester/{folder.name}-{len(repos)}")  # what was published is not sent again
        run("push-hub", name, "--repo", repos[-1], "--licence", "cc-by-4.0")

    zarr = SETS["Zarr"]
    yield command("simulate", "Zarr", "simulate", CORPUS, out=zarr)
    for layout, to in {"Parquet": "parquet", "HDF5": "hdf5"}.items():
        yield command("pack Zarr to it", layout, "pack", zarr, "--to", to, out=SETS[layout])
    for layout, name in SETS.items():
        yield command("info", layout, "info", name)
        yield command("validate --quick", layout, "validate", "--quick", name)
        yield command("validate", layout, "validate", name)
        yield command("report", layout, "report", name, out="report.html")
        yield command("pack to Zarr", layout, "pack", name, "--to", "zarr", out="again.zarr")
        yield "push-hub", layout, lambda name=name: publish(name), None
        yield command("pull", layout, "pull", repos[-1], out="pulled.zarr")
        yield "a shuffled epoch", layout, lambda name=name: epoch(folder / name), None
    yield command("repair", "Zarr", "repair", zarr)


def discard(output: Path) -> None:
    """Take an output away, whatever it is."""
    if output.is_dir():
        shutil.rmtree(output)
    else:
        output.unlink(missing_ok=True)


def epoch(clips: Path) -> int:
    """Open a set, read a window of every clip in random order, and count them."""
    items = SpikeClips(clips, window_ticks=64)
    order = torch.Generator().manual_seed(0)
    batches = DataLoader(items, 16, shuffle=True, generator=order, collate_fn=collate)
    return sum(len(batch["ids"]) for batch in batches)


def measure(clips: int) -> Times:
    """Of each step with a set of so many clips."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_videos(folder / CORPUS, clips)
        took = {}
        for verb, layout, task, output in steps(folder):
            took[verb, layout] = timed(task, output)
            print(f"{clips}: {verb}, {layout}: {took[verb, layout]:.3f} s", file=sys.stderr)
        for name in (*SETS.values(), "again.zarr", "pulled.zarr"):
            assert len(open_clips(folder / name).clips) == clips, name
        assert epoch(folder / SETS["Zarr"]) == clips
    return took


@contextlib.contextmanager
def hub_for_all() -> Iterator[None]:
    """A Hub of our own for this process: its client looks but once where the Hub is."""
    with tempfile.TemporaryDirectory() as folder, HubServer(Path(folder)) as hub:
        os.environ.update(hub.environment(Path(folder)))
        yield


def table(took: dict[int, Times]) -> str:
    """Processor's milliseconds a clip; the last over the first; of each clip past the last but one.

    What a command takes whatever the number of clips is in the first and hardly in the last.
    """
    counts = list(took)
    *_, before, last = counts
    names = [f"{n:,}" for n in counts]
    lines = [
        f"| | | {' | '.join(names)} | {names[-1]} over {names[0]} | each past {names[-2]} |",
        "|---" * 2 + "|--:" * (len(counts) + 2) + "|",
    ]
    verbs = list(dict.fromkeys(verb for verb, _ in took[last]))
    for key in sorted(took[last], key=lambda key: verbs.index(key[0])):
        ms = [1e3 * took[n][key] / n for n in counts]
        each = 1e3 * (took[last][key] - took[before][key]) / (last - before)
        cells = " | ".join(f"{value:.2f}" for value in ms)
        lines.append(f"| {' | '.join(key)} | {cells} | {ms[-1] / ms[0]:.2f} | {each:.2f} |")
    return "\n".join(lines)


@pytest.mark.slow
def test_every_command_takes_its_clips():
    program = [sys.executable, __file__, "2", "3"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stdout.count(" | Zarr | ") > done.stdout.count(" | HDF5 | ") > 5


def test_what_a_clip_costs_is_told_for_each_number_and_for_those_past_the_last_but_one():
    took = {
        100: {("info", "Zarr"): 1.0, ("repair", "Zarr"): 3.0, ("info", "HDF5"): 2.0},
        500: {("info", "Zarr"): 2.0, ("repair", "Zarr"): 3.0, ("info", "HDF5"): 4.0},
    }
    assert table(took).splitlines()[2:] == [
        "| info | Zarr | 10.00 | 4.00 | 0.40 | 2.50 |",
        "| info | HDF5 | 20.00 | 8.00 | 0.40 | 5.00 |",
        "| repair | Zarr | 30.00 | 6.00 | 0.20 | 0.00 |",
    ]


def main() -> None:
    """Measure sets of the numbers asked for."""
    counts = [int(word) for word in sys.argv[1:]] or COUNTS
    with hub_for_all():
        measure(2)  # imports, and what is compiled
        took = {clips: measure(clips) for clips in counts}
    print(table(took))
    print(f"\n{os.cpu_count()} cores, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
