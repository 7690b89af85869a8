"""A server of Amazon S3's protocol on loopback, behind a proxy that counts and spoils requests.

    with S3Server() as s3:
        s3.use(monkeypatch)  # or give a program the variables of s3.environment()
        s3.put("folder/file", b"bytes")
        ...
        s3.requests  # ["get bucket/folder/file bytes=0-9", "list bucket/folder/", ...]
        s3.spoil(ERRORS["500"], every=3, times=None)  # each third request
        s3.spoil(Fault("cut", after=100), line="^get ")  # the next whole or ranged read
        s3.spoil(ERRORS["expired"], skip=20, times=None)  # all but the next twenty
        s3.clear()  # no more faults, no counts, no objects

Moto answers, in a process of its own that ends with this one.

A request is written as its kind, what it is about, and the range that is asked for. Kinds are
``get``, ``head``, ``put``, ``delete``, ``copy``, ``list``, ``delete-many``; and of an upload in
parts ``begin``, ``part``, ``finish`` and ``abort``.
"""

import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from email.message import Message
from typing import Any

from flaky_hub import Fault, FlakyHub

__all__ = ["ACCESS_KEY", "ERRORS", "SECRETS", "SECRET_KEY", "SESSION_TOKEN", "Fault", "S3Server"]

ACCESS_KEY = "AKIALOOPBACKTEST0001"
SECRET_KEY = "wJalrSecretOfTheTests/K7MDENG+bPxRfiCY"
SESSION_TOKEN = "FwoGZXSessionTokenOfTheTests//////////wEaDE"
SECRETS = (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)
"""What must be in no message. The programs of tests are given all three."""

_SERVE = """
import logging, sys
logging.disable(logging.CRITICAL)
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


def _error(status: int, code: str, message: str) -> Fault:
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
        f"<Message>{message}</Message><AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId>"
        f"<StringToSign>AWS4-HMAC-SHA256 {ACCESS_KEY}</StringToSign>"
        f"<Token-0>{SESSION_TOKEN}</Token-0><RequestId>0123456789</RequestId></Error>"
    )
    headers = {"Content-Type": "application/xml"}
    return Fault("answer", status=status, body=body.encode(), headers=headers, asked=False)


ERRORS = {
    "500": _error(500, "InternalError", "We encountered an internal error. Please try again."),
    "503": _error(503, "SlowDown", "Please reduce your request rate."),
    "expired": _error(403, "ExpiredToken", f"The provided token {SESSION_TOKEN} has expired."),
    "denied": _error(403, "AccessDenied", f"User {ACCESS_KEY} may not do this."),
    "signature": _error(
        403,
        "SignatureDoesNotMatch",
        f"The signature we calculated with {ACCESS_KEY} does not match what you provided.",
    ),
    "cut": Fault("cut", after=10),
    "drop": Fault("drop"),
    "drop unasked": Fault("drop", asked=False),
}
"""Answers that end at once, by name. ``drop``: the server has done what was asked."""


class S3Server(FlakyHub):
    """The server and its proxy; see the module."""

    def __init__(self, buckets: Sequence[str] = ("bucket",), keys_per_page: int = 1000) -> None:
        self._moto = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(keys_per_page)},
            text=True,
        )
        assert self._moto.stdout is not None
        port = self._moto.stdout.readline().strip()
        if not port:
            raise RuntimeError("moto did not start: pip install 'moto[server]'")
        super().__init__(f"http://127.0.0.1:{port}")
        self.direct_url = f"http://127.0.0.1:{port}"
        self.buckets = tuple(buckets)
        self._make_buckets()

    # --- for programs -------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Variables that point clients of S3 here and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_SESSION_TOKEN": SESSION_TOKEN,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def use(self, monkeypatch: Any) -> None:
        """Have this process use it; the clients that it made for another server are forgotten."""
        from spikedata.remote import buckets  # noqa: PLC0415  not before tests that need no server

        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)
        buckets._client.cache_clear()

    # --- what is there, past the proxy ----------------------------------------------------------

    def put(self, key: str, data: bytes, bucket: str = "bucket") -> None:
        """Put an object there, uncounted."""
        self._direct.put_object(Bucket=bucket, Key=key, Body=data)

    def get(self, key: str, bucket: str = "bucket") -> bytes:
        """Bytes of an object, uncounted."""
        data: bytes = self._direct.get_object(Bucket=bucket, Key=key)["Body"].read()
        return data

    def keys(self, prefix: str = "", bucket: str = "bucket") -> list[str]:
        """Names of all objects, in order, uncounted."""
        return list(self._keys(bucket, prefix))

    def _keys(self, bucket: str, prefix: str = "") -> Iterator[str]:
        pages = self._direct.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            yield from (found["Key"] for found in page.get("Contents", ()))

    def uploads(self, bucket: str = "bucket") -> list[str]:
        """Keys of uploads in parts that were neither finished nor aborted."""
        found = self._direct.list_multipart_uploads(Bucket=bucket)
        return [upload["Key"] for upload in found.get("Uploads", ())]

    def clear(self) -> None:
        """Empty the buckets, spoil nothing any more, forget what was asked."""
        self.heal()
        self._post("/moto-api/reset")
        self._make_buckets()

    def _make_buckets(self) -> None:
        for bucket in self.buckets:
            self._direct.create_bucket(Bucket=bucket)

    def _post(self, path: str) -> None:
        import urllib.request  # noqa: PLC0415

        urllib.request.urlopen(  # our own server
            urllib.request.Request(self.direct_url + path, method="POST"), timeout=30
        ).close()

    @property
    def _direct(self) -> Any:
        import boto3  # noqa: PLC0415  a third of a second

        if not hasattr(self, "_boto"):
            self._boto = boto3.client(
                "s3",
                endpoint_url=self.direct_url,
                aws_access_key_id="direct",
                aws_secret_access_key="direct",
                region_name="us-east-1",
            )
        return self._boto

    # --- the proxy ------------------------------------------------------------------------------

    def line_of(self, method: str, target: str, headers: Message) -> str:
        """A request's kind, what it is about, and the range that is asked for."""
        split = urllib.parse.urlsplit(target)
        query = dict(urllib.parse.parse_qsl(split.query, keep_blank_values=True))
        about = urllib.parse.unquote(split.path).lstrip("/")
        is_bucket = "/" not in about.rstrip("/")
        kind = method.lower()
        if "uploadId" in query:
            kind = {"PUT": "part", "POST": "finish", "DELETE": "abort"}.get(method, kind)
        elif "uploads" in query and method == "POST":
            kind = "begin"
        elif "delete" in query:
            kind = "delete-many"
        elif is_bucket and method == "GET":
            kind, about = "list", f"{about.rstrip('/')}/{query.get('prefix', '')}"
        elif "x-amz-copy-source" in headers:
            kind = "copy"
        asked = headers.get("Range")
        return f"{kind} {about}" + (f" {asked}" if asked else "")

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._moto.communicate()  # its input ends, and so does it
