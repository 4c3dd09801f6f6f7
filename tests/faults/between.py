"""A server between the workers and Label Studio, or a model store, that hands on what is asked, while it is let."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import httpx

Mode = Literal[
    "well", "429", "500", "404", "409", "423", "507", "520", "530", "garbage", "page", "slow", "nothing", "cut"
]
When = Literal["before", "after"]

_PAGE = b"<!doctype html><title>Back soon</title><p>We are deploying."
_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length", "content-encoding"}


@dataclass
class Gate:
    """Holds the first request that matches, before it is handed on or before it is answered."""

    method: str
    path: re.Pattern[str]
    when: When
    reached: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)

    def hold(self, method: str, path: str, when: When) -> None:
        if (method, when) == (self.method, self.when) and self.path.search(path) and not self.reached.is_set():
            self.reached.set()
            self.open.wait(60)


class Between(ThreadingHTTPServer):
    """`mode` says how the other one seems to be. It answers one of these statuses, garbage, or a page with 200; it
    takes its time over each byte, does not answer at all, or hangs up. With 520 it has done what it was asked to do.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.mode: Mode = "well"
        self.gate: Gate | None = None
        self.client = httpx.Client(timeout=120, limits=httpx.Limits(max_connections=None))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def running(self) -> Iterator[Between]:
        thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            if self.gate is not None:
                self.gate.open.set()
            self.shutdown()
            self.server_close()
            self.client.close()
            thread.join()

    def handle_error(self, *_: object) -> None:
        """A worker that is killed hangs up in the middle."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Between

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        gate, mode = self.server.gate, self.server.mode
        if gate is not None:
            gate.hold(self.command, self.path, "before")
        if mode not in {"well", "slow", "520"}:
            self._fail(mode)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        answer = self.server.client.request(
            self.command,
            self.server.target + self.path,
            content=body,
            headers={**headers, "Accept-Encoding": "identity"},
        )
        if gate is not None:
            gate.hold(self.command, self.path, "after")
        if mode == "520":
            self._fail(mode)
            return
        self._answer(answer.status_code, answer.content, dict(answer.headers), slow=mode == "slow")

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = _serve  # noqa: N815  # names of the library

    def _fail(self, mode: Mode) -> None:
        match mode:
            case "500":
                self._answer(500, b"{}", {"Content-Type": "application/json"})
            case "429":
                self._answer(429, b"{}", {"Content-Type": "application/json", "Retry-After": "1"})
            case "404":
                self._answer(404, b"404 page not found", {"Content-Type": "text/plain"})
            case "409" | "423" | "507" | "520" | "530":
                self._answer(int(mode), _PAGE, {"Content-Type": "text/html"})
            case "page":
                self._answer(200, _PAGE, {"Content-Type": "text/html"})
            case "garbage":
                self._answer(200, b"<<<", {"Content-Type": "application/json"})
            case "nothing":
                while self.server.mode == "nothing" and _is_there(self.connection):
                    threading.Event().wait(0.1)
        if mode in {"nothing", "cut"}:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def _answer(self, status: int, body: bytes, headers: dict[str, str], *, slow: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            sent = 0
            while slow and self.server.mode == "slow" and sent < len(body):
                self.wfile.write(body[sent : sent + 1])
                sent += 1
                threading.Event().wait(0.1)
            self.wfile.write(body[sent:])

    def log_message(self, *_: object) -> None:
        """Nothing into the output."""


def _is_there(connection: socket.socket) -> bool:
    """Whether the other side has not hung up."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        with suppress(OSError):
            connection.setblocking(True)
