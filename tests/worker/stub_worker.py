"""A worker with the stand-in model, and what its jobs have noted in Redis."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
from redis import Redis

from tests.conftest import ROOT
from tests.worker import stub as stub  # its kinds of jobs are known to the tests, too


class Process:
    """A worker with the stand-in model."""

    def __init__(self, url: str, log: Path, *options: str, **environment: str) -> None:
        self.log = log
        with log.open("wb") as file:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "tests.worker.stub", url, *options],
                cwd=ROOT,
                env={**os.environ, **environment},
                stderr=file,
                stdout=file,
            )

    @property
    def model(self) -> psutil.Process:
        """The process that holds the model; multiprocessing has one more beside it that holds nothing."""
        children = psutil.Process(self.popen.pid).children()
        [model] = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
        return model

    def ended(self) -> int:
        return self.popen.wait(timeout=60)

    def text(self) -> str:
        return self.log.read_text()


Start = Callable[..., Process]


def done(redis: Redis, key: str = "done") -> list[str]:
    return [entry.decode() if isinstance(entry, bytes) else entry for entry in redis.lrange(key, 0, -1)]


def names(entries: list[str]) -> list[str]:
    return [entry.split()[0] for entry in entries]
