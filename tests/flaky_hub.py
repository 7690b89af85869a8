"""A proxy on loopback that stands before a Hub and spoils chosen answers.

    with HubServer(root) as hub, FlakyHub(hub.url) as flaky:
        environment = {**hub.environment(home), "HF_ENDPOINT": flaky.url}
        flaky.spoil(MISANSWERS["html"], number=3)  # the third request from now
        flaky.spoil(Fault("cut", after=100), line="GET .*/resolve/", times=None)  # each of these
        ...
        flaky.requests  # what was asked, spoilt or not: "GET /api/datasets/..."
        flaky.heal()  # from now on all is answered as the Hub does

Nothing here depends on time but what is told to wait, and that ends when the proxy is closed.
"""

import http.client
import re
import threading
import urllib.parse
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

from hub_server import read_body

HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Welcome!</body></html>"


@dataclass(frozen=True)
class Fault:
    """One way to spoil an answer."""

    kind: Literal[
        "answer",  # `status` and `body` instead of the Hub's answer
        "cut",  # the connection is closed after `after` bytes of the body, all of it announced
        "drop",  # the connection is closed without an answer
        "garble",  # every bit of the body's byte `after` is flipped; counted from its end if < 0
        "shorten",  # `after` bytes of the body, announced as if they were all
        "length",  # a body that is announced `after` bytes longer than it is
        "delay",  # the Hub's answer, `seconds` late
        "stall",  # `after` bytes of the body, and then nothing for ever
        "trickle",  # the body, a byte each `seconds`
        "endless",  # a body of zeros that never ends
        "loop",  # a redirection to what was asked
        "noise",  # bytes that are no HTTP
    ]
    after: int = 0
    seconds: float = 1.0
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    asked: bool = True
    """Whether the Hub is asked all the same: a commit is made, and its answer is lost."""


MISANSWERS = {
    "html": Fault("answer", body=HTML, headers={"Content-Type": "text/html"}),
    "null": Fault("answer", body=b"null"),
    "list": Fault("answer", body=b"[]"),
    "object": Fault("answer", body=b"{}"),
    "number": Fault("answer", body=b"17"),
    "empty": Fault("answer"),
    "wrong types": Fault(
        "answer",
        body=b'{"sha": 7, "siblings": [{"rfilename": 8}, null], "name": [], "url": {}, "files": 3,'
        b' "objects": [null], "commitOid": null, "commitUrl": 5, "private": "no", "id": 9}',
    ),
    "deep": Fault("answer", body=b"[" * 100_000),
    "500": Fault("answer", status=500, body=HTML, asked=False),
    "503": Fault("answer", status=503, body=b"{}", asked=False),
    "429": Fault("answer", status=429, headers={"Retry-After": "86400"}, asked=False),
    "403": Fault("answer", status=403, body=b"[1, 2]", asked=False),
    "400": Fault("answer", status=400, body=HTML, asked=False),
    "418": Fault("answer", status=418, body=b"\xff\xfe\x00", asked=False),
    "drop": Fault("drop"),
    "drop unasked": Fault("drop", asked=False),
    "cut": Fault("cut", after=10),
    "shorten": Fault("shorten", after=10),
    "length": Fault("length", after=10),
    "garble": Fault("garble", after=7),
    "garble end": Fault("garble", after=-3),
    "loop": Fault("loop"),
    "noise": Fault("noise"),
}
"""Answers that end at once, by name; for one request each."""


@dataclass
class _Rule:
    fault: Fault
    number: int | None
    line: re.Pattern[str] | None
    times: int | None
    skip: int
    every: int
    seen: int = 0

    def fits(self, number: int, line: str) -> bool:
        """Whether a request is one of those to spoil; counts those that it is chosen from."""
        if self.times == 0 or self.number not in (None, number):
            return False
        if self.line is not None and self.line.search(line) is None:
            return False
        self.seen += 1
        return self.seen > self.skip and (self.seen - self.skip) % self.every == 0


class FlakyHub(ThreadingHTTPServer):
    """The proxy; see the module."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urllib.parse.urlsplit(upstream).netloc
        self.requests: list[str] = []
        self.spoilt: list[str] = []
        self._rules: list[_Rule] = []
        self._seen = 0
        self._lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        """What the client is given as HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def spoil(
        self,
        fault: Fault,
        *,
        number: int | None = None,
        line: str | None = None,
        times: int | None = 1,
        skip: int = 0,
        every: int = 1,
    ) -> None:
        """Spoil the answers to the requests that fit.

        Args:
            fault: how.
            number: which request from now, 1 for the next; None for any.
            line: pattern sought in ``METHOD /path``, with `` part`` after it where a range is asked
                for; None for any.
            times: how often; None for each.
            skip: so many of those that fit are answered well first.
            every: of those that follow, only each so-manieth is spoilt.
        """
        with self._lock:
            number = None if number is None else self._seen + number
            sought = re.compile(line) if line else None
            self._rules.append(_Rule(fault, number, sought, times, skip, every))

    def heal(self) -> None:
        """Spoil nothing any more, and forget what was asked."""
        with self._lock:
            self._rules.clear()
            self.requests.clear()
            self.spoilt.clear()

    def line_of(self, method: str, target: str, headers: Message) -> str:
        """What a request is written down as, and found by."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(target).path)
        return f"{method} {path}{' part' if headers.get('Range') else ''}"

    def next_fault(self, line: str) -> Fault | None:
        """Count a request in, and tell how its answer is spoilt."""
        with self._lock:
            self._seen += 1
            self.requests.append(line)
            for rule in self._rules:
                if rule.fits(self._seen, line):
                    rule.times = None if rule.times is None else rule.times - 1
                    self.spoilt.append(line)
                    return rule.fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client may hang up at any time."""

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    server: FlakyHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        data = read_body(self)
        fault = self.server.next_fault(self.server.line_of(self.command, self.path, self.headers))
        answer = None if fault and not fault.asked else self._ask(data)
        if fault is not None:
            self._spoil(fault, answer or _Answer(fault.status, {}, b""))
        elif answer is not None:
            self._send(answer)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _answer  # noqa: N815

    def _ask(self, data: bytes) -> _Answer:
        """Put the request to the Hub, with the client's own Host: links lead back to here."""
        hub = http.client.HTTPConnection(self.server.upstream, timeout=30)
        kept = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
        kept["Content-Length"] = str(len(data))
        try:
            hub.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for key, value in kept.items():
                hub.putheader(key, value)
            hub.endheaders(data)
            answer = hub.getresponse()
            return _Answer(answer.status, dict(answer.headers), answer.read())
        finally:
            hub.close()

    def _send(self, answer: _Answer, more: int = 0, body: bytes | None = None) -> None:
        """Send an answer; a ``body`` of other length than announced ends the connection."""
        self.send_response(answer.status)
        announced = len(answer.body) + more
        if self.command == "HEAD" and "Content-Length" in answer.headers:
            announced = int(answer.headers["Content-Length"])
        for key, value in answer.headers.items():
            if key.lower() not in ("content-length", "date", "server", "transfer-encoding"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body if body is None else body)
            self.wfile.flush()
            self.close_connection = self.close_connection or body is not None or more != 0

    def _spoil(self, fault: Fault, answer: _Answer) -> None:
        body, after = answer.body, fault.after
        if fault.kind == "answer":
            headers = {"Content-Type": "application/json"} | fault.headers
            self._send(_Answer(fault.status, headers, fault.body))
        elif fault.kind == "garble":
            spoilt = bytearray(body)
            if -len(body) <= after < len(body):
                spoilt[after] ^= 0xFF
            self._send(_Answer(answer.status, answer.headers, bytes(spoilt)))
        elif fault.kind == "shorten":
            self._send(_Answer(answer.status, answer.headers, body[:after]))
        elif fault.kind == "delay":
            self.server.closing.wait(fault.seconds)
            self._send(answer)
        elif fault.kind == "loop":
            self._send(_Answer(302, {"Location": f"{self.server.url}{self.path}"}, b""))
        else:
            self._spoil_connection(fault, answer)

    def _spoil_connection(self, fault: Fault, answer: _Answer) -> None:
        """What ends the connection."""
        self.close_connection = True
        if fault.kind == "noise":
            self.wfile.write(bytes(range(256)) * 4)
        elif fault.kind == "cut":
            self._send(answer, body=answer.body[: fault.after])
        elif fault.kind == "length":
            self._send(answer, more=fault.after)
        elif fault.kind == "stall":
            self._send(answer, more=1, body=answer.body[: fault.after])
            self.server.closing.wait()
        elif fault.kind == "trickle":
            self._send(answer, body=b"")
            for byte in answer.body:
                if self.server.closing.wait(fault.seconds):
                    break
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
        elif fault.kind == "endless":
            self.send_response(answer.status)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while not self.server.closing.is_set():
                self.wfile.write(b"10000\r\n" + bytes(65_536) + b"\r\n")
