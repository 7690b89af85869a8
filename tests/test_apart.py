"""A child that hangs, crashes, swells or babbles is an error in one line."""

import signal
import sys
import threading
import time

import pytest

from spikedata.apart import Apart
from spikedata.errors import SpikeDataError

CHILD = """
import ctypes, os, re, sys, time
from spikedata.errors import StoreError

def echo(*words):
    yield {"words": words}
    yield b"\\x00" * 300_000
    yield {"last": True}

def noisy():
    print("printed")
    os.write(1, b"written")
    os.write(2, b"complained")
    yield {"a": 1}

def refuses():
    yield {"a": 1}
    raise StoreError("clip 'a' is a link")

def raises():
    raise ValueError("two\\nlines")
    yield

def spins():
    yield {"a": 1}
    re.match(r"(a+)+$", "a" * 60 + "b")  # in C, and without letting another thread run

def aborts():
    yield {"a": 1}
    os.abort()

def crashes():
    yield {"a": 1}
    ctypes.string_at(0)

def leaves():
    yield {"a": 1}
    os._exit(7)

def swells():
    yield {"kept": len(bytearray(8 << 30))}

def sleeps():
    yield {"a": 1}
    time.sleep(2)
    yield {"b": 2}

def floods():
    for _ in range(8):
        yield bytes(1 << 20)
"""


@pytest.fixture(autouse=True)
def child(tmp_path, monkeypatch):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "child_of_test.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))


def apart(name, *words, most_bytes=1 << 20, work_s=60.0):
    return Apart(f"child_of_test:{name}", *words, most_bytes=most_bytes, work_s=work_s)


def error_of(name, **bounds):
    with apart(name, **bounds) as said, pytest.raises(SpikeDataError) as caught:
        list(said)
    return str(caught.value)


def test_messages_come_in_order_whatever_they_hold():
    words = ("a b", "-c", "--", "\u00e9\n")
    with apart("echo", *words) as said:
        assert list(said) == [{"words": [*words]}, bytes(300_000), {"last": True}]
        assert next(said, None) is None


def test_what_a_library_prints_is_no_message_and_not_shown(capfd):
    with apart("noisy") as said:
        assert list(said) == [{"a": 1}]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("refuses", "clip 'a' is a link"),
        ("raises", "cannot be read: two lines"),
        ("crashes", "cannot be read: the library that reads it crashed (SIGSEGV); it is damaged"),
        ("aborts", "cannot be read: the library that reads it crashed (SIGABRT); it is damaged"),
        ("leaves", "cannot be read: the library that reads it crashed (status 7); it is damaged"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals have no numbers there")
def test_what_ends_a_child_is_told(name, message):
    assert error_of(name) == message


def test_a_child_that_spins_is_ended():
    told = error_of("spins", work_s=1.0)
    assert told == "cannot be read: nothing was found out in 1 s; it is damaged"


@pytest.mark.skipif(sys.platform == "win32", reason="no timer of processor time there")
def test_a_child_that_the_machine_keeps_waiting_is_waited_for_and_not_for_ever(monkeypatch):
    with apart("sleeps", work_s=0.5) as said:
        assert list(said) == [{"a": 1}, {"b": 2}]
    monkeypatch.setattr("spikedata.apart._PATIENCE_S", 0.5)
    waited = "nothing was found out in 1 s"
    told = f"cannot be read: {waited}; it is damaged, or its disk does not answer"
    assert error_of("sleeps", work_s=0.5) == told


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such limit")
def test_a_child_that_swells_is_stopped():
    assert error_of("swells") == "cannot be read: MemoryError"


def test_a_message_past_the_limit_is_refused():
    told = error_of("floods", most_bytes=(1 << 20) - 1)
    assert told == "tells 1,048,576 bytes at once, more than 1,048,575"


def test_a_slow_listener_is_waited_for():
    with apart("floods", work_s=0.5) as said:
        for message in said:
            time.sleep(0.7)
            assert message == bytes(1 << 20)


@pytest.mark.skipif(sys.platform == "win32", reason="no signal to one thread there")
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_reaches_who_waits_and_ends_the_child():
    here = threading.get_ident()
    with apart("spins") as said:
        timer = threading.Timer(1, lambda: signal.pthread_kill(here, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            next(said)
        timer.join()
    assert said._child.returncode == -signal.SIGKILL


def test_nothing_is_loaded_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("json", "struct", "faulthandler", "resource", "spikedata", "sitecustomize"):
        (tmp_path / "here" / f"{name}.py").write_text(f"open({name!r}, 'w')")
    with apart("echo") as said:
        assert len(list(said)) == 3
    assert {path.suffix for path in (tmp_path / "here").iterdir()} == {".py"}


def test_a_program_that_cannot_start_is_named(monkeypatch):
    monkeypatch.setattr("spikedata.apart._START", "raise SystemExit(1)")
    assert error_of("echo") == (
        f"cannot be read: {sys.executable} could not start a process (status 1)"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="no such limit")
def test_a_process_that_the_system_refuses_is_told():
    with pytest.raises(SpikeDataError, match="no process for that could be started: Argument list"):
        apart("echo", "x" * (1 << 20))  # Linux takes 128 KiB a word


def test_a_child_whose_parent_is_gone_ends(tmp_path):
    with apart("floods") as said:
        next(said)
        said._pipe.close()
        assert said._child.wait(timeout=60) != 0
