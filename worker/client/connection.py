"""Label Studio may be away: a process waits for it before its first job, and a job waits for the end of an outage.

An outage is no fault of a task and takes none of its tries. Else a worker would take one task after the other off the
queue, to fail each, and all would be given up in an outage that lasts longer than a task's tries do.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

from av2t.remedies import told
from av2t_core.errors import StoreAwayError
from worker.client.label_studio import LabelStudioClient
from worker.client.media import ClipCache
from worker.failures import TransientError, wait_for
from worker.queue import heartbeat
from worker.settings import Settings

log = logging.getLogger("av2t.worker")

LONGEST_WAIT = 30.0  # seconds between two tries
LONGEST_OUTAGE = 3600.0  # seconds, after which the job is tried again later as for any other reason
Answer = TypeVar("Answer")


def connected(settings: Settings) -> LabelStudioClient:
    """Label Studio, once it answers. AV2TError: the key cannot be used."""
    cache = ClipCache(settings.clips_dir, settings.cache_mb * 10**6) if settings.cache_mb else None
    client = LabelStudioClient(settings, cache)
    log.info("connected to Label Studio at %s as %s", settings.label_studio_url, awaited(client.check))
    return client


def awaited(ask: Callable[[], Answer]) -> Answer:
    """What `ask` returns once Label Studio, or the model store, is not away. Its other errors are raised."""

    def report(error: Exception, wait: float) -> None:
        log.warning("%s; looking again in %.0f s", told(error).rstrip("."), wait)

    return wait_for(ask, (TransientError, StoreAwayError), longest=LONGEST_WAIT, report=report)


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
    failures: list[Exception] = []

    def report(error: Exception, _wait: float) -> None:
        if not failures:
            log.warning("%s Waiting until it answers.", error)
        failures.append(error)

    waits = {"longest": LONGEST_WAIT, "patience": LONGEST_OUTAGE}
    wait_for(client.check, TransientError, report=report, pause=heartbeat.pause, **waits)
    return bool(failures)
