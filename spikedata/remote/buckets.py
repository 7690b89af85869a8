"""What object storage can do, over the libraries that speak to it: one request a call.

Amazon S3, Google Cloud Storage, Azure and all that speak as these do go through ``obstore``, whose
Rust client asks again, with growing pauses, after 5xx answers and broken connections. The Hub is
read through its own client.
"""

import contextlib
import functools
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from spikedata.errors import MissingExtraError, SpikeDataError
from spikedata.remote.asking import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    RETRY_S,
    TRIES,
    asked_to_wait_s,
)

CLOUDS = ("s3", "gs", "az", "memory")
SCHEMES = (*CLOUDS, "hf")

CONNECT_S = 10.0
SILENCE_S = 30.0
"""How long a server may say nothing, before it is asked again."""
REQUEST_S = 300.0
PAGE_KEYS = 1000
"""As many as a server lists at once."""
PART_BYTES = 8 << 20
"""Of an upload in parts; what is smaller goes in one request."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object, as a listing or its head tells of it."""

    key: str
    size: int
    tag: str | None
    """Changes when the object does."""
    modified_s: float


@dataclass(frozen=True, slots=True)
class Version:
    """Which content of an object was read or written, for a write that is to replace just that."""

    tag: str | None
    number: str | None

    def as_text(self) -> str:
        """Both in one text."""
        return json.dumps([self.tag, self.number])

    @classmethod
    def from_text(cls, text: str) -> "Version":
        """Undo :meth:`as_text`."""
        return cls(*json.loads(text))


class Bucket(Protocol):
    """What is at a scheme and a bucket's name. Keys have no slash in front."""

    def read(self, key: str, start: int, length: int) -> bytes:
        """Bytes from ``start`` on, at most ``length``."""
        ...

    def read_all(self, key: str) -> tuple[bytes, Version]:
        """All of an object."""
        ...

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        """The last ``length`` bytes, or all, and the object's size."""
        ...

    def head(self, key: str) -> Entry:
        """What is known of an object."""
        ...

    def write(self, key: str, data: Any) -> Version:
        """Write an object whole: bytes, or an iterator of them in parts."""
        ...

    def write_if(self, key: str, data: bytes, expected: Version | None) -> Version:
        """Write an object if it is of that version, or is not there; asked once alone."""
        ...

    def walk(self, prefix: str, after: str | None) -> Iterator[list[Entry]]:
        """All objects whose key begins with ``prefix``, in order; a thousand a request.

        Args:
            prefix: empty, or ends with a slash.
            after: only those whose key comes after it.
        """
        ...

    def look_in(self, prefix: str) -> tuple[list[str], list[Entry]]:
        """Prefixes one level down, and objects, as a folder has them."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; none there is no error."""
        ...


def bucket_of(scheme: str, name: str) -> Bucket:
    """The bucket, whose client is made once for a process.

    Raises:
        SpikeDataError: the process was forked from one that had a client: its threads are gone.
    """
    if scheme == "hf":
        return _HubFiles(name)
    _check_not_forked()
    return _client(scheme, name)


# --- clouds ---------------------------------------------------------------------------------------

_CLIENT_OF: int | None = None
_MAKING = threading.Lock()


def _check_not_forked() -> None:
    """Refuse to wait for ever: a forked process has none of the threads that the client needs."""
    global _CLIENT_OF  # noqa: PLW0603
    process = os.getpid()
    if _CLIENT_OF not in (None, process):
        raise SpikeDataError(
            "object storage cannot be read in a process that was forked from one that reads it. "
            'Give the DataLoader multiprocessing_context="spawn"'
        )
    _CLIENT_OF = process


@functools.lru_cache(maxsize=64)
def _client(scheme: str, name: str) -> "_CloudBucket":
    with _MAKING:
        client = _open(scheme, name, retries=TRIES)
        return _CloudBucket(client, client if scheme == "memory" else _open(scheme, name))


def _open(scheme: str, name: str, *, retries: int = 0) -> Any:
    try:
        from obstore import store  # noqa: PLC0415  loads a Rust library
    except ImportError as error:
        raise MissingExtraError(
            f"{scheme}://{name}: object storage needs obstore: pip install 'spklip[remote]'"
        ) from error
    if scheme == "memory":
        return store.MemoryStore()
    shared: dict[str, Any] = {
        "retry_config": {
            "max_retries": retries,
            "retry_timeout": timedelta(seconds=RETRY_S),
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_PAUSE_S),
                "max_backoff": timedelta(seconds=LONGEST_PAUSE_S),
                "base": 2,
            },
        },
        "client_options": {
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "read_timeout": timedelta(seconds=SILENCE_S),
            "timeout": timedelta(seconds=REQUEST_S),
            "allow_http": _endpoint(scheme).startswith("http://"),
        },
    }
    if scheme == "gs":
        return store.GCSStore(name, **shared)
    if scheme == "az":
        return store.AzureStore(name, **shared)
    return store.S3Store(name, **shared, **_of_the_users_files())


def _endpoint(scheme: str) -> str:
    """Where the user has another server answer for a provider's; empty if nowhere."""
    names = {
        "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "gs": ("GOOGLE_BASE_URL", "STORAGE_EMULATOR_HOST"),
        "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    }[scheme]
    return next((os.environ[name] for name in names if name in os.environ), "")


def _of_the_users_files() -> dict[str, Any]:
    """Credentials of ``~/.aws``, where the environment has none: only boto3 reads these files."""
    if "AWS_ACCESS_KEY_ID" in os.environ or not any(
        os.path.exists(os.path.expanduser(os.environ.get(name, usual)))
        for name, usual in (
            ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
            ("AWS_CONFIG_FILE", "~/.aws/config"),
        )
    ):
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(
            "credentials of ~/.aws need boto3: pip install boto3, or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        ) from error
    return {"credential_provider": Boto3CredentialProvider()}


class _CloudBucket:
    """A bucket of ``obstore``."""

    def __init__(self, client: Any, asking_once: Any) -> None:
        import obstore  # noqa: PLC0415  it is there: the client is of it

        self._client, self._calls, self._asking_once = client, obstore, asking_once

    def read(self, key: str, start: int, length: int) -> bytes:
        if length <= 0:
            return b""
        try:
            return bytes(self._calls.get_range(self._client, key, start=start, length=length))
        except Exception as error:
            if _PAST_END.search(str(error)):
                return b""
            raise

    def read_all(self, key: str) -> tuple[bytes, Version]:
        found = self._calls.get(self._client, key)
        meta = found.meta
        return bytes(found.bytes()), Version(meta["e_tag"], meta["version"])

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        try:
            found = self._calls.get(self._client, key, options={"range": {"suffix": length}})
            return bytes(found.bytes()), int(found.meta["size"])
        except Exception:
            # No range of an empty object can be given, and servers say that each in its own way.
            if self.head(key).size:
                raise
            return b"", 0

    def head(self, key: str) -> Entry:
        return _entry(self._calls.head(self._client, key))

    def write(self, key: str, data: Any) -> Version:
        try:
            done = self._calls.put(self._client, key, data, chunk_size=PART_BYTES)
        except Exception as error:
            if _NO_UPLOAD not in str(error):
                raise
            # All parts came together, and only the answer that says so was lost.
            return Version(self.head(key).tag, None)
        return Version(done["e_tag"], done["version"])

    def write_if(self, key: str, data: bytes, expected: Version | None) -> Version:
        mode: Any = "create"
        if expected is not None:
            told = {"e_tag": expected.tag, "version": expected.number}
            mode = {name: value for name, value in told.items() if value is not None}
        done = self._calls.put(self._asking_once, key, data, mode=mode, use_multipart=False)
        return Version(done["e_tag"], done["version"])

    def walk(self, prefix: str, after: str | None) -> Iterator[list[Entry]]:
        pages = self._calls.list(self._client, prefix or None, offset=after, chunk_size=PAGE_KEYS)
        for page in pages:
            yield list(map(_entry, page))

    def look_in(self, prefix: str) -> tuple[list[str], list[Entry]]:
        found = self._calls.list_with_delimiter(self._client, prefix or None)
        return list(found["common_prefixes"]), list(map(_entry, found["objects"]))

    def delete(self, key: str) -> None:
        self._calls.delete(self._client, key)


_PAST_END = re.compile(r"416 Range Not Satisfiable|Invalid range: Wanted range starting")
"""What S3 and all like it answer who asks for bytes past the last, and what memory says."""
_NO_UPLOAD = "NoSuchUpload"
"""What is answered to who gives up an upload in parts that is finished."""


def _entry(meta: Any) -> Entry:
    return Entry(meta["path"], meta["size"], meta["e_tag"], meta["last_modified"].timestamp())


# --- the Hub --------------------------------------------------------------------------------------


_READ_ALONE = "hf://: the Hub is published to with `spikedata push-hub`"


_UNDER_WAY: list[None] = []
"""One for each call of ours to the Hub's client, which may ask from threads of its own."""


@contextlib.contextmanager
def _patient_no_longer() -> Iterator[None]:
    """While this is open the Hub's client neither waits without end nor for as long as it is told.

    Its session is the process's: what else it is used for passes as it is.
    """
    from huggingface_hub import get_session  # noqa: PLC0415  a third of a second

    session = get_session()
    hooks = session.event_hooks
    if _limit_silence not in hooks["request"]:
        session.event_hooks = {
            "request": [*hooks["request"], _limit_silence],
            "response": [*hooks["response"], _refuse_long_wait],
        }
    _UNDER_WAY.append(None)
    try:
        yield
    finally:
        _UNDER_WAY.pop()


def _limit_silence(request: Any) -> None:
    if _UNDER_WAY:
        limits = request.extensions.get("timeout") or {}  # many calls of the client have none
        kinds = ("connect", "read", "write", "pool")
        limited = {kind: min(limits.get(kind) or SILENCE_S, SILENCE_S) for kind in kinds}
        request.extensions = {**request.extensions, "timeout": limited}


def _refuse_long_wait(response: Any) -> None:
    wait_s = asked_to_wait_s(response.headers)
    if _UNDER_WAY and response.is_error and wait_s > SILENCE_S:
        raise ConnectionRefusedError(f"answered {response.status_code}: come again in {wait_s} s")


class _HubFiles:
    """Repositories of the Hub, read alone: ``push-hub`` publishes."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def _files(self) -> Any:
        from huggingface_hub import HfFileSystem  # noqa: PLC0415  a third of a second

        endpoint = os.environ.get("HF_ENDPOINT")
        return HfFileSystem(endpoint=endpoint.rstrip("/") if endpoint else None)

    def _path(self, key: str) -> str:
        return f"{self._kind}/{key}"

    def read(self, key: str, start: int, length: int) -> bytes:
        with _patient_no_longer():
            return bytes(self._files().cat_file(self._path(key), start=start, end=start + length))

    def read_all(self, key: str) -> tuple[bytes, Version]:
        with _patient_no_longer():
            return bytes(self._files().cat_file(self._path(key))), Version(None, None)

    def read_tail(self, key: str, length: int) -> tuple[bytes, int]:
        size = self.head(key).size
        return self.read(key, max(0, size - length), min(size, length)), size

    def head(self, key: str) -> Entry:
        with _patient_no_longer():
            return self._entry(self._files().info(self._path(key)))

    def write(self, key: str, data: Any) -> Version:
        raise SpikeDataError(_READ_ALONE)

    def write_if(self, key: str, data: bytes, expected: Version | None) -> Version:
        raise SpikeDataError(_READ_ALONE)

    def walk(self, prefix: str, after: str | None) -> Iterator[list[Entry]]:
        with _patient_no_longer():
            found = self._files().find(self._path(prefix.rstrip("/")), detail=True, refresh=True)
        # Of a file it gives the file itself, which does not lie below, in some versions as nothing.
        below = [of for name, of in sorted(found.items()) if name != self._path(prefix.rstrip("/"))]
        entries = list(map(self._entry, below))
        yield [entry for entry in entries if after is None or entry.key > after]

    def look_in(self, prefix: str) -> tuple[list[str], list[Entry]]:
        with _patient_no_longer():
            # Its cache forgets the folders of a listing that went all the way down.
            found = self._files().ls(self._path(prefix.rstrip("/")), detail=True, refresh=True)
        folders = [self._key(of["name"]) for of in found if of["type"] == "directory"]
        return folders, [self._entry(of) for of in found if of["type"] == "file"]

    def delete(self, key: str) -> None:
        raise SpikeDataError(_READ_ALONE)

    def _key(self, name: str) -> str:
        return name.removeprefix(f"{self._kind}/")

    def _entry(self, told: Any) -> Entry:
        if told["type"] != "file":
            raise FileNotFoundError(told["name"])
        return Entry(self._key(told["name"]), int(told["size"]), told.get("blob_id"), 0.0)
