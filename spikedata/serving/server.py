"""The page's server: on this machine alone, for whoever has its address.

It is the standard library's, so that nothing is installed or kept up for it: one person looks at
one page, and what takes time are pictures, not connections.

Who may ask: the address holds a random word, which other users of the machine and other pages in
the browser do not know. Beside it every request must name this server as its host, so that a
stranger's name that is led to 127.0.0.1 gets nothing, and one that changes something must come from
this page. The page itself may load nothing from elsewhere and run no code but its own.
"""

import contextlib
import json
import logging
import os
import secrets
import select
import socket
import socketserver
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from spikedata.clips import CameraOptions
from spikedata.errors import SpikeDataError
from spikedata.remote import on_disk
from spikedata.serving.routes import Answer, Asked, Routes
from spikedata.serving.shelf import ConflictError, Shelf
from spikedata.serving.showing import NotWantedError, Showing

_log = logging.getLogger(__name__)

HOST = "127.0.0.1"
MOST_BODY_BYTES = 1 << 18
"""Of what a request brings."""
MOST_CONNECTIONS = 64
IDLE_S = 60
"""A connection without a request, or in the middle of one, is closed after so long."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class ClipServer:
    """A page about a set of clips, while the ``with`` block lasts; see :attr:`url`.

    Args:
        path: as for :func:`spikedata.open_clips`; a folder of recordings of which not one can be
            opened will do, for the page to find out their layout.
        camera: as for :func:`spikedata.open_clips`.
        flip: likewise.
        tick_rate_hz: likewise.
        port: of this machine; any that is free if 0.
        read_only: labels cannot be changed.

    Raises:
        SpikeDataError: there is no set of clips, or the port is taken.
        ValueError: ``tick_rate_hz`` is not positive.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        camera: str | None = None,
        flip: bool | None = None,
        tick_rate_hz: float | None = None,
        port: int = 0,
        read_only: bool = False,
    ) -> None:
        options = CameraOptions(camera=camera, flip=flip, tick_rate_hz=tick_rate_hz, digests=False)
        self._shelf = Shelf(on_disk(path), options, read_only=read_only)
        self._showing = Showing(self._shelf, at_once=max(2, os.cpu_count() or 1))
        try:
            self._server = _Server(port, Routes(self._shelf, self._showing))
        except OSError as error:
            raise SpikeDataError(
                f"port {port} of {HOST} cannot be had: {error.strerror}. Give another --port, or 0"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where the page is; whoever has it can see and change the set."""
        return f"http://{HOST}:{self._server.server_port}/{self._server.word}/"

    @property
    def notes(self) -> list[str]:
        """What the user should know of the set."""
        left_out = len(self._shelf.left_out)
        told = [f"{left_out} could not be opened; the page lists them"] if left_out else []
        fixed = self._shelf.why_fixed
        return [*self._shelf.source.notes, *told, *([f"read-only: {fixed}"] if fixed else [])]

    def __enter__(self) -> "ClipServer":
        self._thread.start()
        threading.Thread(target=self._showing.prepare, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._shelf.finish()

    def wait(self) -> None:
        """Serve until Ctrl-C.

        Raises:
            KeyboardInterrupt: it came.
        """
        while self._thread.is_alive():
            self._thread.join(1.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name != "nt"  # where it would let others listen too

    def __init__(self, port: int, routes: Routes) -> None:
        self.routes = routes
        self.word = secrets.token_urlsafe(24)
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__((HOST, port), _Handler)

    def server_bind(self) -> None:
        """As the library's, without asking for the machine's name on the network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    @property
    def hosts(self) -> set[str]:
        """How a request may call this server."""
        return {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; beyond so many connections at once none."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make room again, whatever happens."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is no error; all else is a fault of ours."""
        _log.debug("a connection ended", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "spikedata", ""
    timeout = IDLE_S
    disable_nagle_algorithm = True

    def do_GET(self) -> None:  # noqa: N802  # the library's name
        """Look at something."""
        if self.headers.get("Content-Length") or self.headers.get("Transfer-Encoding"):
            self.close_connection = True  # what it brings is not read
        address = self._address()
        if address is None:
            return
        try:
            pairs = parse_qs(address.query, keep_blank_values=True, max_num_fields=32)
        except ValueError:
            self._refuse(HTTPStatus.BAD_REQUEST, "expected at most 32 values")
            return
        values = {name: given[-1] for name, given in pairs.items()}
        self._answer(self.server.routes.looks.get(self._name), values)

    def do_POST(self) -> None:  # noqa: N802  # the library's name
        """Change something: only this page may."""
        body = self._body()
        if body is None or self._address() is None:
            return
        origin = self.headers.get("Origin", "")
        if origin not in {f"http://{host}" for host in self.server.hosts}:
            self._refuse(HTTPStatus.FORBIDDEN, "only this page may change something")
            return
        if self.headers.get_content_type() != "application/json":
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
            return
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            self._refuse(HTTPStatus.BAD_REQUEST, "expected one JSON object")
            return
        self._answer(self.server.routes.changes.get(self._name), values)

    def _body(self) -> bytes | None:
        """What the request brings, of bounded size; None if it was refused."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length", close=True)
            return None
        if len(length) > 12 or int(length) > MOST_BODY_BYTES:
            told = f"expected at most {MOST_BODY_BYTES:,} bytes"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, told, close=True)
            return None
        return self.rfile.read(int(length))

    def _address(self) -> Any:
        """The address without host and word, if both are right; None if it was refused."""
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            self._refuse(HTTPStatus.FORBIDDEN, "this server answers to its own address alone")
            return None
        try:
            address = urlsplit(self.path)
        except ValueError:
            address = urlsplit("")
        _, _, rest = address.path.partition("/")
        word, slash, self._name = rest.partition("/")
        if not secrets.compare_digest(word.encode(), self.server.word.encode()) or not slash:
            told = "open the address that `spikedata serve` printed"
            self._refuse(HTTPStatus.NOT_FOUND, told)
            return None
        return address

    def _answer(self, route: Any, values: dict[str, Any]) -> None:
        if route is None:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing is here")
            return
        try:
            answer = route(Asked(values, self._is_wanted))
        except NotWantedError:
            self.close_connection = True
        except ConflictError as error:
            self._refuse(HTTPStatus.CONFLICT, str(error))
        except KeyError:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such clip")
        except (ValueError, TypeError, SpikeDataError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error.filename}: {error.strerror}")
        except Exception:
            _log.exception("a fault of spikedata's own at %s", self._name)
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of spikedata's own")
        else:
            self._send(HTTPStatus.OK, answer)

    def _refuse(self, status: HTTPStatus, told: str, *, close: bool = False) -> None:
        self.close_connection = self.close_connection or close
        self._send(status, Answer(json.dumps({"error": told}).encode(), "application/json"))

    def _send(self, status: HTTPStatus, answer: Answer) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.send_response(status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.body)))
            kept = "private, max-age=86400, immutable" if answer.keep else "no-store"
            self.send_header("Cache-Control", kept)
            for name, value in _HEADERS.items():
                self.send_header(name, value)
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(answer.body)

    def _is_wanted(self) -> bool:
        """Whether the browser still waits: it closes the connection of what it does not."""
        try:
            if not select.select([self.connection], [], [], 0)[0]:
                return True
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except (OSError, ValueError):
            return False

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
        """Say nothing of each request."""
        _log.debug(format, *args)
