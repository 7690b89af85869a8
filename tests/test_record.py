"""A camera's stream, as it comes, into a store: nothing that came is lost, however it ends."""

import contextlib
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_half_rows import damage
from tools import BIN, one_line_error, run_program

from spikedata import (
    Clip,
    RecordingConfig,
    SpikeDataError,
    open_recording,
    open_store,
    pack_clips,
    record_stream,
    validate,
    write_recording,
)
from spikedata.bits import pack_ticks
from spikedata.camera import CAMERAS
from spikedata.clips import StoreWriter, change_store
from spikedata.errors import StoreError
from spikedata.incoming import Incoming, ReadAhead, open_incoming
from spikedata.outputs import is_being_written

CAMERA, HEIGHT, WIDTH, PLANE = "16x20", 16, 20, 40


def record(source, out, *, resume=False, progress=None, tell=None, stop=None, **options):
    """Record with some options and without what else a caller may give."""
    told = {"progress": progress, "tell": tell, "stop": stop}
    given = {name: value for name, value in told.items() if value is not None}
    return record_stream(source, out, RecordingConfig(**options), resume=resume, **given)


def planes_of(seed, ticks):
    """Random planes, uint8 (T, H, W), and the bytes that the camera sends."""
    planes_thw = (np.random.default_rng(seed).random((ticks, HEIGHT, WIDTH)) < 0.3).astype(np.uint8)
    return planes_thw, np.packbits(planes_thw.reshape(ticks, -1), axis=1, bitorder="little")


def stream_file(path, ticks, *, seed=0, more=b""):
    planes_thw, sent = planes_of(seed, ticks)
    path.write_bytes(sent.tobytes() + more)
    return planes_thw


def recorded(store, clip_id="recording"):
    """A clip's planes, its store sound."""
    assert [str(problem) for problem in validate(store)] == []
    return open_store(store).read(clip_id).unpack()


@contextlib.contextmanager
def pipe_of(tmp_path, data):
    """A named pipe into which a thread writes."""
    fifo = tmp_path / "camera"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(data))
    writer.start()
    yield fifo
    writer.join()


# --- what comes is what is there ----------------------------------------------------------------


@settings(max_examples=25)
@given(
    size=st.sampled_from([(1, 1), (3, 5), (16, 20)]),
    ticks=st.integers(1, 400),
    cut=st.integers(0, 3),
    ring_bytes=st.sampled_from([1, 500, 1 << 20]),
    split=st.none() | st.sampled_from([8, 64, 136]),
    workers=st.integers(1, 3),
)
def test_what_is_recorded_is_what_came(
    tmp_path_factory, size, ticks, cut, ring_bytes, split, workers
):
    tmp_path = tmp_path_factory.mktemp("record")
    planes_thw = (np.random.default_rng(ticks).random((ticks, *size)) < 0.4).astype(np.uint8)
    sent = np.packbits(planes_thw.reshape(ticks, -1), axis=1, bitorder="little")
    cut = min(cut, sent.shape[1] - 1)
    (tmp_path / "s.dat").write_bytes(sent.tobytes() + b"\xff" * cut)
    report = record(
        tmp_path / "s.dat",
        tmp_path / "s.zarr",
        camera=f"{size[0]}x{size[1]}",
        split_ticks=split,
        ring_bytes=ring_bytes,
        workers=workers,
    )
    assert (report.ticks, report.cut_bytes, report.ended) == (ticks, cut, "end of the stream")
    assert (report.lost, report.is_broken) == ((), False)
    store = open_store(tmp_path / "s.zarr")
    parts = [store.read(clip_id).unpack() for clip_id in report.clips]
    assert np.array_equal(np.concatenate(parts), planes_thw)
    assert report.spikes == planes_thw.sum()
    assert len(parts) == (1 if split is None else -(-ticks // split))
    assert all(len(part) == split for part in parts[:-1])
    assert validate(tmp_path / "s.zarr") == []


@pytest.mark.parametrize("camera", ["vidar", "vidar-raw"])
def test_a_camera_s_stream_has_the_bits_that_packing_its_file_has(tmp_path, monkeypatch, camera):
    monkeypatch.chdir(tmp_path)
    packed = pack_ticks(np.random.default_rng(0).random((300, 250, 400)) < 0.3)
    write_recording("v.dat", [packed], camera, ticks=300)
    pack_clips(["v.dat"], camera=camera, out="packed.zarr")
    with pipe_of(tmp_path, Path("v.dat").read_bytes()) as fifo:
        report = record(fifo, "live.zarr", camera=camera, clip=Clip(id="v"), workers=2)
    there, live = open_store("packed.zarr").clips["v"], open_store("live.zarr").clips["v"]
    assert (live.bits_sha256, live.spikes, live.ticks) == (there.bits_sha256, there.spikes, 300)
    assert live.attributes["camera"] == there.attributes["camera"]
    assert np.array_equal(open_store("live.zarr").read("v").packed_ghw, packed)
    assert report.bytes == 300 * CAMERAS[camera].plane_bytes


@pytest.mark.parametrize("seed", range(4))
def test_lost_half_rows_are_told_as_opening_the_file_tells_them(tmp_path, seed):
    damaged = damage(seed)
    (tmp_path / "s.dat").write_bytes(damaged.data)
    file = open_recording(tmp_path / "s.dat", "sps100")
    with pipe_of(tmp_path, damaged.data) as fifo:
        record(fifo, tmp_path / "s.zarr", camera="sps100", ring_bytes=3 << 20)
    assert np.array_equal(recorded(tmp_path / "s.zarr"), damaged.survivors_thw)
    told = open_store(tmp_path / "s.zarr").clips["recording"].attributes["camera"]
    lost = [[span.tick, span.ticks, span.bytes] for span in file.losses]
    assert told.get("lost", []) == lost
    assert told["skipped"] == file.skipped_bytes


def test_it_ends_after_as_many_ticks_or_seconds_as_asked_for(tmp_path):
    planes_thw = stream_file(tmp_path / "s.dat", 500)
    for name, asked in (("t", {"ticks": 123}), ("s", {"duration_s": 0.123, "tick_rate_hz": 1000})):
        report = record(tmp_path / "s.dat", tmp_path / f"{name}.zarr", camera=CAMERA, **asked)
        assert (report.ticks, report.ended) == (123, "as many ticks as asked for")
        assert np.array_equal(recorded(tmp_path / f"{name}.zarr"), planes_thw[:123])
    damaged = damage(1)
    (tmp_path / "h.dat").write_bytes(damaged.data)
    report = record(tmp_path / "h.dat", tmp_path / "h.zarr", camera="sps100", ticks=1)
    assert np.array_equal(recorded(tmp_path / "h.zarr"), damaged.survivors_thw[:1])


def test_what_is_known_of_the_clip_and_how_it_came_is_kept(tmp_path):
    stream_file(tmp_path / "s.dat", 20, more=b"123")
    clip = Clip(id="a", label="wave", captions=("Someone waves.",), split="test", group="g")
    record(tmp_path / "s.dat", tmp_path / "s.zarr", camera=CAMERA, clip=clip)
    stored = open_store(tmp_path / "s.zarr").clips["a"]
    assert (stored.label, stored.clip.captions) == ("wave", ("Someone waves.",))
    assert (stored.clip.split, stored.clip.group) == ("test", "g")
    assert stored.attributes["camera"] == {"name": CAMERA, "flip": False, "skipped": 3}
    told = stored.attributes["recording"]
    assert told.keys() == {
        *("from", "started_utc", "ended", "reader_waited_s", "ring_bytes", "ring_fullest")
    }
    assert 0 < told["ring_fullest"] <= 1
    assert stored.losses == {"bytes skipped": 3}


def test_a_file_that_grows_is_followed_until_it_is_enough(tmp_path):
    planes_thw, sent = planes_of(0, 300)
    file = tmp_path / "s.dat"
    file.write_bytes(sent[:100].tobytes())
    stop, seen = threading.Event(), []

    def grow(step):
        seen.append(step.ticks)
        if len(seen) == 1:
            with file.open("ab") as more:
                more.write(sent[100:].tobytes())
        if step.ticks >= 256:
            stop.set()

    report = record(
        file,
        tmp_path / "s.zarr",
        camera=CAMERA,
        follow=True,
        ring_bytes=1,
        stop=stop,
        progress=grow,
    )
    assert report.ended == "stopped"
    assert np.array_equal(recorded(tmp_path / "s.zarr"), planes_thw[: report.ticks])
    assert report.ticks >= 256


# --- TCP ----------------------------------------------------------------------------------------


def test_it_connects_to_a_camera(tmp_path):
    planes_thw, sent = planes_of(0, 1000)

    def serve():
        with server.accept()[0] as connection:
            connection.sendall(sent.tobytes())

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        source = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        report = record(source, tmp_path / "s.zarr", camera=CAMERA, ring_bytes=1)
        thread.join()
    assert (report.ticks, report.ended) == (1000, "end of the stream")
    assert np.array_equal(recorded(tmp_path / "s.zarr"), planes_thw)


def test_it_waits_for_a_camera_to_connect(tmp_path):
    planes_thw, sent = planes_of(0, 700)
    threads = []

    def send(place):
        with socket.create_connection(place) as connection:
            connection.sendall(sent.tobytes())

    def told(text):
        if text.startswith("listening on "):
            host, _, port = text.removeprefix("listening on ").rpartition(":")
            threads.append(threading.Thread(target=send, args=[(host, int(port))]))
            threads[-1].start()

    source = "tcp-listen://127.0.0.1:0"
    record(source, tmp_path / "s.zarr", camera=CAMERA, tell=told)
    threads[0].join()
    assert np.array_equal(recorded(tmp_path / "s.zarr"), planes_thw)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("tcp://nowhere", "expected tcp://HOST:PORT, for example tcp://127.0.0.1:9000"),
        ("tcp-listen://127.0.0.1:99999", "expected tcp-listen://HOST:PORT"),
        (f"tcp://{'a' * 70}:9000", f"tcp://{'a' * 70}:9000: "),
        (f"tcp-listen://{'a' * 70}:9000", f"tcp-listen://{'a' * 70}:9000: "),
        ("no/such/file", "no/such/file: cannot be read: No such file or directory"),
        (".", "cannot be read: Is a directory"),
    ],
)
def test_a_source_that_is_none_is_told_in_one_line_and_leaves_no_store(tmp_path, source, told):
    done = run_program("spikedata", "record", "--from", source, "--out", "s.zarr", cwd=tmp_path)
    assert told in one_line_error(done, 1)
    assert list(tmp_path.iterdir()) == []


def test_nobody_answers_at_a_port_that_is_closed(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SpikeDataError, match=f"tcp://127.0.0.1:{port}: Connection refused"):
        record(f"tcp://127.0.0.1:{port}", tmp_path / "s.zarr")


def test_waiting_for_a_camera_can_be_stopped(tmp_path):
    stop = threading.Event()
    with pytest.raises(SpikeDataError, match="stopped before anybody connected"):
        record(
            "tcp-listen://127.0.0.1:0", tmp_path / "s.zarr", stop=stop, tell=lambda _: stop.set()
        )


# --- back-pressure ------------------------------------------------------------------------------


def test_a_reader_that_finds_no_room_waits_and_nothing_is_lost(tmp_path):
    data = np.random.default_rng(0).bytes(1000)
    (tmp_path / "s").write_bytes(data)
    stop = threading.Event()
    options = {"block_bytes": 7, "ring_bytes": 30, "most_bytes": None, "stop": stop}
    with open_incoming(tmp_path / "s") as incoming, ReadAhead(incoming, **options) as ring:
        assert ring.bytes == 28
        blocks = iter(ring)
        found = [next(blocks).tobytes()]
        with ring._changed:  # nothing is taken until there is no room
            assert ring._changed.wait_for(lambda: len(ring._full) == 4, timeout=60)
        assert ring.fill == ring.fullest == 1
        found += [block.tobytes() for block in blocks]
    assert b"".join(found) == data
    assert [len(block) for block in found] == [7] * 142 + [6]
    assert ring.waited_s > 0
    assert ring.ended == "end of the stream"


def test_a_reader_that_is_not_needed_any_more_ends(tmp_path):
    (tmp_path / "s").write_bytes(bytes(1000))
    options = {"block_bytes": 7, "ring_bytes": 1, "most_bytes": None, "stop": threading.Event()}
    with open_incoming(tmp_path / "s") as incoming, ReadAhead(incoming, **options) as ring:
        next(iter(ring))
    assert not ring._thread.is_alive()


def test_a_stream_that_breaks_is_told_and_what_came_before_is_kept(tmp_path):
    pieces = [b"abc", b"de", OSError(5, "Input/output error")]

    def read(room):
        piece = pieces.pop(0)
        if isinstance(piece, OSError):
            raise piece
        room[: len(piece)] = piece
        return len(piece)

    incoming, room = Incoming(-1, read, is_file=True), bytearray(9)
    assert incoming.fill(memoryview(room), threading.Event()) == 5
    assert bytes(room[:5]) == b"abcde"
    assert (incoming.ended, incoming.is_broken) == ("Input/output error", True)


@pytest.mark.parametrize("broken", ["_read", "_arrived", "_is_ready"])
@pytest.mark.parametrize(
    ("error", "told"), [(OSError(9, "Bad file descriptor"), "Bad file"), (TypeError(), "TypeError")]
)
def test_whatever_goes_wrong_in_the_reader_is_told_and_what_came_before_is_kept(
    monkeypatch, broken, error, told
):
    """The second time something is asked of the stream, after its first bytes."""
    stop = threading.Event()

    def once(name, answer):
        def asked(*_):
            if name == broken and (stop.is_set() or name == "_arrived"):
                raise error
            return answer

        return asked

    def read(room):
        once("_read", 0)()
        room[:3] = b"abc"
        stop.set()
        return 3

    incoming = Incoming(-1, read)
    monkeypatch.setattr(incoming, "_arrived", once("_arrived", 3))
    monkeypatch.setattr(incoming, "_is_ready", once("_is_ready", True))
    options = {"block_bytes": 9, "ring_bytes": 18, "most_bytes": None, "stop": stop}
    with ReadAhead(incoming, **options) as ring:
        assert [block.tobytes() for block in ring] == [b"abc"]
    assert ring.ended.startswith(told)
    assert ring.is_broken


# --- how it ends --------------------------------------------------------------------------------


@pytest.mark.parametrize("follow", [False, True])
def test_a_file_that_is_not_followed_is_left_where_it_is_when_told_to_stop(tmp_path, follow):
    stream_file(tmp_path / "s.dat", 800)
    stop = threading.Event()
    report = record(
        tmp_path / "s.dat",
        tmp_path / "s.zarr",
        camera=CAMERA,
        ring_bytes=1,
        follow=follow,
        stop=stop,
        progress=lambda _: stop.set(),
    )
    assert report.ended == "stopped"
    # Blocks of eight ticks: one is compressed, two wait, one is being read.
    assert report.ticks == 800 if follow else report.ticks <= 32


def test_the_event_that_tells_it_to_stop_is_the_caller_s(tmp_path):
    stream_file(tmp_path / "s.dat", 80)
    stop = threading.Event()
    record(tmp_path / "s.dat", tmp_path / "s.zarr", camera=CAMERA, ticks=8, stop=stop)
    assert not stop.is_set()


def test_a_reader_ends_while_nothing_comes_though_nobody_told_it_to_stop():
    ours, theirs = os.pipe()
    stop = threading.Event()
    options = {"block_bytes": 7, "ring_bytes": 1, "most_bytes": None, "stop": stop}
    with (
        open(ours, "rb", buffering=0) as file,
        open(theirs, "wb"),
        ReadAhead(Incoming(file.fileno(), file.readinto), **options) as ring,
    ):
        pass
    assert not ring._thread.is_alive()
    assert not stop.is_set()


def test_a_store_that_cannot_be_gone_on_with_is_let_go(tmp_path, monkeypatch):
    stream_file(tmp_path / "s.dat", 8)
    record(tmp_path / "s.dat", tmp_path / "s.zarr", camera=CAMERA)

    def full(self, name):
        raise OSError(28, "No space left on device")

    clip = Clip(id="b", label="wave")
    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "add_class", full)
        with pytest.raises(StoreError, match="No space left on device") as held:
            record(tmp_path / "s.dat", tmp_path / "s.zarr", camera=CAMERA, clip=clip, resume=True)
    assert not is_being_written(tmp_path / "s.zarr"), held  # whose traceback holds the writer
    record(tmp_path / "s.dat", tmp_path / "s.zarr", camera=CAMERA, clip=clip, resume=True)
    assert set(open_store(tmp_path / "s.zarr").clips) == {"recording", "b"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_all_that_came(tmp_path, number):
    """All is in the pipe, or read, before the signal is sent."""
    planes_thw, sent = planes_of(0, 1234)
    with subprocess.Popen(
        [BIN / "spikedata", "record", "--from", "-", "--camera", CAMERA, "--out", "s.zarr"]
        + ["--json"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert b"recording - as" in process.stderr.readline()
        process.stdin.write(sent.tobytes() + b"123")
        process.stdin.flush()
        process.send_signal(number)
        out = process.stdout.read()  # with the pipe still open at our end
        assert process.wait(timeout=120) == 0, process.stderr.read()
    report = json.loads(out)
    assert (report["ticks"], report["ended"], report["cut_bytes"]) == (1234, "stopped", 3)
    assert np.array_equal(recorded(tmp_path / "s.zarr"), planes_thw)


KILLED = f"""
import sys
from spikedata import Clip, RecordingConfig, record_stream
config = RecordingConfig(camera="{CAMERA}", tick_rate_hz=128, clip=Clip(id="cut", label="a"))
record_stream(
    "-", sys.argv[1], config,
    progress=lambda step: print(step.ticks, flush=True),
)
"""


def killed_recording(store, sent, ticks):
    """A recording killed when so many ticks had been compressed, of shards of a second each."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, store], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdin.write(sent.tobytes())
        process.stdin.flush()
        for line in process.stdout:
            if int(line) >= ticks:
                break
        process.kill()
    return store


def test_what_a_killed_one_left_is_kept_by_resume_and_by_nobody_cleared_away(tmp_path):
    planes_thw, sent = planes_of(0, 1100)
    store = killed_recording(tmp_path / "s.zarr", sent, 1024)
    opened = open_store(store)
    assert (len(opened.clips), len(opened.notes)) == (0, 1)
    assert "a recording was cut off in it" in opened.notes[0]
    with pytest.raises(StoreError, match="holds a recording that was cut off"):
        change_store(store)
    with pytest.raises(StoreError, match="Give --resume"):
        record("-", store)
    more_thw = stream_file(tmp_path / "more.dat", 77, seed=1)
    words = ("--from", "more.dat", "--camera", CAMERA, "--clip", "cut", "--label", "b")
    done = run_program(
        "spikedata", "record", "--out", store, "--resume", *words, "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "cut was cut off; 1,024 ticks of it are kept" in done.stderr
    report = json.loads(done.stdout)
    assert (report["kept"], report["clips"]) == (["cut"], ["cut_0002"])
    assert np.array_equal(recorded(store, "cut"), planes_thw[:1024])
    assert np.array_equal(recorded(store, "cut_0002"), more_thw)
    opened = open_store(store)
    assert opened.class_names == ("a", "b")
    assert opened.clips["cut"].attributes["recording"]["ended"] == "killed"
    told = opened.clips["cut_0002"].attributes["recording"]
    assert told["continues"] == {"clip": "cut", "gap": True}
    assert not (store / ".partial").exists()


@pytest.mark.parametrize("left", [0, 100, None])
def test_a_shard_that_is_not_whole_is_not_kept(tmp_path, left):
    planes_thw, sent = planes_of(0, 1100)
    store = killed_recording(tmp_path / "s.zarr", sent, 1024)
    shard = store / ".partial/0/c.5.0.0"
    if left is None:  # a bit of a chunk
        data = bytearray(shard.read_bytes())
        data[10] ^= 1
        shard.write_bytes(data)
    else:
        os.truncate(shard, left)
    done = run_program("spikedata", "record", "--out", store, "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(recorded(store, "cut"), planes_thw[: 5 * 128])


def test_nothing_of_it_on_the_disk_is_told_and_cleared_away(tmp_path):
    _, sent = planes_of(0, 1100)
    store = killed_recording(tmp_path / "s.zarr", sent, 1024)
    for shard in (store / ".partial/0").iterdir():
        shard.unlink()
    done = run_program("spikedata", "record", "--out", store, "--resume", cwd=tmp_path)
    assert "cut was cut off before any of it was on the disk" in done.stderr
    assert (done.returncode, validate(store)) == (0, [])
    assert not (store / ".partial").exists()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"clip": {"id": "../x"}, "size_px": [1, 1]}', '{"clip": 1}', "[]"]
)
def test_what_is_noted_of_a_cut_off_recording_is_not_trusted(tmp_path, text):
    _, sent = planes_of(0, 300)
    store = killed_recording(tmp_path / "s.zarr", sent, 256)
    (store / ".partial/0.json").write_text(text)
    done = run_program("spikedata", "record", "--out", store, "--resume", cwd=tmp_path)
    one_line_error(done, 1)
    assert (store / ".partial/0/c.0.0.0").exists()


def test_what_a_user_should_know_is_told_at_the_end(tmp_path):
    damaged = damage(2)
    (tmp_path / "s.dat").write_bytes(damaged.data)
    words = ("--from", "s.dat", "--camera", "sps100", "--out", "s.zarr")
    done = run_program("spikedata", "record", *words, cwd=tmp_path)
    assert done.returncode == 0
    losses = open_recording(tmp_path / "s.dat", "sps100").losses
    assert losses
    assert f"ticks were lost on the way, in {len(losses)} places" in done.stderr
    assert f"lost             {len(losses)}" in done.stdout


def test_a_store_goes_on_with_further_clips(tmp_path):
    for number in range(3):
        stream_file(tmp_path / "s.dat", 10 + number, seed=number)
        report = record(tmp_path / "s.dat", tmp_path / "s.zarr", camera=CAMERA, resume=number > 0)
        assert report.clips == (("recording", "recording_0002", "recording_0003")[number],)
    assert [c.ticks for c in open_store(tmp_path / "s.zarr").clips.values()] == [10, 11, 12]
    assert validate(tmp_path / "s.zarr") == []


# --- what does not fit --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 39])
def test_less_than_a_plane_is_an_error_and_leaves_no_store(tmp_path, size):
    (tmp_path / "s.dat").write_bytes(bytes(size))
    words = ("--from", "s.dat", "--camera", CAMERA, "--out", "s.zarr")
    done = run_program("spikedata", "record", *words, cwd=tmp_path)
    line = one_line_error(done, 1)
    assert f"({size} bytes came). Wrong --camera?" in line
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ticks": 0}, "ticks must be positive"),
        ({"duration_s": math.inf}, "a positive number of seconds, got inf"),
        ({"duration_s": math.nan}, "a positive number of seconds, got nan"),
        ({"duration_s": 1e308, "tick_rate_hz": 100}, "a positive number of seconds, got 1e"),
        ({"duration_s": -1, "ticks": 5}, "a positive number of seconds, got -1"),
        ({"split_ticks": 12}, "multiple of 8 ticks, got 12"),
        ({"camera": "uhsr"}, "its files are arrays, no stream"),
        ({"tick_rate_hz": 0}, "tick_rate_hz must be a positive number"),
        ({"workers": 0}, "ring_bytes and workers must be positive"),
        ({"level": 99}, "zstd_level must be 1 to 19"),
    ],
)
def test_an_option_that_is_out_of_range_is_refused(tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        record("-", tmp_path / "s.zarr", **options)


def test_neither_a_source_nor_resume_is_an_error_of_usage(tmp_path):
    done = run_program("spikedata", "record", "--out", "s.zarr", cwd=tmp_path)
    assert "give --from, or --resume" in one_line_error(done, 2)


def test_how_far_it_is_is_told_on_a_terminal_in_one_line(tmp_path, monkeypatch):
    from spikedata_cli import recording

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(recording.time, "monotonic", iter(range(100)).__next__)
    stream_file(tmp_path / "s.dat", 300)
    with recording._Told() as told:
        record(
            tmp_path / "s.dat",
            tmp_path / "s.zarr",
            camera=CAMERA,
            progress=told.step,
            tell=told.note,
        )
    last = terminal.getvalue().split("\r")[-3]
    assert last.startswith("300 ticks, 0.0 s, 0 MB, ring ")
    assert last.endswith(" spikes a tick")
