from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.worker.http_server import Server
from tests.worker.stub_worker import Process, Start
from worker.client.label_studio import LabelStudioClient
from worker.client.media import ClipCache
from worker.client.transport import Network
from worker.settings import Settings

LOOPBACK = (ip_network("127.0.0.0/8"),)
"""From where the tests' clips come that are not Label Studio's."""
KEY = "legacy-token-of-nobody"
Serve = Callable[[], Server]


def client_of(
    url: str,
    key: str = KEY,
    *,
    max_clip_mb: int = 1,
    networks: Sequence[Network] = LOOPBACK,
    cache: ClipCache | None = None,
) -> LabelStudioClient:
    settings = Settings.load(
        label_studio_url=url, label_studio_api_key=key, max_clip_mb=max_clip_mb, clip_networks=networks
    )
    return LabelStudioClient(settings, cache)


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
