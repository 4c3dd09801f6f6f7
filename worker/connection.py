"""Label Studio, as a process that holds a model reaches it."""

import logging
import time

from worker.client import LabelStudioClient
from worker.clip_cache import ClipCache
from worker.failures import TransientError
from worker.settings import Settings

log = logging.getLogger("av2t.worker")

LONGEST_WAIT = 30  # seconds between two looks for a Label Studio that is not there yet


def connected(settings: Settings) -> LabelStudioClient:
    """Once it answers, however long that takes. AV2TError: the key cannot be used."""
    client = LabelStudioClient(
        settings.label_studio_url,
        settings.require_api_key(),
        max_clip_mb=settings.max_clip_mb,
        cache=ClipCache(settings.clips_dir, settings.cache_mb * 10**6) if settings.cache_mb else None,
    )
    log.info("connected to Label Studio at %s as %s", settings.label_studio_url, _wait_for(client))
    return client


def _wait_for(client: LabelStudioClient) -> str:
    wait = 1
    while True:
        try:
            return client.check()
        except TransientError as error:
            log.warning("%s Looking again in %d s.", error, wait)
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
