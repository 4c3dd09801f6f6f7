"""`av2t up` as a person starts it: a program of its own, its lines read as they come."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import psutil

from av2t.stack import label_studio_server
from tests.conftest import ROOT, wait_until
from tests.ports import free_port


class Up(contextlib.ExitStack):
    """Ports are free ones unless `arguments` name others. Left over at the end of the block, it is killed."""

    def __init__(self, data_dir: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.data_dir = data_dir
        self.arguments = arguments
        self.environment = environment
        data_dir.mkdir(parents=True, exist_ok=True)
        installed = label_studio_server.environment_in(ROOT / ".av2t")
        if not label_studio_server.environment_in(data_dir).exists():
            # One installation serves all; the place is the one that `make demo` in this checkout uses.
            installed.mkdir(parents=True, exist_ok=True)
            label_studio_server.environment_in(data_dir).symlink_to(installed)
        self.lines: list[str] = []
        self._popen = subprocess.Popen(
            [*python_m_av2t(), "up", "--data-dir", str(data_dir), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.callback(self._end)

    def _end(self) -> None:
        self._popen.kill()
        self.wait()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait_for(self, pattern: str, timeout: float = 300) -> re.Match[str]:
        """The first match of `pattern` in the output; AssertionError if it ends without or takes too long."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.output)
            assert match or self._reader.is_alive(), f"{pattern!r} did not come:\n{self.output}"
            return match

        match: re.Match[str] = wait_until(found, timeout, pattern)
        return match

    def processes(self) -> list[psutil.Process]:
        """All that it has started and runs."""
        return psutil.Process(self.pid).children(recursive=True)

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def wait(self) -> int:
        """The exit code."""
        code = self._popen.wait()
        self._reader.join()
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        return code

    def _read(self) -> None:
        assert self._popen.stdout is not None
        self.lines.extend(iter(self._popen.stdout.readline, ""))


def python_m_av2t() -> list[str]:
    """`av2t`, of the environment that runs the tests."""
    return [sys.executable, "-P", "-m", "av2t"]


def ports() -> dict[str, int]:
    """A free port for each option of `av2t up` that takes one."""
    return {option: free_port() for option in ("--label-studio-port", "--backend-port", "--redis-port")}


def options(ports: Mapping[str, int]) -> list[str]:
    return [word for option, port in ports.items() for word in (option, str(port))]


def runs(process: psutil.Process) -> bool:
    # Where nobody takes in orphans, an ended process stays as a zombie.
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
