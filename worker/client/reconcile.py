"""What no event told of: Label Studio's come at most once, and none comes while the backend is away."""

import logging
import re
from threading import Event, Thread
from typing import TYPE_CHECKING

from redis import Redis

from av2t.remedies import told
from av2t_core.errors import AV2TError
from av2t_core.model.presets import PRESETS
from av2t_core.versions.version import installed
from worker.failures import GoneError, TransientError
from worker.queue.connection import QueueError, connect, reachable
from worker.queue.projects import ABSENT, RECONCILED, REPREDICT, all_known, forget, model_version
from worker.queue.queue import enqueue_preannotation
from worker.queue.results import scores_of
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.client.label_studio import LabelStudioClient

log = logging.getLogger("av2t.worker")

LOOK = 15  # seconds between two looks at whether it is time
# Names of model versions that this project makes: those of presets, and those of a project's trainings.
_OURS = re.compile(rf"({'|'.join(map(re.escape, PRESETS))})(-.*)?|.*-p\d+-\d+")


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
                    self._settings.mirror().refresh()  # for which version each project uses
                    reconcile(connection, self._settings)
            except (AV2TError, TransientError) as error:
                log.warning("looking for tasks that were missed: %s", told(error))
            if self._stopped.wait(LOOK):
                return


def reconcile(connection: Redis, settings: Settings) -> int:
    """Queue the tasks of all connected projects that nobody has labelled and that lack a prediction; how many.

    Where the settings say so, those come after them that nobody has touched and that have one of an earlier version.
    AV2TError or TransientError: Label Studio or Redis cannot be used.
    """
    projects, found = all_known(connection), 0
    if not projects:
        return 0
    from worker.client.label_studio import (
        LabelStudioClient,  # 100 MB, which workers whose turn never comes need not have
    )

    with LabelStudioClient.of(settings) as client:
        for project in projects:
            try:
                connected = client.is_connected(project.id)
                with reachable(connection):
                    connection.srem(ABSENT, project.id)
                if not connected:
                    continue
                version = project.model_version(settings)
                missed, outdated = _lacking(client, settings, project.id, version)
            except GoneError:
                # As when a database is restored: only what two looks were told, minutes apart, is believed.
                with reachable(connection):
                    first = bool(connection.sadd(ABSENT, project.id))
                if not first:
                    forget(connection, project.id)
                continue
            except QueueError:
                raise
            except AV2TError as error:  # a project that cannot be looked through leaves the others theirs
                log.warning("%s", told(error))
                continue
            if settings.repredict == "always" or _is_wanted(connection, project.id):
                missed += _by_score(connection, project.id, outdated)
            new = enqueue_preannotation(connection, project.id, missed, version).new
            if new:
                log.info("project %d: %d tasks without a prediction of %s were queued", project.id, new, version)
            found += new
    return found


def outdated_tasks(
    connection: Redis, client: "LabelStudioClient", settings: Settings, project: int
) -> tuple[str, list[int]]:
    """The project's current version, and the tasks that nobody has touched and that have a prediction of ours, but none
    of that version: those of the lowest score first, those whose score is not known last.

    AV2TError, TransientError or GoneError.
    """
    version = model_version(connection, project, settings)
    _, outdated = _lacking(client, settings, project, version)
    return version, _by_score(connection, project, outdated)


def repredict(connection: Redis, client: "LabelStudioClient", settings: Settings, project: int) -> int:
    """Queue `outdated_tasks` for the current version; how many. Their old predictions stay.

    Label Studio, which shows those of one version alone, is made to ask the backend which that is. The same errors.
    """
    client.is_connected(project)  # by which Label Studio calls /setup
    version, tasks = outdated_tasks(connection, client, settings, project)
    new = enqueue_preannotation(connection, project, tasks, version).new
    if new:
        log.info("project %d: %d tasks that nobody has touched were queued for %s", project, new, version)
    return new


def _lacking(
    client: "LabelStudioClient", settings: Settings, project: int, version: str
) -> tuple[list[int], list[int]]:
    """The tasks without a prediction of this version: those that nobody has labelled and that have none of ours at all,
    and those that nobody has touched and that have one of ours."""
    ours = {each.name for each in installed(settings.models_dir)}
    missed, outdated = [], []
    for task in client.tasks(project):
        if version in task.model_versions:
            continue
        if any(name in ours or _OURS.fullmatch(name) for name in task.model_versions):
            if not task.touched:
                outdated.append(task.id)
        elif not task.labelled:
            missed.append(task.id)
    return missed, outdated


def _by_score(connection: Redis, project: int, tasks: list[int]) -> list[int]:
    """The lowest first, those of which none is known last. QueueError."""
    with reachable(connection):
        score = scores_of(connection, project, tasks)
    return sorted(tasks, key=lambda task: score.get(task, 1.1))


def _is_wanted(connection: Redis, project: int) -> bool:
    """Whether a person wants its tasks predicted anew, who is served once. QueueError."""
    with reachable(connection):
        return bool(connection.srem(REPREDICT, project))


def _is_due(connection: Redis, minutes: int) -> bool:
    """Whether the interval has passed; then it begins anew. QueueError."""
    with reachable(connection):
        return bool(connection.set(RECONCILED, "", nx=True, ex=60 * minutes))
