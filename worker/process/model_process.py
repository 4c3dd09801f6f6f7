"""The process that holds the model: spawned once, warm from the second job on, and gone when its parent is gone; so is
the folder of the clips in hand.

A forked process cannot use CUDA once its parent has, and one spawned for each job would load the model each time.
"""

import ctypes
import errno
import logging
import multiprocessing
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, Literal

from av2t.remedies import told
from av2t_core.errors import AV2TError
from av2t_core.files import locked
from worker.logs import log_to_stderr
from worker.process.rq_worker import JobRunner
from worker.queue import heartbeat
from worker.queue.connection import connect
from worker.queue.job import imported, open_queue
from worker.queue.kind import JobQueue
from worker.settings import Settings

log = logging.getLogger("av2t.worker")

REDIS_TIMEOUT = 10.0

_FOLDERS = "av2t-worker-"
Message = Literal["ready", "alive", "done", "interrupted", "dead"]


class ModelProcess:
    """The parent's end. At any time there is one such process or none."""

    def __init__(self, settings: Settings, worker_name: str, queue: JobQueue, folder: Path) -> None:
        """`queue`: of its jobs; its `set_up` returns the UUID of the GPU that the model is on, None for a CPU. What the
        process leaves in `folder` is removed when it ends.
        """
        self._files = folder / "files"
        self._arguments = (settings, worker_name, queue, self._files)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._channel: Connection[Any, Any] | None = None
        self.ready = False
        self.gpu = ""  # the one that the model is on, or was

    @property
    def pid(self) -> int:
        return (self._process.pid or 0) if self._process else 0

    def start(self) -> None:
        """Begin to start it; `receive` says when it is ready."""
        self.kill()
        self._files.mkdir()
        context = multiprocessing.get_context("spawn")
        self._channel, theirs = context.Pipe()
        process = context.Process(target=_main, args=(theirs, os.getpid(), *self._arguments), name="av2t-model")
        process.start()
        self._process = process  # a signal may end this before, and nobody can wait for what has not begun
        theirs.close()  # else the channel stays open when the process dies

    def send(self, message: tuple[str, str]) -> None:
        """The ids of a job and its execution, to perform it, or `heartbeat.STOP`, to have it put down what it holds."""
        if self._channel is not None:
            with suppress(OSError):  # it has just died: `receive` says so
                self._channel.send(message)

    def receive(self, timeout: float) -> Message | None:
        """The next message, None if there is none in `timeout` seconds. AV2TError: it refuses to start."""
        if self._channel is None or self._process is None:
            return "dead"
        wait([self._channel, self._process.sentinel], timeout)
        try:
            if self._channel.poll():
                message, said = self._channel.recv()
                if message == "refused":
                    self.kill()
                    raise AV2TError(said)
                if message == "ready":
                    self.gpu = said
                self.ready = True
                return message  # type: ignore[no-any-return]  # what `_main` and the job send
        except (EOFError, OSError):
            return "dead"
        return None if self._process.is_alive() else "dead"

    def exit_reason(self) -> str:
        """How it ended, for a sentence."""
        if self._process is None:
            return "it was not running"
        self._process.join()
        code = self._process.exitcode or 0
        if code == -signal.SIGKILL:
            return "signal SIGKILL, as when memory runs out"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def stop(self, timeout: float) -> None:
        """Let it end by itself, and kill it after `timeout` seconds."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.join(timeout)
        self.kill()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._channel is not None:
            self._channel.close()
        shutil.rmtree(self._files, ignore_errors=True)
        self._process = self._channel = None
        self.ready = False


def _main(
    channel: "Connection[Any, Any]", parent: int, settings: Settings, worker_name: str, queue: JobQueue, files: Path
) -> None:
    _end_with(parent)
    tempfile.tempdir = str(files)
    # Ctrl-C and a supervisor's SIGTERM reach the whole group: the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log_to_stderr(settings)
    try:
        gpu: str | None = imported(queue.set_up)(settings)
    except AV2TError as error:
        channel.send(("refused", told(error)))
        return
    connection = connect(settings.redis_url, timeout=REDIS_TIMEOUT)
    runner = JobRunner(open_queue(connection, queue.name), worker_name, settings.secret)
    channel.send(("ready", gpu or ""))
    heartbeat.listen(channel)
    while True:
        try:
            message = channel.recv()
        except EOFError:
            return
        if message == heartbeat.STOP:
            return
        channel.send((runner.run(*message), ""))


def _end_with(parent: int) -> None:
    """End when the parent does, by whatever signal."""
    if sys.platform == "linux":
        # The kernel's own way, which also ends a process that hangs in a CUDA call. 1 is PR_SET_PDEATHSIG.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        return
    process = multiprocessing.parent_process()
    assert process is not None
    threading.Thread(target=lambda: (wait([process.sentinel]), os._exit(1)), daemon=True).start()


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder of this worker's own. Those of workers that were killed are removed before and after."""
    _remove_forsaken()
    made = Path(tempfile.mkdtemp(prefix=".av2t-"))
    with locked(made / "lock"):
        # Only now by the name by which others look for what is forsaken.
        folder = made.rename(made.with_name(_FOLDERS + made.name.rpartition("-")[2]))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _remove_forsaken()


def _remove_forsaken() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*"):
        # The system unlocks what a dead process had locked, also beyond the borders of containers.
        with suppress(OSError), _lock_in(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _lock_in(folder: Path) -> IO[bytes]:
    """Its lock file, locked. OSError: its worker lives, or no worker of this user made it.

    Anybody may put a folder of that name among the temporary files.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, "not a folder of this user", str(folder))
    return locked(folder / "lock", wait=False, make=False)
