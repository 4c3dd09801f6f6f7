"""An outage of Label Studio is no fault of a task: the job in hand waits for its end, and it takes none of its tries.

Else a worker would take one task after the other off the queue, to fail each, and all would be given up in an outage
that lasts longer than a task's tries do.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from worker.client.connection import LONGEST_WAIT
from worker.client.label_studio import LabelStudioClient
from worker.failures import Interrupted, TransientError
from worker.queue import heartbeat

log = logging.getLogger("av2t.worker")

LONGEST_OUTAGE = 3600.0  # seconds, after which the job is tried again later as for any other reason
Answer = TypeVar("Answer")


def through_outages(client: LabelStudioClient, work: Callable[[], Answer]) -> Answer:
    """What `work` returns, which is done again when Label Studio was away meanwhile.

    TransientError: Label Studio answers, so that the failure is of the task; or it is away for too long. Interrupted:
    the worker has to stop.
    """
    while True:
        try:
            return work()
        except TransientError as error:
            if not _was_away(client):
                raise
            log.info("Label Studio is back; what failed is done again (%s)", error)


def _was_away(client: LabelStudioClient) -> bool:
    """Wait until Label Studio answers; whether it did not at first. The same errors."""
    until, wait, away = time.monotonic() + LONGEST_OUTAGE, 1.0, False
    while True:
        try:
            client.check()
            return away
        except TransientError as error:
            if time.monotonic() > until:
                raise
            if not away:
                log.warning("%s Waiting until it answers.", error)
            away = True
            heartbeat.pause(max(wait, min(error.retry_after or 0, LONGEST_WAIT)))
            wait = min(2 * wait, LONGEST_WAIT)
        if heartbeat.cancelled():
            raise Interrupted
