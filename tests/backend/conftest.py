"""The backend as people start it: `av2t backend`, a process of its own, over real HTTP."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from av2t.stack.process import Process, answers
from tests.ports import free_port

CONFIG = """
<View>
  <Video name="video" value="$video" framerate="$fps" sync="audio"/>
  <Audio name="audio" value="$video" sync="video"/>
  <BrushLabels name="mask" toName="frames"><Label value="dog"/></BrushLabels>
  <Image name="frames" valueList="$frames"/>
</View>
"""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A running backend; `http` has its address as the base of every path."""

    http: httpx.Client
    process: Process
    url: str

    def post(self, path: str, **body: object) -> httpx.Response:
        return self.http.post(path, json=body)

    def set_up(self, project: int) -> None:
        self.post("/setup", project=f"{project}.1700000000", schema=CONFIG).raise_for_status()


def start_backend(redis_url: str, log: Path, port: int | None = None, **environment: str) -> Process:
    """`av2t backend` on 127.0.0.1, not waited for."""
    command = [sys.executable, "-m", "av2t", "backend", "--port", str(port or free_port())]
    return Process("backend", command, log=log, environment={"REDIS_URL": redis_url, **environment})


@contextmanager
def running(redis_url: str, log: Path, **environment: str) -> Iterator[Backend]:
    """A backend that answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = start_backend(redis_url, log, port, **environment)
    try:
        process.wait_until(lambda: answers(f"{url}/health"), timeout=60)
        with httpx.Client(base_url=url, timeout=30) as http:
            yield Backend(http=http, process=process, url=url)
    finally:
        process.stop()


@pytest.fixture(scope="session")
def shared_backend(shared_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """One process for all tests, for starting it takes a second; it remembers the projects of earlier ones."""
    with running(shared_redis_url, tmp_path_factory.mktemp("backend") / "backend.log") as backend:
        yield backend


@pytest.fixture
def backend(shared_backend: Backend, redis_url: str) -> Backend:
    """The shared process with an empty Redis."""
    return shared_backend
