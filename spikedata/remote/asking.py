"""Asking a server: again where that helps, and what fails told in one line without a secret.

The client of object storage asks again by itself after most failures. What it does not cover, an
answer that breaks off and writes on a condition, is asked again here.
"""

import errno
import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from spikedata.errors import SpikeDataError
from spikedata.remote.secrets import without_secrets
from spikedata.wording import one_line

T = TypeVar("T")

TRIES = 8
RETRY_S = 90.0
"""How long a request is tried in all, by the client and here."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0

_CODE = re.compile(r"<Code>(.*?)</Code>", re.DOTALL)
_MESSAGE = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)
_STATUS = re.compile(r"status code: (\d{3}[ \w']*)")
_ASKED_ENOUGH = re.compile(r"after (\d+) retries, max_retries: \1,")
_BROKEN = re.compile(
    r"HTTP error|response body|Connection|Timeout|timed out|disconnected|closed connection"
)
_PASSING = ("408", "429", "500", "502", "503", "504")
"""Answers of a server that is in trouble, or has too much to do."""

_RUN_OUT = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_NO_PATH = "Encountered object with invalid path"
_REFUSED = ("401", "403")
_INSTANCE = re.compile(r"169\.254\.\d+\.\d+|metadata\.google\.internal")
"""Where a machine of a provider is asked for its credentials, when the user gave none."""

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "HF_TOKEN",
    "memory": "none",
}
"""Variables that a user sets, by scheme."""


def ask(where: object, call: Callable[[], T], *, tries: int = TRIES) -> T:
    """What ``call`` gives; it is made again, with growing pauses, after a failure that may pass.

    Args:
        where: the URL, for the message.
        call: makes one request; is free to be made again if ``tries`` is not 1.
        tries: how often in all.

    Raises:
        OSError: it failed for good. The client's own error, which may quote the request with its
            signature, hangs on it nowhere.
    """
    until_s = time.monotonic() + RETRY_S
    pause_s = FIRST_PAUSE_S
    for left in reversed(range(tries)):
        try:
            return call()
        except SpikeDataError:
            raise
        except Exception as error:
            failure = as_os_error(where, error)
            if not left or not may_pass(error) or time.monotonic() + pause_s > until_s:
                break
        time.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    raise failure  # outside of the handler, so that it has no context


def may_pass(error: Exception) -> bool:
    """Whether the same request may be answered well a little later."""
    text = str(error)
    if _ASKED_ENOUGH.search(text):
        return False
    status = _status(error)
    return status.startswith(_PASSING) if status else _BROKEN.search(_first_line(text)) is not None


def asked_to_wait_s(headers: Any) -> int:
    """What the Hub's client would sleep, s; it has no limit of its own."""
    found = re.search(r";\s*t\s*=\s*(\d{1,9})", headers.get("RateLimit", ""))
    after = headers.get("Retry-After", "").strip()
    told = found[1] if found else after
    return int(told[:9]) if told.isascii() and told.isdigit() else 0


def is_refused_condition(error: Exception) -> bool:
    """Whether a write on a condition was refused for that."""
    return type(error).__name__ in ("AlreadyExistsError", "PreconditionError")


def as_os_error(where: object, error: Exception) -> OSError:
    """Any failure of a client as an ``OSError`` of one line that holds no secret."""
    text = str(error)
    code = _found(_CODE, text)
    said = _said(error)
    scheme = str(where).partition(":")[0]
    if is_refused_condition(error):
        return FileExistsError(errno.EEXIST, "is there already, or another", str(where))
    if code in _NO_BUCKET:
        # Not as a file that is not there, which may be as it should.
        return OSError(errno.ENXIO, "there is no such bucket", str(where))
    if isinstance(error, FileNotFoundError):
        private = ", or it is private and HF_TOKEN is not of one who may read it"
        missing = f"no such file{private if scheme == 'hf' else ''}"
        return FileNotFoundError(errno.ENOENT, missing, str(where))
    if _NO_PATH in text:
        advice = f"holds an object whose name is no path ({said.partition(': ')[2]}); rename it"
        return OSError(errno.EINVAL, advice, str(where))
    said = said.rstrip(".")
    if _INSTANCE.search(text):
        advice = f"no credentials were found. Set {CREDENTIALS.get(scheme, '')}"
    elif code in _RUN_OUT:
        advice = f"{said}. The credentials have run out: renew them, then run this again"
    elif _status(error).startswith(_REFUSED) or isinstance(error, PermissionError):
        advice = f"{said}. Check the credentials ({CREDENTIALS.get(scheme, '')}) and their rights"
    else:
        return OSError(errno.EIO, said, str(where))
    return PermissionError(errno.EACCES, one_line(advice), str(where))


def _status(error: Exception) -> str:
    """The status that a server answered with, or nothing."""
    answer = getattr(error, "response", None)
    if answer is not None and answer.status_code >= 400:
        return f"{answer.status_code} {getattr(answer, 'reason_phrase', '')}".strip()
    return _found(_STATUS, str(error))


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return "" if found is None else found[1]


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _said(error: Exception) -> str:
    """What is worth knowing of an error: a server's code and message, else its first words."""
    text = str(error)
    parts = [_status(error), _found(_CODE, text), _found(_MESSAGE, text)]
    brief = ": ".join(filter(None, parts)) or _first_line(text)[:300]
    if isinstance(error, ArithmeticError | AttributeError | LookupError | TypeError):
        brief = f"an answer was not understood ({brief})"
    return one_line(without_secrets(brief))
