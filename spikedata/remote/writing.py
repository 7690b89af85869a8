"""Writing an object whole: in parts, or on a condition."""

from collections.abc import Iterable

from spikedata.remote.asking import is_refused_condition
from spikedata.remote.buckets import PART_BYTES, Bucket, Version

HELD_BYTES = 4 * PART_BYTES
"""Of what comes in parts: up to so much is held, so that it can be sent again as a whole."""


_BYTES = (bytes, bytearray, memoryview)


class Parts:
    """Parts of an object, and the failure to take the next one."""

    def __init__(self, data: bytes | Iterable[bytes]) -> None:
        self.failure: BaseException | None = None
        self._is_whole = isinstance(data, _BYTES)
        self._rest = iter((bytes(data),) if isinstance(data, _BYTES) else data)
        self._first: list[bytes] = []

    def held(self) -> bytes | None:
        """All of them, if they were given as one, or are no more than is held."""
        size = 0
        for part in self._rest:
            self._first.append(part)
            size += len(part)
            if size > HELD_BYTES and not self._is_whole:
                return None
        return b"".join(self._first)

    def __iter__(self) -> "Parts":
        return self

    def __next__(self) -> bytes:
        if self._first:
            return self._first.pop(0)
        try:
            return next(self._rest)
        except StopIteration:
            raise
        except BaseException as error:
            self.failure = error
            raise


class Condition:
    """A write on a condition, which can be made again though an answer to it was lost."""

    def __init__(self, key: str, data: bytes, expected: Version | None) -> None:
        self._key, self._data, self._expected = key, data, expected
        self._may_be_done = False

    def write(self, bucket: Bucket) -> Version:
        """Write it once; after a lost answer, what is there is ours if it is the same."""
        try:
            return bucket.write_if(self._key, self._data, self._expected)
        except Exception as error:
            if not is_refused_condition(error):
                self._may_be_done = True
                raise
            if not self._may_be_done:
                raise
            there, version = bucket.read_all(self._key)
            if there != self._data:
                raise
            return version
