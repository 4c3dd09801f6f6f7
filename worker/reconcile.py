"""What no event told of: Label Studio's come at most once, and none comes while the backend is away."""

import logging
from threading import Event, Thread

from redis import Redis

from av2t_core.errors import AV2TError
from worker.failures import GoneError, TransientError
from worker.projects import all_known, forget
from worker.queue import connect, enqueue_preannotation, reachable
from worker.settings import Settings

log = logging.getLogger("av2t.worker")

KEY = "av2t:reconciled"
LOOK = 15  # seconds between two looks at whether it is time


class Reconciler(Thread):
    """In every worker one, beside its jobs; the interval of the settings is that of all of them together."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="av2t-reconcile", daemon=True)
        self._settings = settings
        self._stopped = Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        connection = connect(self._settings.redis_url, timeout=10)
        while True:
            try:
                if _is_due(connection, self._settings.reconcile_minutes):
                    reconcile(connection, self._settings)
            except (AV2TError, TransientError) as error:
                log.warning("looking for tasks that were missed: %s", error)
            if self._stopped.wait(LOOK):
                return


def reconcile(connection: Redis, settings: Settings) -> int:
    """Queue the tasks of all connected projects that nobody has labelled and that lack a prediction; how many.

    AV2TError or TransientError: Label Studio or Redis cannot be used.
    """
    projects, found = all_known(connection), 0
    if not projects:
        return 0
    from worker.client import LabelStudioClient  # 100 MB, which workers whose turn never comes need not have

    with LabelStudioClient(
        settings.label_studio_url, settings.require_api_key(), max_clip_mb=settings.max_clip_mb
    ) as client:
        for project in projects:
            try:
                if not client.is_connected(project.id):
                    continue
                version = project.model_version(settings)
                missed = [
                    task.id
                    for task in client.tasks(project.id)
                    if not task.labelled and version not in task.model_versions
                ]
            except GoneError:
                forget(connection, project.id)
                continue
            new = enqueue_preannotation(connection, project.id, missed, version).new
            if new:
                log.info("project %d: %d tasks without a prediction of %s were queued", project.id, new, version)
            found += new
    return found


def _is_due(connection: Redis, minutes: int) -> bool:
    """Whether the interval has passed; then it begins anew. QueueError."""
    with reachable(connection):
        return bool(connection.set(KEY, "", nx=True, ex=60 * minutes))
