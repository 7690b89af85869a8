"""Files that appear whole or not at all, and locks that one writer holds."""

import sys
import threading

import pytest

from spikedata.errors import StoreError
from spikedata.outputs import Failure, acquire, release, write_whole


@pytest.mark.skipif(sys.platform == "win32", reason="locks are not by flock there")
def test_a_lock_whose_file_goes_while_another_opens_it_has_one_holder(tmp_path, monkeypatch):
    import fcntl

    path = tmp_path / "x"
    held = [acquire(path)]
    lock = fcntl.flock

    def after_the_file_has_gone(descriptor, operation):
        if operation & fcntl.LOCK_EX and held:
            release(held.pop())
            other.append(acquire(path))
        return lock(descriptor, operation)

    other: list = []
    monkeypatch.setattr(fcntl, "flock", after_the_file_has_gone)
    with pytest.raises(StoreError, match="another process is writing it"):
        acquire(path)
    assert other[0].is_locked
    release(other[0])
    release(acquire(path))


def test_threads_that_write_one_file_leave_one_of_their_texts(tmp_path):
    texts = [str(number) * 100_000 for number in range(4)]
    threads = [
        threading.Thread(target=write_whole, args=(tmp_path / "a.txt", text)) for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.txt").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_why_a_clip_was_left_out_is_one_line_whatever_it_is_called():
    failure = Failure(id="c", path="p", error="clip a\u2028b\x1b[2J\nis gone" + "!" * 5_000)
    assert failure.error.startswith("clip a b\\x1b[2J is gone!!!")
    assert len(failure.error) == 1_000
