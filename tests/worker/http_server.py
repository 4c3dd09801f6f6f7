"""A small HTTP server that answers as a test tells it to, where the real thing does not do so on demand."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

Answer = tuple[int, dict[str, str], bytes | Callable[[], Iterable[bytes]]]
"""Status, headers and body; a body that is called is sent piece by piece, with no length before it."""


class Server:
    """`answers`: by path, with its query or without; of several each comes once, and the last stays. `asked`: what
    came, with the headers' names in lower case. `silent`: what is asked in vain.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer | Sequence[Answer]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.silent: re.Pattern[str] | None = None
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                if server.silent and server.silent.search(self.path):
                    server.closing.wait()
                    return
                status, headers, body = server._answer(self.command, self.path)
                self.send_response(status)
                length = {"Content-Length": str(len(body))} if isinstance(body, bytes) else {}
                for name, value in {**length, **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):  # who asked has heard enough
                    for piece in [body] if isinstance(body, bytes) else body():
                        self.wfile.write(piece)

            do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815  # names of the library

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def _answer(self, method: str, path: str) -> Answer:
        for key in (f"{method} {path}", path, urlsplit(path).path):
            found = self.answers.get(key)
            if isinstance(found, list):
                return found.pop(0) if len(found) > 1 else found[0]  # type: ignore[no-any-return]
            if found is not None:
                return found  # type: ignore[return-value]
        return 404, {}, b""

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def as_json(body: object, status: int = 200) -> Answer:
    """JSON."""
    return status, {"Content-Type": "application/json"}, json.dumps(body).encode()


def said(status: int, detail: str) -> Answer:
    """An error as Label Studio 1.23.2 answers it."""
    return as_json(
        {"id": str(uuid4()), "status_code": status, "version": "1.23.2", "detail": detail, "exc_info": None}, status
    )
