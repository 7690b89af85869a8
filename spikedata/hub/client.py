"""The Hub's client: where it is, and its failures in one line that never shows the token.

What a server answers is a stranger's: it may be no answer, another one, or one that never ends.
"""

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from spikedata.errors import HubError, SpikeDataError
from spikedata.remote import asked_to_wait_s

SIGN_IN = (
    "not signed in to the Hub, or the token is not valid: run `hf auth login`, or set HF_TOKEN"
)
AGAIN = "Run the same command again"
SHARD_NAME = re.compile(r"data/[\w.-]+\.parquet")

MOST_ANSWER_BYTES = 16 << 20
"""What an answer that is held in memory may have; what is told of 80,000 files has as much."""
PATIENCE_S = 25.0
"""How long a call goes on without a useful answer: twice that is within a minute."""
_SLOWEST_BYTES = 25 << 10
"""What of an answer has to come within that time."""
_MOST_REQUESTS = 10_000
"""What a call may need: reading what is known of clips asks for a quarter MiB at a time."""
_MOST_SHOWN = 500
"""Characters of a message: what a server says may be a page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubStep:
    """How far a publication or a download is."""

    stage: Literal["encode", "upload", "download", "write"]
    done: int
    total: int
    name: str


Progress = Callable[[HubStep], None]


def api() -> Any:
    """The client, told which Hub."""
    from huggingface_hub import HfApi  # noqa: PLC0415  a third of a second; --help need not wait

    return HfApi(endpoint=endpoint(), library_name="spikedata")


def endpoint() -> str:
    """Address of the Hub."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@contextlib.contextmanager
def one_line(what: str, advice: str = "", *, most_bytes: int = MOST_ANSWER_BYTES) -> Iterator[None]:
    """Tell any failure of the client in one line that holds no token.

    Whatever a server answers that the client did not expect ends in some exception of any kind:
    all of them are told. So keep the body to the client's own call, and bugs of ours out of it.

    Args:
        what: what is asked for; begins the line.
        advice: what to do; default to run the command again, where that may help.
        most_bytes: what one answer may have.
    """
    token = _CALL.set(_Call(most_bytes))
    try:
        _watch_session()
        yield
    except SpikeDataError:
        raise
    except Exception as error:
        raise HubError(_told(what, error, advice)) from None
    finally:
        _CALL.reset(token)


def senseless(what: str, answer: str, advice: str = AGAIN) -> HubError:
    """The error for an answer that was understood and cannot be true."""
    return HubError(_plain(f"{what}: {endpoint()} {answer}", advice))


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """What the Hub tells of a file of a revision."""

    size: int | None
    sha256: str | None
    """None for a small one, which is not kept by its digest."""


def published_files(
    repo: str, revision: str | None = None, advice: str = AGAIN
) -> tuple[str, bool, dict[str, PublishedFile]]:
    """A revision's commit, whether its repository is private, and its files by name.

    The commit is safe as the name of a folder.

    Raises:
        HubError: not there, not reachable, or the answer cannot be true.
    """
    with one_line(repo, "" if advice == AGAIN else advice):
        info = api().dataset_info(repo, revision=revision, files_metadata=True)
    files: dict[str, PublishedFile] = {}
    fits = isinstance(info.sha, str) and _COMMIT.fullmatch(info.sha) is not None
    fits = fits and isinstance(info.private, bool) and isinstance(info.siblings, list)
    for item in info.siblings if fits else ():
        sha256 = None if item.lfs is None else item.lfs.sha256
        fits = fits and isinstance(item.rfilename, str)
        fits = fits and (item.size is None or (type(item.size) is int and item.size >= 0))
        fits = fits and (sha256 is None or _is_sha256(sha256))
        files[str(item.rfilename)] = PublishedFile(item.size, sha256)
    if not fits:
        raise senseless(repo, "tells of no commit and files", advice)
    return info.sha, info.private, files


_COMMIT = re.compile(r"[0-9a-f]{40,64}")


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _told(what: str, error: Exception, advice: str) -> str:
    from huggingface_hub import errors  # noqa: PLC0415

    told = _of_the_client(error)
    again = advice or AGAIN
    if isinstance(told, errors.LocalTokenNotFoundError):
        return SIGN_IN
    if isinstance(told, errors.HfHubHTTPError):
        return _answer(what, told, advice)
    if isinstance(told, OSError) and _is_local(told):
        return _plain(f"{told.filename or what}: {told.strerror}", again)
    kind = type(told or error).__name__
    if told is None:
        text = f"{what}: {endpoint()} gave an answer that cannot be read: {kind}: {error}"
        return _plain(text, again)
    if isinstance(told, errors.HFValidationError):  # nobody was asked
        again = advice
    if isinstance(told, _UselessError):
        return _plain(f"{what}: {endpoint()} {told}", again)
    return _plain(f"{what}: {endpoint()} cannot be used: {kind}: {told}", again)


def _of_the_client(error: BaseException | None) -> BaseException | None:
    """The first error in the chain that the client or its HTTP library raised, or the system."""
    while error is not None:
        package = type(error).__module__.split(".")[0]
        known = isinstance(error, OSError | _UselessError)
        if known or package in ("huggingface_hub", "httpx", "httpx2"):
            return error
        error = error.__cause__  # an upload's own error hides in a RuntimeError
    return None


def _is_local(error: OSError) -> bool:
    """Whether it is of this machine's disk, not of the network."""
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return False
    return error.errno is not None and error.strerror is not None


def _answer(what: str, error: Any, advice: str) -> str:
    status = getattr(error.response, "status_code", None)
    if status == 401:
        return SIGN_IN
    if status == 404:
        return _plain(f"{what}: not on {endpoint()}, or not for this account's eyes", advice)
    said = error.server_message or type(error).__name__
    if status is None or status >= 500 or status in (408, 429):
        advice = advice or AGAIN
    return _plain(f"{what}: {endpoint()} answered {status}: {said}", advice)


def _plain(text: str, advice: str) -> str:
    """One line of a screen's length, without the token should a message ever hold it."""
    from huggingface_hub import get_token  # noqa: PLC0415

    line = " ".join(text.split())
    for secret in (get_token(), os.environ.get("HF_TOKEN")):
        if secret:
            line = line.replace(secret, "***")
    if len(line) > _MOST_SHOWN:
        line = line[:_MOST_SHOWN] + "..."
    return f"{line}. {advice}" if advice else line


# --- answers that never come or never end ---------------------------------------------------------


class _UselessError(Exception):
    """A server answers in a way that waiting does not help."""


class _Call:
    """What one call of the client may still take."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.requests = 0
        self.unanswered = 0
        self.heard: float | None = None
        """When the first request was made, or a useful answer came."""

    def asks(self, method: str) -> None:
        """Count a request in, unless the last useful answer is too long ago.

        The client asks again by itself. A file may take long to send: that is tried twice.
        """
        self.heard = time.monotonic() if self.heard is None else self.heard
        waited_s = time.monotonic() - self.heard
        if waited_s > PATIENCE_S and (method != "PUT" or self.unanswered > 1):
            raise _UselessError(f"gave no useful answer in {waited_s:.0f} s")
        self.requests += 1
        self.unanswered += 1
        if self.requests > _MOST_REQUESTS:
            raise _UselessError(f"answers in circles: {_MOST_REQUESTS:,} requests and no end")

    def hears(self) -> None:
        self.heard, self.unanswered = time.monotonic(), 0

    def reads(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """An answer's bytes as they come, unless they are too many or come too slowly."""
        size, part, begun = 0, 0, time.monotonic()
        for chunk in chunks:
            size += len(chunk)
            part += len(chunk)
            if size > self.most_bytes:
                raise _UselessError(f"sent more than {self.most_bytes:,} bytes")
            spent_s = time.monotonic() - begun
            if spent_s > PATIENCE_S:
                if part < _SLOWEST_BYTES:
                    raise _UselessError(f"sent no more than {part:,} bytes in {spent_s:.0f} s")
                self.hears()
                part, begun = 0, time.monotonic()
            yield chunk


_CALL: ContextVar[_Call | None] = ContextVar("_CALL", default=None)


def _watch_session() -> None:
    """Look at each request of the client's session that belongs to a call of ours; others pass.

    The session is the process's, and may be one that the user has configured.
    """
    from huggingface_hub import get_session  # noqa: PLC0415

    session = get_session()
    hooks = session.event_hooks
    if _before_request not in hooks["request"]:
        session.event_hooks = {
            "request": [*hooks["request"], _before_request],
            "response": [*hooks["response"], _after_headers],
        }


def _before_request(request: Any) -> None:
    call = _CALL.get()
    if call is None:
        return
    call.asks(request.method)
    limits = request.extensions.get("timeout") or {}  # many calls of the client have none
    kinds = ("connect", "read", "write", "pool")
    limited = {kind: min(limits.get(kind) or PATIENCE_S, PATIENCE_S) for kind in kinds}
    request.extensions = {**request.extensions, "timeout": limited}
    request.headers["Accept-Encoding"] = "identity"  # a small answer must not unpack to a large one


def _after_headers(response: Any) -> None:
    call = _CALL.get()
    if call is None:
        return
    if response.is_success:
        call.hears()
    packed = response.headers.get("Content-Encoding", "identity")
    if packed != "identity":
        raise _UselessError(f"answered in an encoding that was not asked for, {packed}")
    wait_s = asked_to_wait_s(response.headers)
    if response.status_code in (408, 429, 500, 502, 503, 504) and wait_s > PATIENCE_S:
        raise _UselessError(f"answered {response.status_code}: come again in {wait_s} s")
    raw = response.iter_raw
    response.iter_raw = lambda chunk_size=None: call.reads(raw(chunk_size))
