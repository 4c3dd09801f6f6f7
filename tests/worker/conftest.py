from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.worker.http_server import Server
from tests.worker.stub_worker import Process, Start

LOOPBACK = (ip_network("127.0.0.0/8"),)
"""From where the tests' clips come that are not Label Studio's."""
Serve = Callable[[], Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start() -> Server:
        servers.append(Server())
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def begin(*options: str, **environment: str) -> Process:
        environment = {"TMPDIR": str(tmp_path), **environment}
        process = Process(redis_url, tmp_path / f"worker{len(started)}.log", *options, **environment)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait()
