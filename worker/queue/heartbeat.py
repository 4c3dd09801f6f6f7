"""What passes between a job and the worker that watches it, while the job runs: signs of life, and the wish to stop.

In a process that no worker watches, as in a test of a job alone, there is nothing to tell and nothing to hear.
"""

import threading
import time
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection
from typing import Any

INTERVAL = 1.0  # seconds
STOP = ("stop", "")
"""What the worker sends while a job runs."""

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
    """Wait within a job, which goes on; no longer once the job is to put down what it holds."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not cancelled():
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
