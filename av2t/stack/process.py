"""A program that runs beside this one: its output in a log file, and never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from av2t_core.errors import AV2TError

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Terminated(BaseException):
    """SIGTERM, or the terminal was closed. Not an Exception, so that nothing on the way takes it for a failure."""


class Process:
    """A started program. It gets a session of its own, so that Ctrl-C on the terminal reaches only whoever started it,
    and the kernel kills it when its starter dies, whatever the starter dies of.

    `log` is appended to; `environment` is added to this process's own.
    """

    def __init__(self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None):
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._started = time.monotonic()
        starter = os.getpid()
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._popen = subprocess.Popen(  # noqa: S603  # the command is a list of our own making, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=lambda: die_with(starter),
            )
        self.pid = self._popen.pid

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    @property
    def exit_code(self) -> int | None:
        """None while the program runs; minus the signal's number if a signal ended it."""
        return self._popen.poll()

    def check(self) -> None:
        """AV2TError, which ends with the last lines of the log, if the program has ended."""
        if (code := self.exit_code) is not None:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise self._failed(f"ended with {how}")

    def _failed(self, how: str) -> AV2TError:
        return AV2TError(f"{self.name} {how}; the end of its log {self.log}:\n{self.log_tail()}")

    def wait_until(self, ready: Callable[[], bool], *, timeout: float) -> None:
        """Ask `ready` until it says so. AV2TError if the program ends before, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise self._failed(f"was not ready after {timeout:.0f} s")
            time.sleep(0.1)

    def wait(self) -> int:
        """The exit code, once the program has ended by itself."""
        return self._popen.wait()

    def log_tail(self, lines: int = 15) -> str:
        """The last lines that this run of the program wrote."""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - 20_000))
            return "\n".join("  " + line for line in log.read().decode(errors="replace").splitlines()[-lines:])

    def stop(self, grace: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds, to the program and what it started in its group."""
        self._signal_group(signal.SIGTERM)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(grace)
        finally:
            # Also after a clean end: what the program started may outlive it. The group's number cannot have been
            # taken by anyone else while a member of it lives, and without members the signal goes nowhere.
            self._signal_group(signal.SIGKILL)
            self._popen.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class Supervisor(contextlib.ExitStack):
    """Programs that are started one after another and watched together. When it is left, for whatever reason, all that
    was added is stopped, the last one first, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._processes: list[Process] = []

    def add(self, process: Process) -> Process:
        """Watch it from now on."""
        self._processes.append(process)
        self.callback(process.stop)
        return process

    def check(self) -> None:
        """AV2TError if any has ended."""
        for process in self._processes:
            process.check()

    def wait_until(self, process: Process, ready: Callable[[], bool], *, timeout: float) -> None:
        """Until `ready`. AV2TError if any process ends before, or `process` takes too long."""

        def all_run_and_ready() -> bool:
            self.check()
            return ready()

        process.wait_until(all_run_and_ready, timeout=timeout)


def die_with(starter: int) -> None:
    """Runs in the child before its program starts: SIGKILL when the starter's main thread ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != starter:  # it died before prctl was called
        os._exit(1)


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Within the block, SIGTERM and a closed terminal raise Terminated where the program is, as Ctrl-C does."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    previous = {number: signal.signal(number, terminate) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def check_port(port: int, *, purpose: str, option: str) -> None:
    """AV2TError naming `option` if 127.0.0.1:`port` cannot be listened on."""
    with socket.socket() as probe:
        # As servers do: a connection of an earlier run that is still closing is no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            why = "taken by another program; choose another"
            if isinstance(error, PermissionError):
                why = "reserved for root; choose one above 1023"
            raise AV2TError(f"port {port} for {purpose} is {why} with {option}") from None


def answers(url: str) -> bool:
    """Whether an HTTP server on this machine answers `url` with 200 within 5 s."""
    import httpx  # a tenth of a second, which no help text should take

    try:
        # Without the proxies of the environment, which do not reach this machine's own address.
        return httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
