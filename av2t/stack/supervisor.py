"""Programs that are started one after another, watched together, and stopped in the reverse order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

from av2t.stack.process import Process


class Supervisor:
    """A context manager: when it is left, for whatever reason, all that was added is stopped, and nothing else."""

    def __init__(self) -> None:
        self._processes: list[Process] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The stack goes on with the others if stopping one is interrupted.
        self._stack.close()

    def add(self, process: Process, *, grace: float = 10.0) -> Process:
        """Watch `process` from now on; it gets `grace` seconds to end by itself when it is stopped."""
        self._processes.append(process)
        self._stack.callback(process.stop, grace)
        return process

    def check(self) -> None:
        """ProcessDiedError if any has ended."""
        for process in self._processes:
            process.check()

    def wait_until(self, process: Process, ready: Callable[[], bool], *, timeout: float) -> None:
        """Until `ready`. ProcessDiedError if any process ends before, AV2TError if `process` takes too long."""

        def all_run_and_ready() -> bool:
            self.check()
            return ready()

        process.wait_until(all_run_and_ready, timeout=timeout)
