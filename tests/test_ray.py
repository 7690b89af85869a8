"""Ray's workers give the bytes of the local engine, whichever of them die.

One Ray runs at a time, whatever tests run beside: each has processes enough.
"""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest
import ray
from filelock import FileLock
from ray.cluster_utils import Cluster
from test_pack import make_store
from tools import BIN, digest_of_folder, one_line_error, random_frames, run_program, write_corpus

from spikedata import (
    SimulationRecipe,
    find_corpus,
    pack_clips,
    planned_workers,
    simulate_corpus,
    validate,
)
from spikedata.errors import EngineError, MissingExtraError, StoreError

# Ray's own: files and sockets that it leaves to the garbage collector, and what it still calls.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ONE_RAY = Path(tempfile.gettempdir()) / f"spikedata-tests-ray-{os.getuid()}.lock"

PLUGIN = """
import errno, os, signal, time

def frames(first_hw, second_hw, count):
    {what}
    return first_hw[None].repeat(count, 0)

def begins(first_hw, row):
    return first_hw[0].tolist() == row
"""


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of a core each, to which this program is connected."""
    with FileLock(ONE_RAY, is_singleton=True), pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        ray.init(made.address, log_to_driver=False, logging_level="CRITICAL")
        try:
            made.add_node(num_cpus=1)  # after the driver has chosen the other one
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The working folder, also of the workers, which find a plug-in there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def corpus_in(home, clips=8):
    write_corpus(home / "videos", classes=2, clips=clips)
    return find_corpus("videos")


def first_row(seed):
    """What tells a clip from others in a plug-in."""
    return random_frames(seed)[0, 0].tolist()


def plugin(home, name, what):
    """A recipe whose interpolator does ``what`` before it repeats a frame."""
    (home / f"{name}.py").write_text(PLUGIN.format(what=what))
    return SimulationRecipe(interpolator=f"{name}:frames")


def plain(home, corpus, recipe, out="local.zarr"):
    """What the local engine makes of it, and the report."""
    report = simulate_corpus(corpus, home / out, recipe, workers=2)
    return digest_of_folder(home / out), report


def test_a_video_that_kills_its_workers_costs_one_clip(cluster, home):
    corpus, victim = corpus_in(home), first_row(103)
    what = f"if begins(first_hw, {victim}) and {os.getpid()} != os.getpid(): os.abort()"
    recipe = plugin(home, "deadly", what)
    want, _ = plain(home, corpus, recipe)
    report = simulate_corpus(corpus, "s.zarr", recipe, engine="ray", workers=2)
    (failure,) = report.failures
    assert failure.id == "class1__clip3"
    assert failure.path == "videos/class1/clip3.mkv"
    assert failure.error == "gave up after 3 workers died with it: its process died"
    assert report.written == 15
    found = digest_of_folder(home / "s.zarr")
    named = {key for key in want if key.startswith("clips/class1__clip3/")}
    assert named
    of_the_set = {"zarr.json", "catalog.jsonl"}
    assert {k: v for k, v in want.items() if k not in named | of_the_set} == {
        k: v for k, v in found.items() if k not in of_the_set
    }
    assert simulate_corpus(corpus, "s.zarr", recipe).written == 1  # and then all is there
    assert digest_of_folder(home / "s.zarr") == want


def test_failures_are_told_as_by_the_local_engine(cluster, home):
    corpus, touchy = corpus_in(home), first_row(2)
    (home / "videos/class0/clip0.mkv").write_text("not a video")
    (home / "videos/class0/clip1.mkv").write_bytes(b"")
    recipe = plugin(home, "touchy", f"if begins(first_hw, {touchy}): raise TypeError('not today')")
    want, report = plain(home, corpus, recipe)
    remote = simulate_corpus(corpus, home / "s.zarr", recipe, engine="ray")
    assert len(report.failures) == 3
    assert remote.failures == report.failures
    assert remote.failure_file.read_bytes() == report.failure_file.read_bytes()
    assert (remote.written, remote.notes, remote.losses) == (13, report.notes, report.losses)
    assert digest_of_folder(home / "s.zarr") == want


def test_a_video_that_a_node_does_not_see_is_told_so(cluster, home):
    corpus = corpus_in(home, clips=2)
    (home / "videos/class0/clip0.mkv").unlink()
    report = simulate_corpus(corpus, "s.zarr", SimulationRecipe(), engine="ray")
    (failure,) = report.failures
    assert failure.error.endswith(" has no such file; every node must see the same files")
    assert report.written == 3


def test_a_full_disk_ends_the_run_and_keeps_what_is_whole(cluster, home):
    corpus, last = corpus_in(home), first_row(107)
    full = f"raise OSError(errno.ENOSPC, {os.strerror(errno.ENOSPC)!r})"
    recipe = plugin(home, "filling", f"if begins(first_hw, {last}): {full}")
    expected = "No space left on device while writing class1__clip7. Finished clips are kept"
    with pytest.raises(StoreError, match=expected):
        simulate_corpus(corpus, "s.zarr", recipe, engine="ray")
    assert validate("s.zarr") == []
    assert not (home / "s.zarr/.partial").exists()
    assert not (home / "s.zarr.lock").exists()


def test_a_node_of_other_versions_is_refused_in_one_line(cluster, home, monkeypatch):
    corpus, real = corpus_in(home, clips=1), metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "0.1" if name == "zstandard" else real(name)
    )
    told = rf"^node \S+ has zstandard {real('zstandard')} \(here 0\.1\)\. Install the same versions"
    with pytest.raises(EngineError, match=told):
        simulate_corpus(corpus, "s.zarr", SimulationRecipe(), engine="ray")
    assert not list((home / "s.zarr/clips").glob("*/"))


def test_cuda_is_refused_where_no_node_has_it(cluster, home):
    corpus = corpus_in(home, clips=1)
    with pytest.raises(EngineError, match="no node of the Ray cluster has a GPU"):
        simulate_corpus(corpus, "s.zarr", SimulationRecipe(), engine="ray", device="cuda")
    assert planned_workers("ray") == 2
    assert planned_workers("ray", workers=1) == 1


@pytest.mark.parametrize("to", ["zarr", "parquet"])
def test_packing_gives_the_same_bytes_and_tells_the_same(cluster, home, to):
    make_store(home / "spikes.zarr", 7)
    make_store(home / "more.zarr", 2, name="toy2")
    shard = next((home / "more.zarr/clips/toy2_0").glob("c.*"))
    shard.write_bytes(shard.read_bytes()[:-9])
    sources = ["spikes.zarr", "more.zarr", "nowhere.zarr"]
    want = pack_clips(sources, to=to, out=home / "local", workers=2)
    steps = []
    found = pack_clips(sources, to=to, out=home / "ray", engine="ray", progress=steps.append)
    assert digest_of_folder(home / "ray") == digest_of_folder(home / "local")
    assert (found.clips, found.failures, found.notes) == (8, want.failures, want.notes)
    assert (found.packed_bytes, found.stored_bytes) == (want.packed_bytes, want.stored_bytes)
    assert [step.stage for step in steps] == ["write"] * 9 + ["verify"] * 8
    assert sorted(path.name for path in home.iterdir() if path.name.startswith("ray")) == [
        "ray",
        "ray.failures.jsonl",
    ]


def parent_of(process):
    """Of a process, by Linux' list of them; none if it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def kill_at_work(node, store, patience_s=60.0):
    """Kill a node of the cluster at once, while a worker of it has a clip half done."""
    (raylet,) = [started.process.pid for started in node.all_processes["raylet"]]
    ends_s = time.monotonic() + patience_s
    while time.monotonic() < ends_s:
        for folder in store.glob(".partial/parts-*/*/[0-9]*"):
            worker = int(folder.parent.name.split("-")[-2])
            if parent_of(worker) == raylet:
                os.kill(raylet, signal.SIGKILL)
                os.kill(worker, signal.SIGKILL)
                return
        time.sleep(0.001)


def test_a_node_that_is_killed_costs_nothing(cluster, home):
    """The last on this cluster, which takes a while to see that it has one node less."""
    corpus = corpus_in(home, clips=20)
    recipe = plugin(home, "slowly", "time.sleep(0.02)")
    want, _ = plain(home, corpus, recipe)
    (node,) = cluster.worker_nodes
    killing = threading.Thread(target=kill_at_work, args=(node, home / "s.zarr"))
    told = []
    killing.start()
    report = simulate_corpus(
        corpus, "s.zarr", recipe, engine="ray", progress=lambda outcome: told.append(outcome.id)
    )
    killing.join()
    assert (report.written, report.failures) == (40, ())
    assert sorted(told) == [item.clip.id for item in corpus.clips]
    (note,) = report.notes
    assert note.startswith("workers that died: ")
    assert digest_of_folder(home / "s.zarr") == want
    assert validate("s.zarr") == []
    assert ray.is_initialized()  # this program's own, and left alone


def test_what_the_engine_cannot_write_or_reach_is_refused_in_one_line(home):
    make_store(home / "spikes.zarr")
    done = run_program("spikedata", "pack", "--to", "hdf5", "--engine", "ray", cwd=home)
    told = one_line_error(done, 2)
    assert told == "error: engine ray writes zarr and parquet; got to='hdf5'"
    corpus_in(home, clips=1)
    done = run_program("spikedata", "simulate", "videos", "--address", "auto", cwd=home)
    assert "give --engine ray too" in one_line_error(done, 2)


def test_an_address_that_nobody_answers_at_and_a_missing_extra_are_told(home, monkeypatch):
    corpus = corpus_in(home, clips=1)
    words = ["simulate", "videos", "--engine", "ray", "--address", "127.0.0.1:1"]
    done = run_program("spikedata", *words, cwd=home, apart=True)
    assert one_line_error(done, 1).startswith("error: ray: nobody answers at 127.0.0.1:1: ")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'spklip\[ray\]'"):
        simulate_corpus(corpus, "t.zarr", SimulationRecipe(), engine="ray")
    assert not (home / "t.zarr").exists()


def clips_in(store):
    return len(list(store.glob("clips/*/zarr.json")))


def noted_in(folders):
    """How many clips workers noted that they put into place."""
    return sum(file.read_bytes().count(b"\n") for at in folders for file in at.glob("*.jsonl"))


@contextlib.contextmanager
def running(home):
    """`spikedata simulate --engine ray` in a session of its own, once it has some clips."""
    words = ["simulate", "videos", "--engine", "ray", "--workers", "2", "--out", "s.zarr"]
    words += ["--interpolation", "slowly:frames"]
    partial = home / "s.zarr/.partial"
    before = set(partial.glob("parts-*"))  # of the run that was killed, whose workers may live on
    with subprocess.Popen(
        [BIN / "spikedata", *words], cwd=home, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            ends_s = time.monotonic() + 60
            while noted_in(set(partial.glob("parts-*")) - before) < 2:
                assert process.poll() is None
                assert time.monotonic() < ends_s
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def test_a_laptop_s_own_ray_goes_on_after_a_kill_and_after_ctrl_c(home):
    """No set-up: it is started, says nothing, and is gone in the end, however that comes."""
    corpus = corpus_in(home, clips=30)
    recipe = plugin(home, "slowly", "time.sleep(0.02)")
    want, _ = plain(home, corpus, recipe)
    with FileLock(ONE_RAY, is_singleton=True):
        with running(home) as process:
            process.kill()
        killed = clips_in(home / "s.zarr")
        assert 2 <= killed < 60
        with running(home) as process:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to Ray's processes too
            _, told = process.communicate(timeout=60)
        assert process.returncode == 130, told
        assert told.decode().splitlines() == [
            "error: interrupted; run the same command again to go on"
        ]
        assert killed + 2 <= clips_in(home / "s.zarr") < 60
        assert validate("s.zarr") == []
        assert not (home / "s.zarr.lock").exists()
        words = ["simulate", "videos", "--engine", "ray", "--interpolation", "slowly:frames"]
        done = run_program("spikedata", *words, "--out", "s.zarr", cwd=home, apart=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert digest_of_folder(home / "s.zarr") == want
