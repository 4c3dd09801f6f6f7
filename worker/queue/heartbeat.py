"""What passes between a running job and the worker that watches it: heartbeats, cancellation, and the job's progress.

In a process that no worker watches, as in a test of a job alone, nobody is told and nothing is cancelled.
"""

import threading
import time
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection
from typing import Any

from worker.queue.connection import best_effort
from worker.queue.job import KnownJob

INTERVAL = 1.0  # seconds between two heartbeats
PROGRESS_INTERVAL = 0.3  # seconds
STOP = ("stop", "")
"""What the worker sends while a job runs."""


class Interrupted(Exception):  # noqa: N818  # nothing has failed
    """The worker was told to stop: what the job has done is kept, and it goes back to the front of the queue."""


_lock = threading.Lock()  # the clip is decoded in a thread of its own
_channel: "Connection[Any, Any] | None" = None
_sent = 0.0


def listen(channel: "Connection[Any, Any]") -> None:
    """From now on `channel` is the way to the worker and back."""
    global _channel
    _channel = channel


def beat() -> None:
    """Tell the worker that the job goes on; to be called wherever it does."""
    global _sent
    with _lock:
        if _channel is not None and time.monotonic() - _sent >= INTERVAL:
            _sent = time.monotonic()
            with suppress(OSError):  # the worker has gone, and this process goes with it
                _channel.send(("alive", ""))


def pause(seconds: float) -> None:
    """Wait within a job, which goes on. Interrupted, as by `check`."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        check()
        beat()
        time.sleep(min(left, INTERVAL))


class _Beat:
    def update(self, n: int, /) -> None:
        beat()


def progress(_what: str, _total: int) -> nullcontext[_Beat]:
    """For what takes its time within a job: it is alive as long as it gets on."""
    return nullcontext(_Beat())


def cancelled() -> bool:
    """Whether the job is to put down what it holds. While it runs, nothing else is sent."""
    return _channel is not None and _channel.poll()


def check() -> None:
    """Interrupted: the job is to put down what it holds."""
    if cancelled():
        raise Interrupted


class Progress:
    """What the status page shows of a running job, in its meta; a Redis that is away does not stop the job."""

    def __init__(self, job: KnownJob) -> None:
        self.job = job
        self._shown = 0.0

    def show(self, done: int, total: int | None, *, now: bool = False, **more: Any) -> None:
        """`done` of `total` keyframes, None where nobody knows how many there will be; `more`: fields of `Meta`."""
        beat()
        if now or time.monotonic() - self._shown >= PROGRESS_INTERVAL:
            self._shown = time.monotonic()
            self._note(done=done, total=total, **more)

    def begin_upload(self) -> bool:
        """Whether an earlier try of the job had begun it too."""
        before = bool(self.job.told.uploading)
        self._note(uploading=True)
        return before

    def _note(self, **values: Any) -> None:
        with best_effort(f"the progress of {self.job.id} was not noted"):
            self.job.note(**values)
