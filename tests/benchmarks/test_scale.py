"""What a clip costs each command, and a shuffled epoch, in sets of 100, 1,000 and 13,320 clips.

``python tests/benchmarks/test_scale.py [CLIPS ...]`` prints a table in Markdown: the processor's
milliseconds a clip, children's too, beyond what the same command takes on a set of one clip, in a
process that has begun. The clips are of 121 ticks at 16x24, so what counts is what is done for each
clip, not its bits; 13,320 is UCF101's number.
Under pytest it runs on a few clips and checks that each command did its work.
"""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
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
CORPUS = "videos"

Times = dict[tuple[str, str], tuple[float, float]]
"""Of each command and layout, the processor's seconds and those that passed."""


def write_videos(root: Path, clips: int) -> Path:
    """Class folders named as UCF101's, with copies of a few tiny videos."""
    drawn = [
        write_grey(root.parent / f"drawn{n}.mkv", random_frames(n, 13, 16, 24)) for n in range(4)
    ]
    for n in range(clips):
        of_class, number = n % CLASSES, n // CLASSES
        name = f"v_Class{of_class}_g{number // 6 + 1:02d}_c{number % 6 + 1:02d}.mkv"
        (root / f"Class{of_class}").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(drawn[n % 4], root / f"Class{of_class}" / name)
    return root


def timed(task: Callable[[], object], output: Path | None) -> tuple[float, float]:
    """Processor's seconds, the least of up to five times, and those that passed.

    Processes that have ended and were waited for count; what else the machine does hardly.
    """
    worked: list[float] = []
    passed: list[float] = []
    while not worked or (len(worked) < 5 and sum(passed) < ENOUGH_S):
        if output is not None:
            discard(output)
        began, own = time.perf_counter(), processor_s()
        task()
        worked.append(processor_s() - own)
        passed.append(time.perf_counter() - began)
    return min(worked), min(passed)


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
    yield command("simulate", "Zarr", "simulate", CORPUS, "--layout", "folder", out=zarr)
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
            took[verb, layout] = worked, passed = timed(task, output)
            print(f"{clips}: {verb}, {layout}: {worked:.2f} of {passed:.2f} s", file=sys.stderr)
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


def table(alone: Times, took: dict[int, Times]) -> str:
    """Processor's milliseconds a clip beyond a set of one; the last over the first; its seconds."""
    counts = list(took)
    first, last = f"{counts[0]:,}", f"{counts[-1]:,}"
    names = [f"{n:,}" for n in counts]
    lines = [
        f"| | | {' | '.join(names)} | {last} over {first} | {last}, seconds |",
        "|---" * 2 + "|--:" * (len(counts) + 2) + "|",
    ]
    verbs = list(dict.fromkeys(verb for verb, _ in alone))
    for key in sorted(alone, key=lambda key: verbs.index(key[0])):
        ms = [1e3 * (took[n][key][0] - alone[key][0]) / (n - 1) for n in counts]
        cells = " | ".join(f"{value:.2f}" for value in ms)
        passed = took[counts[-1]][key][1]
        lines.append(f"| {' | '.join(key)} | {cells} | {ms[-1] / ms[0]:.2f} | {passed:.1f} |")
    return "\n".join(lines)


@pytest.mark.slow
def test_every_command_takes_its_clips():
    program = [sys.executable, __file__, "3"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert done.stdout.count(" | Zarr | ") > done.stdout.count(" | HDF5 | ") > 5


def test_a_clip_costs_what_a_set_takes_beyond_a_set_of_one():
    alone = {("info", "Zarr"): (1.0, 2.0), ("repair", "Zarr"): (3.0, 4.0), ("info", "HDF5"): (2, 3)}
    took = {
        101: {key: (2.0 * worked, 5.0) for key, (worked, _) in alone.items()},
        1001: {key: (4.0 * worked, 50.0) for key, (worked, _) in alone.items()},
    }
    assert table(alone, took).splitlines()[2:] == [
        "| info | Zarr | 10.00 | 3.00 | 0.30 | 50.0 |",
        "| info | HDF5 | 20.00 | 6.00 | 0.30 | 50.0 |",
        "| repair | Zarr | 30.00 | 9.00 | 0.30 | 50.0 |",
    ]


def main() -> None:
    """Measure sets of one clip and of the numbers asked for."""
    counts = [int(word) for word in sys.argv[1:]] or COUNTS
    with hub_for_all():
        measure(2)  # imports, and what is compiled
        alone = measure(1)
        took = {clips: measure(clips) for clips in counts}
    print(table(alone, took))
    print(f"\n{os.cpu_count()} cores, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
