"""The Hub's client: where it is, and its failures in one line that never shows the token."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from spikedata.errors import HubError, SpikeDataError

SIGN_IN = (
    "not signed in to the Hub, or the token is not valid: run `hf auth login`, or set HF_TOKEN"
)
SHARD_NAME = re.compile(r"data/[\w.-]+\.parquet")


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
def one_line(what: str, advice: str = "") -> Iterator[None]:
    """Tell any failure of the client in one line that holds no token."""
    from huggingface_hub import errors  # noqa: PLC0415

    try:
        yield
    except SpikeDataError:
        raise
    except Exception as error:
        told = _of_the_client(error)
        if told is None:
            raise
        if isinstance(told, errors.LocalTokenNotFoundError):
            raise HubError(SIGN_IN) from None
        if isinstance(told, errors.HfHubHTTPError):
            raise HubError(_plain(_answer(what, told), advice)) from None
        text = f"{what}: {endpoint()} cannot be used: {type(told).__name__}: {told}"
        raise HubError(_plain(text, advice)) from None


def _of_the_client(error: BaseException | None) -> BaseException | None:
    """The first error in the chain that the client or its HTTP library raised, or the system."""
    while error is not None:
        package = type(error).__module__.split(".")[0]
        if isinstance(error, OSError) or package in ("huggingface_hub", "httpx", "httpx2"):
            return error
        error = error.__cause__  # an upload's own error hides in a RuntimeError
    return None


def _answer(what: str, error: Any) -> str:
    status = getattr(error.response, "status_code", None)
    if status == 401:
        return SIGN_IN
    if status == 404:
        return f"{what}: not on {endpoint()}, or not for this account's eyes"
    said = error.server_message or type(error).__name__
    return f"{what}: {endpoint()} answered {status}: {said}"


def _plain(text: str, advice: str) -> str:
    """One line, without the token should a message ever hold it."""
    from huggingface_hub import get_token  # noqa: PLC0415

    line = " ".join(text.split())
    for secret in (get_token(), os.environ.get("HF_TOKEN")):
        if secret:
            line = line.replace(secret, "***")
    return f"{line}. {advice}" if advice else line
