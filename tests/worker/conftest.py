from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.stub_worker import Process, Start


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
