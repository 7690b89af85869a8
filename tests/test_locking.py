"""Locks where the system's do not reach: leases, who takes one over, and which way is chosen."""

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from tools import digest_of_folder, run_program, write_corpus

from spikedata import lease, locking, open_store
from spikedata.clip import Clip
from spikedata.clips import create_store
from spikedata.errors import SpikeDataError, StoreError
from spikedata.lease import FileMedium, Lease, Note, Times
from spikedata.locking import Mount, mount_of
from spikedata.outputs import acquire, is_being_written, locked, release

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks are not by flock there")

QUICK = Times(lease_s=1.5, renew_s=0.05, poll_s=0.01)


def note(*, count: int = 0, machine: str | None = "elsewhere", pid: int = 7) -> bytes:
    """What a holder on another machine has laid down."""
    return Note(owner="0" * 32, host="node-9", machine=machine, pid=pid, count=count).data()


class Clock:
    """Time that passes only while somebody waits, in place of the module ``time``."""

    def __init__(self, meanwhile: Callable[[float], object] = lambda _: None) -> None:
        self.now_s = 100.0
        self._meanwhile = meanwhile

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self._meanwhile(self.now_s)

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def by_lease(monkeypatch):
    monkeypatch.setenv("SPIKEDATA_LOCK", "lease")
    monkeypatch.setattr(locking, "TIMES", QUICK)


@contextmanager
def program(text: str, *words: object, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has told that it has begun."""
    quick = f"from spikedata import locking, lease\nlocking.TIMES = lease.{QUICK}\n"
    process = subprocess.Popen(
        [sys.executable, "-c", quick + text, *map(str, words)],
        env=os.environ | {"SPIKEDATA_LOCK": "lease"} | settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.communicate()


HOLD = """
import sys
from pathlib import Path
from spikedata.outputs import locked
with locked(Path(sys.argv[1])):
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"])
def test_where_flock_is_refused_a_lease_keeps_two_processes_apart(tmp_path, monkeypatch, code):
    import fcntl

    def refused(descriptor, operation):
        raise OSError(getattr(errno, code), "refused")

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(locking, "TIMES", QUICK)
    out = tmp_path / "s.zarr"
    with locked(out):
        told = json.loads((tmp_path / "s.zarr.lock").read_text())
        assert told["pid"] == os.getpid()
        with pytest.raises(
            StoreError, match=f"another process is writing it, process {told['pid']}"
        ):
            acquire(out)
    assert list(tmp_path.iterdir()) == []
    with program(HOLD, out) as other:
        with pytest.raises(StoreError, match=f"process {other.pid} on .* who renewed its lock"):
            acquire(out)
        other.communicate("")
    release(acquire(out))
    assert list(tmp_path.iterdir()) == []


def test_a_lease_of_a_killed_process_is_taken_over_at_once(tmp_path, by_lease, monkeypatch):
    with program(HOLD, tmp_path / "x") as other:
        other.kill()
        other.wait()
    assert (tmp_path / "x.lock").exists()
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    with locked(tmp_path / "x"):
        assert clock.now_s == 100
    assert list(tmp_path.iterdir()) == []


def test_a_lease_of_another_machine_is_watched_before_it_is_taken_over(
    tmp_path, monkeypatch, caplog
):
    file = tmp_path / "x.lock"
    file.write_bytes(note())
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    held = Lease(FileMedium(file), "x")
    held.acquire()
    assert 130 <= clock.now_s <= 131
    assert "x: is locked by process 7 on node-9; watching for 30 s" in caplog.text
    held.check()
    held.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_is_renewed_while_it_is_watched_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "x.lock"
    file.write_bytes(note())
    after_29_s = Clock(lambda now_s: now_s > 129 and file.write_bytes(note(count=1)))
    monkeypatch.setattr(lease, "time", after_29_s)
    told = r"x: another process is writing it, process 7 on node-9, .* watched for 29\.5 s\. Wait"
    with pytest.raises(StoreError, match=told):
        Lease(FileMedium(file), "x").acquire()
    assert file.read_bytes() == note(count=1)


@pytest.mark.parametrize("left", [b"", b"\0\xff", b"[]", b'{"owner": 1}', b"{" * 9_000])
def test_a_lock_file_that_is_no_note_goes_when_nobody_renews_it(tmp_path, monkeypatch, left):
    file = tmp_path / "x.lock"
    file.write_bytes(left)
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    assert not Lease(FileMedium(file), "x").is_held()
    assert clock.now_s >= 130
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_take_a_lease_over_one_has_it(tmp_path):
    file = tmp_path / "x.lock"
    for turn in range(20):
        file.write_bytes(note(count=turn))
        leases = [Lease(FileMedium(file), "x", Times(lease_s=0, poll_s=0.001)) for _ in range(12)]
        gate = threading.Barrier(len(leases))

        def take(one: Lease, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            with suppress(StoreError):
                one.acquire()
            return one.is_locked

        with ThreadPoolExecutor(len(leases)) as pool:
            assert sum(pool.map(take, leases)) == 1
        for one in leases:
            if one.is_locked:
                assert Note.read(file.read_bytes()) == one._note
            one.release()
        assert list(tmp_path.iterdir()) == []


TAKE = """
import sys
from pathlib import Path
from spikedata.errors import StoreError
from spikedata.outputs import acquire
print("begun", flush=True)
sys.stdin.readline()
try:
    lock = acquire(Path(sys.argv[1]))
except StoreError:
    print("lost", flush=True)
else:
    print("won", flush=True)
    sys.stdin.readline()
    lock.check()
    print("holds it", flush=True)
"""


def test_of_processes_that_take_a_lease_over_one_has_it(tmp_path):
    (tmp_path / "x.lock").write_bytes(note())
    with (
        program(TAKE, tmp_path / "x") as a,
        program(TAKE, tmp_path / "x") as b,
        program(TAKE, tmp_path / "x") as c,
    ):
        for one in (a, b, c):
            one.stdin.write("go\n")
            one.stdin.flush()
        told = {one.stdout.readline(): one for one in (a, b, c)}
        assert set(told) == {"won\n", "lost\n"}
        assert told["won\n"].communicate("go\n")[0] == "holds it\n"


def test_changes_of_a_note_that_is_a_file_follow_one_another(tmp_path):
    file = tmp_path / "x.lock"
    FileMedium(file).create(b"0 -")

    def count_up(name: int) -> int:
        medium, done = FileMedium(file), 0
        while done < 30:
            data, version = medium.read()
            number = int(data.split()[0]) + 1
            done += medium.replace(version, f"{number} {name}".encode()) is not None
        return done

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(count_up, range(6))) == [30] * 6
    assert file.read_bytes().split()[0] == b"180"
    assert list(tmp_path.iterdir()) == [file]


def test_a_note_that_is_another_by_now_is_neither_changed_nor_removed(tmp_path):
    medium = FileMedium(tmp_path / "x.lock")
    first = medium.create(b"first")
    assert medium.create(b"other") is None
    second = medium.replace(first, b"second")
    assert medium.replace(first, b"third") is None
    assert not medium.delete(first)
    assert medium.read() == (b"second", second)
    assert medium.delete(second)
    assert medium.read() is None
    assert medium.replace(second, b"again") is None
    assert list(tmp_path.iterdir()) == []


def test_what_a_process_left_that_was_killed_while_it_changed_a_note_is_passed_over(
    tmp_path, monkeypatch
):
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    medium = FileMedium(tmp_path / "x.lock", patience_s=30)
    first = medium.create(b"first")
    claim = tmp_path / f"x.lock.{first}.0"
    claim.write_bytes(note())
    (tmp_path / ("x.lock." + "0" * 16 + ".made")).write_bytes(b"half")
    assert medium.replace(first, b"second") is None
    clock.sleep(29)
    assert medium.replace(first, b"second") is None
    clock.sleep(1)
    second = medium.replace(first, b"second")
    assert medium.read() == (b"second", second)
    dead = json.loads(note(pid=2**22 + 1, machine=lease._this_machine()))  # past the most there are
    (tmp_path / f"x.lock.{second}.3").write_text(json.dumps(dead))
    assert medium.delete(second)
    medium.create(b"anew")
    assert [path.name for path in tmp_path.iterdir()] == ["x.lock"]


def test_a_file_system_whose_files_have_one_name_has_leases_too(tmp_path, monkeypatch):
    def refused(*names):
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    test_a_note_that_is_another_by_now_is_neither_changed_nor_removed(tmp_path)
    test_changes_of_a_note_that_is_a_file_follow_one_another(tmp_path)


SIMULATE = """
import sys
from spikedata import find_corpus, simulate_corpus
from spikedata.errors import StoreError
from spikedata.simulation import simulation_recipe
def one_more(stored):
    if stored.id == "class0__clip0":
        print("begun", flush=True)
        sys.stdin.readline()
try:
    corpus = find_corpus(sys.argv[1])
    simulate_corpus(corpus, sys.argv[2], simulation_recipe(), progress=one_more)
except StoreError as error:
    print(error, flush=True)
"""


def test_a_run_that_was_suspended_for_longer_than_its_lease_puts_nothing_more_in_place(
    tmp_path, by_lease
):
    out = tmp_path / "s.zarr"
    videos = write_corpus(tmp_path / "videos", classes=1, clips=12)
    with program(SIMULATE, videos, out) as other:
        os.kill(other.pid, signal.SIGSTOP)
        recipe = open_store(out).recipe
        with create_store(out, recipe=recipe, class_names=["class0"], resume=True) as writer:
            there = set(writer.ids)
            os.kill(other.pid, signal.SIGCONT)
            said = other.communicate("go\n")[0]
            assert said.startswith(f"{out}: lost its lock: process {os.getpid()} on "), said
            one = Clip(id="one", label="class0")
            with writer.clip(one, height_px=8, width_px=8, tick_rate_hz=1.0) as target:
                target.append(np.zeros((1, 8, 8), np.uint8))
                target.finish(ticks=8, attributes={})
    assert set(open_store(out).clips) == there | {"one"}
    assert "class0__clip0" in there
    assert open_store(out).problems() == []


def test_what_two_holders_write_aside_has_no_name_in_common(tmp_path, by_lease):
    held = [Lease(FileMedium(tmp_path / name), name) for name in "ab"]
    assert held[0].number != held[1].number
    with locked(tmp_path / "x") as lock:
        assert lock.number > 0


def test_a_holder_that_was_suspended_and_that_nobody_followed_goes_on(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    held = Lease(FileMedium(tmp_path / "x.lock"), "x")
    held.acquire()
    clock.now_s += 3_600
    held.check()
    assert Note.read((tmp_path / "x.lock").read_bytes()).count == 1
    held.release()


def test_a_lease_whose_note_somebody_removed_is_lost(tmp_path):
    held = Lease(FileMedium(tmp_path / "x.lock"), "x")
    held.acquire()
    (tmp_path / "x.lock").unlink()
    with pytest.raises(StoreError, match="x: lost its lock: somebody removed it. What was"):
        held.check()
    held.release()
    assert list(tmp_path.iterdir()) == []


class Flaky:
    """A note in memory; each change is made, and told as an error when ``fails`` says so."""

    def __init__(self) -> None:
        self.fails = False
        self.data: bytes | None = None

    def create(self, data: bytes) -> str | None:
        if self.data is not None:
            return None
        return self._put(data)

    def read(self) -> tuple[bytes, str] | None:
        return None if self.data is None else (self.data, self.data.hex())

    def replace(self, version: str, data: bytes) -> str | None:
        return self._put(data) if self.read() and self.data.hex() == version else None

    def delete(self, version: str) -> bool:
        self.data = None
        return True

    def _put(self, data: bytes) -> str:
        self.data = data
        if self.fails:
            raise TimeoutError(errno.ETIMEDOUT, "no answer")
        return data.hex()


def test_a_renewal_that_was_made_and_whose_answer_was_lost_loses_nothing():
    medium = Flaky()
    held = Lease(medium, "x")
    held.acquire()
    medium.fails = True
    assert held.renew()
    medium.fails = False
    assert held.renew()
    held.check()
    assert Note.read(medium.data).owner == held._note.owner


def test_a_lease_that_cannot_be_renewed_any_more_is_not_trusted(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    medium = Flaky()
    held = Lease(medium, "x")
    held.acquire()
    medium.fails = True
    clock.now_s += 14
    held.check()
    clock.now_s += 2
    with pytest.raises(StoreError, match="x: lost its lock: it could not be renewed for 16 s"):
        held.check()


def test_a_store_is_said_to_be_written_while_a_lease_on_it_is_renewed(tmp_path, by_lease):
    out = tmp_path / "x"
    assert not is_being_written(out)
    with locked(out):
        assert is_being_written(out)
    with program(HOLD, out):
        assert is_being_written(out)
    assert not is_being_written(out)  # it was killed
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.lock").write_bytes(note())
    assert not is_being_written(out)  # nobody renewed it
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_nobody_refers_to_any_more_is_released(tmp_path):
    held = Lease(FileMedium(tmp_path / "x.lock"), "x", QUICK)
    held.acquire()
    del held
    gc.collect()
    waiting_until_s = time.monotonic() + 30
    while any(tmp_path.iterdir()) and time.monotonic() < waiting_until_s:
        time.sleep(QUICK.renew_s)
    assert list(tmp_path.iterdir()) == []


def test_who_locks_by_the_system_does_not_pass_over_a_lease(tmp_path, monkeypatch):
    monkeypatch.delenv("SPIKEDATA_LOCK", raising=False)
    by_a_lease = pytest.raises(StoreError, match="another process is writing it, by a lease")
    with program(HOLD, tmp_path / "x"), by_a_lease:
        acquire(tmp_path / "x")
    monkeypatch.setenv("SPIKEDATA_LOCK", "lease")
    (tmp_path / "x.lock").unlink()
    by_the_system = pytest.raises(StoreError, match="another process is writing it. Wait")
    with program(HOLD, tmp_path / "x", SPIKEDATA_LOCK="flock"), by_the_system:
        acquire(tmp_path / "x")


def test_the_environment_chooses_the_way(tmp_path, monkeypatch):
    import fcntl

    out = tmp_path / "x"
    monkeypatch.setenv("SPIKEDATA_LOCK", "none")
    with locked(out), locked(out) as lock:
        lock.check()
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("SPIKEDATA_LOCK", "posix")
    with pytest.raises(SpikeDataError, match="SPIKEDATA_LOCK=posix: expected flock, lease, none"):
        acquire(out)
    monkeypatch.setenv("SPIKEDATA_LOCK", "flock")
    with locked(out):
        assert (tmp_path / "x.lock").read_bytes() == b""

    def refused(descriptor, operation):
        raise OSError(errno.ENOLCK, "refused")

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(StoreError, match="cannot lock files .* Unset it: a lease is used"):
        acquire(out)


def test_where_no_note_can_be_made_the_error_names_the_lock(by_lease):
    with pytest.raises(OSError, match=r"'/proc/x\.lock'"):
        acquire(Path("/proc/x"))


MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:40 / /home rw,relatime shared:5 - nfs4 srv:/home rw,vers=4.2,local_lock=none,addr=10.0.0.1
31 27 0:41 / /data rw,relatime shared:6 master:2 - nfs srv:/data rw,vers=3,nolock,local_lock=all
32 31 8:1 / /data/fast rw - xfs /dev/sdb rw
33 27 0:42 / /a\040place rw,nosuid - fuse.sshfs me@there:/ rw,user_id=0
34 27 0:43 / /bucket rw - fuse.rclone remote: rw
35 27 0:44 / /lus rw - lustre 10.0.0.2@tcp:/fs rw,flock,lazystatfs
36 27 0:45 / /lus2 rw - lustre 10.0.0.2@tcp:/fs rw,localflock
37 27 0:46 / /win rw - cifs //srv/share rw,vers=3.0,nobrl
38 27 0:47 / /win2 rw - smb3 //srv/share rw,vers=3.0
39 27 8:2 / /usb rw - fuseblk /dev/sdc1 rw
40 27 0:48 / /gl rw - fuse.glusterfs srv:/vol rw
41 27 0:49 / /host rw - 9p host rw,trans=virtio
42 27 0:50 / /over rw - ext4 /dev/sdd rw
43 42 0:51 / /over rw - virtiofs tag rw
44 27 0:52 / /posix rw - nfs srv:/p rw,vers=3,local_lock=posix
not a line of it
"""


@pytest.mark.parametrize(
    ("folder", "kind", "alone", "no_files"),
    [
        ("/srv/x", "ext4", False, False),
        ("/home/me", "nfs4", False, False),
        ("/data", "nfs", True, False),
        ("/database", "ext4", False, False),
        ("/data/fast/x", "xfs", False, False),
        ("/a place/x", "fuse.sshfs", True, False),
        ("/bucket/x", "fuse.rclone", True, True),
        ("/lus", "lustre", False, False),
        ("/lus2", "lustre", True, False),
        ("/win", "cifs", True, False),
        ("/win2", "smb3", False, False),
        ("/usb", "fuseblk", False, False),
        ("/gl", "fuse.glusterfs", False, False),
        ("/host/x", "9p", True, False),
        ("/over/x", "virtiofs", True, False),
        ("/posix", "nfs", False, False),
    ],
)
def test_the_mount_table_tells_whether_flock_reaches_other_machines(folder, kind, alone, no_files):
    mount = mount_of(Path(folder), MOUNTS)
    assert mount.kind == kind
    assert mount.locks_for_itself_alone() == alone
    assert mount.has_no_exclusive_files() == no_files


def test_no_mount_table_and_a_damaged_one_tell_nothing():
    assert mount_of(Path("/x"), "") is None
    assert mount_of(Path("/x"), "1 2 3 - \n - - -\n") is None
    assert mount_of(Path("/proc").resolve()).kind == "proc"


def test_the_mount_that_holds_an_output_decides(tmp_path, monkeypatch):
    seen: list[Path] = []

    def mounted(kind: str) -> Callable[[Path], Mount]:
        return lambda folder: seen.append(folder) or Mount("/net", kind, frozenset({"rw"}))

    monkeypatch.setattr(locking, "mount_of", mounted("fuse.sshfs"))
    with locked(tmp_path / "x"):
        assert json.loads((tmp_path / "x.lock").read_text())["pid"] == os.getpid()
    assert set(seen) == {tmp_path.resolve()}
    monkeypatch.setattr(locking, "mount_of", mounted("fuse.s3fs"))
    with pytest.raises(StoreError, match=r"x: no lock holds on fuse\.s3fs \(/net\), .* if nobody"):
        acquire(tmp_path / "x")
    monkeypatch.setenv("SPIKEDATA_LOCK", "none")
    release(acquire(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []


def test_simulating_and_packing_by_lease_give_the_same_files(tmp_path, monkeypatch):
    write_corpus(tmp_path / "videos", classes=1, clips=2)
    env = os.environ | {"SPIKEDATA_LOCK": "lease"}
    made = {}
    for way, apart in {"flock": None, "lease": env}.items():
        (tmp_path / way).mkdir()
        done = run_program("spikedata", "simulate", "../videos", cwd=tmp_path / way, env=apart)
        assert done.returncode == 0, done.stderr
        monkeypatch.setenv("SPIKEDATA_LOCK", way)
        done = run_program("spikedata", "pack", "--to", "parquet", cwd=tmp_path / way)
        assert done.returncode == 0, done.stderr
        made[way] = digest_of_folder(tmp_path / way)
    assert made["lease"] == made["flock"]
    assert {name.split("/")[0] for name in made["lease"]} >= {"spikes.zarr", "packed.parquet"}
    assert not [name for name in made["lease"] if ".lock" in name]
