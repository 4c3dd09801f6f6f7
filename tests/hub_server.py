"""A small model hub on 127.0.0.1 that speaks huggingface_hub's protocol, and fails as it is told to.

Like the real one it lists a repository under /api/models, answers /resolve with a redirect to the bytes on another
host, and understands Range there.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

import pytest
from huggingface_hub import constants

IN_GIT = (".json", ".md", ".txt")  # as the hub's own .gitattributes has it, all else is of LFS
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]


@dataclass(kw_only=True)
class Hub:
    """`repositories`: for each its files, by name. The other fields are what goes wrong."""

    port: int
    bytes_port: int
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)  # start of a path -> status, X-Error-Code
    cut: dict[str, list[int]] = field(default_factory=dict)  # file -> after so many bytes, once for each entry
    stalled: dict[str, int] = field(default_factory=dict)  # file -> nothing more after so many bytes, until `go_on`
    swapped: dict[str, bytes] = field(default_factory=dict)  # file -> what is sent in its place
    unhashed: set[str] = field(default_factory=set)  # files
    knows_ranges: bool = True
    recovers_after: int | None = None  # so many refusals
    message: str = ""  # X-Error-Message of refusals
    go_on: threading.Event = field(default_factory=threading.Event)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ranges(self) -> list[str | None]:
        """The Range of every request for bytes, in order."""
        return [r.headers.get("range") for r in self.requests if r.method == "GET" and r.path.startswith("/bytes/")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return cast(_Server, self.server).hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(method=self.command, path=self.path, headers=headers))
        for start, (status, code) in self.hub.refused.items():
            if self.path.startswith(start) and self.hub.recovers_after != 0:
                if self.hub.recovers_after is not None:
                    self.hub.recovers_after -= 1
                marks = {"X-Error-Code": code, "X-Error-Message": self.hub.message}
                return self._send(status, b"<html>refused</html>", {name: mark for name, mark in marks.items() if mark})
        path = self.path.partition("?")[0]
        if path == "/":
            return self._send(200, b"a hub")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            return self._list(found[1])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(found[1], found[3])
        if found := re.fullmatch(r"/bytes/([^/]+/[^/]+)/(.+)", path):
            return self._bytes(found[1], found[2], headers.get("range") if self.hub.knows_ranges else None)
        return self._send(404, b"{}")

    def _list(self, repository: str) -> None:
        if repository not in self.hub.repositories:
            # To those who are not logged in the hub does not tell "none" from "none for you".
            status = 404 if "authorization" in self._names() else 401
            return self._send(status, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        siblings = [
            {
                "rfilename": name,
                "size": len(content),
                **({} if name in self.hub.unhashed else {"blobId": git_sha1(content)}),
                **({} if name.endswith(IN_GIT) else {"lfs": _lfs(content)}),
            }
            for name, content in self.hub.repositories[repository].items()
        ]
        body = {"_id": "1", "id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
        return self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repository: str, name: str) -> None:
        content = self.hub.repositories.get(repository, {}).get(name)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        if name.endswith(IN_GIT):
            # These the hub serves itself.
            where = f"/bytes/{repository}/{name}"
            return self._send(307, b"", {"X-Repo-Commit": COMMIT, "ETag": f'"{git_sha1(content)}"', "Location": where})
        sha256 = hashlib.sha256(content).hexdigest()
        linked = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        # Another port, and so another host as HTTP sees it, which must not see the token.
        elsewhere = f"http://127.0.0.1:{self.hub.bytes_port}/bytes/{repository}/{name}?Signature=abc"
        stored = {"X-Xet-Hash": sha256}  # the hub's other road, which is not to be taken
        return self._send(302, b"", {**linked, **stored, "ETag": f'"{sha256}"', "Location": elsewhere})

    def _bytes(self, repository: str, name: str, wanted: str | None) -> None:
        content = self.hub.swapped.get(name, self.hub.repositories[repository][name])
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0  # type: ignore[index]
        body, total = content[first:], len(content)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        self.end_headers()
        if cuts := self.hub.cut.get(name):
            self.wfile.write(body[: cuts.pop(0)])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif name in self.hub.stalled:
            sent = self.hub.stalled.pop(name)
            self.wfile.write(body[:sent])
            self.wfile.flush()
            self.hub.go_on.wait()
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _names(self) -> set[str]:
        return {name.lower() for name in self.headers}

    def log_message(self, *_: object) -> None:
        """Nothing into the tests' output."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, *_: object) -> None:
        """A client that goes away in the middle is part of the tests."""


@contextmanager
def running_hub() -> Iterator[Hub]:
    with _Server(("127.0.0.1", 0), _Handler) as main, _Server(("127.0.0.1", 0), _Handler) as storage:
        hub = main.hub = storage.hub = Hub(port=main.server_port, bytes_port=storage.server_port)
        threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in (main, storage)]
        for thread in threads:
            thread.start()
        try:
            yield hub
        finally:
            hub.go_on.set()
            for server, thread in zip((main, storage), threads, strict=True):
                server.shutdown()
                thread.join()


def point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT does, which is read when huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


def git_sha1(content: bytes) -> str:
    """What git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _lfs(content: bytes) -> dict[str, object]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
