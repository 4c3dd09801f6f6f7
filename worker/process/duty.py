"""What the workers do by turns, each beside its jobs."""

import logging
from collections.abc import Callable
from threading import Event

from redis import Redis

from av2t.remedies import told
from av2t_core.errors import AV2TError
from worker.failures import TransientError
from worker.queue.connection import connect, reachable

log = logging.getLogger("av2t.worker")

LOOK = 3  # seconds between two looks at whether it is time


def by_turns(url: str, over: Event, what: str, key: str, seconds: int, do: Callable[[Redis], object]) -> None:
    """Until it is `over`, do it whenever Redis at `url` lacks the key: so many seconds after whichever worker did it
    last, or once somebody has deleted the key. `what` it is, for the log."""
    connection = connect(url, timeout=10)
    while not over.is_set():
        try:
            with reachable(connection):
                if connection.set(key, "", nx=True, ex=seconds):
                    do(connection)
        except (AV2TError, TransientError) as error:
            log.warning("%s: %s", what, told(error))
        over.wait(LOOK)
