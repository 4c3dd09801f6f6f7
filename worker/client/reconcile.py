"""Queues the tasks whose event was lost: Label Studio sends each once, and none reaches a backend that is away."""

import logging
import re

from redis import Redis

from av2t.remedies import told
from av2t_core.errors import AV2TError
from av2t_core.model.presets import PRESETS
from av2t_core.versions.version import installed
from worker.client.label_studio import LabelStudioClient
from worker.failures import GoneError
from worker.queue.connection import QueueError, reachable
from worker.queue.projects import ABSENT, CONNECTING, REPREDICT, all_known, forget, model_version
from worker.queue.queue import enqueue_preannotation
from worker.queue.results import scores_of
from worker.settings import Settings

log = logging.getLogger("av2t.worker")

# Names of model versions that this project makes: those of presets, and those of a project's trainings.
_OURS = re.compile(rf"({'|'.join(map(re.escape, PRESETS))})(-.*)?|.*-p\d+-\d+")


def reconcile(connection: Redis, settings: Settings) -> int:
    """Queue the tasks of all connected projects that nobody has labelled and that lack a prediction; how many.

    Where the settings say so, those come after them that nobody has touched and that have one of an earlier version.
    AV2TError or TransientError: Label Studio, the model store or Redis cannot be used.
    """
    settings.mirror().refresh()  # for which version each project uses
    projects, found = all_known(connection), 0
    if not projects:
        return 0
    with reachable(connection), LabelStudioClient(settings) as client:
        for project in projects:
            try:
                connected = client.is_connected(project.id)
                connection.srem(ABSENT, project.id)
                if not connected:
                    continue
                connection.srem(CONNECTING, project.id)
                version = project.model_version(settings)
                missed, outdated = _lacking(connection, client, settings, project.id, version)
            except GoneError:
                # As when a database is restored: only what Label Studio says twice, minutes apart, is believed.
                if not connection.sadd(ABSENT, project.id):
                    forget(connection, project.id)
                continue
            except QueueError:
                raise
            except AV2TError as error:  # a project that cannot be looked through leaves the others theirs
                log.warning("%s", told(error))
                continue
            # A person's wish is served once.
            wanted = settings.repredict == "always" or connection.srem(REPREDICT, project.id)
            found += _enqueue(connection, project.id, missed + (outdated if wanted else []), version)
    return found


def outdated_tasks(
    connection: Redis, client: LabelStudioClient, settings: Settings, project: int
) -> tuple[str, list[int]]:
    """The project's current version, and the tasks that nobody has touched and that have predictions of our versions
    but none of that one: the lowest score first, those without a known score last.

    AV2TError, TransientError or GoneError.
    """
    version = model_version(connection, project, settings)
    return version, _lacking(connection, client, settings, project, version)[1]


def repredict(connection: Redis, client: LabelStudioClient, settings: Settings, project: int) -> int:
    """Queue `outdated_tasks` for the current version; how many. Their old predictions stay. The same errors."""
    version, tasks = outdated_tasks(connection, client, settings, project)
    return _enqueue(connection, project, tasks, version)


def _lacking(
    connection: Redis, client: LabelStudioClient, settings: Settings, project: int, version: str
) -> tuple[list[int], list[int]]:
    """The tasks without a prediction of this version: those that nobody has labelled and that have none of any of our
    versions, and `outdated_tasks`."""
    ours = {each.name for each in installed(settings.models_dir)}
    missed, outdated = [], []
    for task in client.tasks(project):
        versions = task.predictions_model_versions
        if version in versions:
            continue
        if any(name in ours or _OURS.fullmatch(name) for name in versions):
            if not task.touched:
                outdated.append(task.id)
        elif not task.labelled:
            missed.append(task.id)
    with reachable(connection):
        scores = scores_of(connection, project, outdated)
    return missed, sorted(outdated, key=lambda task: scores.get(task, 1.1))


def _enqueue(connection: Redis, project: int, tasks: list[int], version: str) -> int:
    new = enqueue_preannotation(connection, project, tasks, version)
    if new:
        log.info("project %d: %d tasks without a prediction of %s were queued", project, new, version)
    return new
