"""What a process needs from outside before its first job: it waits for it, however long that takes."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from av2t.remedies import told
from av2t_core.errors import StoreAwayError
from worker.client.clip_cache import ClipCache
from worker.client.label_studio import LabelStudioClient
from worker.failures import TransientError
from worker.settings import Settings

log = logging.getLogger("av2t.worker")

LONGEST_WAIT = 30  # seconds between two looks for what is not there yet
Answer = TypeVar("Answer")


def connected(settings: Settings) -> LabelStudioClient:
    """Label Studio, once it answers. AV2TError: the key cannot be used."""
    cache = ClipCache(settings.clips_dir, settings.cache_mb * 10**6) if settings.cache_mb else None
    client = LabelStudioClient.of(settings, cache)
    log.info("connected to Label Studio at %s as %s", settings.label_studio_url, awaited(client.check))
    return client


def awaited(ask: Callable[[], Answer]) -> Answer:
    """What `ask` returns once Label Studio, or the model store, is not away. Its other errors are raised."""
    wait = 1
    while True:
        try:
            return ask()
        except (TransientError, StoreAwayError) as error:
            log.warning("%s; looking again in %d s", told(error).rstrip("."), wait)
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
