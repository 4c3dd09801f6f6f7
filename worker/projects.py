"""What Label Studio has told of its projects, kept in Redis: it outlives a restart, and the workers reconcile by it."""

import json
from dataclasses import asdict, dataclass

from redis import Redis

from av2t_core.errors import AV2TError, WeightsError
from av2t_core.pointers import current
from av2t_core.versions import find, resolve
from worker import scores
from worker.queue import reachable
from worker.settings import Settings

KEY = "av2t:projects"

ABSENT = "av2t:absent"
"""Those of which the last look for missed tasks was told that there is none any more."""

MOST = 1000
"""A label config is some kilobytes; the bound is for a caller that makes up projects."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """`hostname`: Label Studio's address as people open it, "" until /setup has told it. `chosen`: what the project's
    settings name as the model version to show, which may also be the title of its backend, or "".
    """

    id: int
    label_config: str
    hostname: str = ""
    chosen: str = ""

    def model_version(self, settings: Settings) -> str:
        """The one that it has chosen in Label Studio, if it is one of ours; else the one that a training or a person
        has given it; else that of the settings. WeightsError: that one is not there, or cannot predict.
        """
        if self.chosen:
            try:
                version = find(self.chosen, settings.models_dir)
                if version is not None:
                    version.check()
                    return version.name
            except WeightsError:
                pass  # another model's, or the title of its backend: then it is shown what the backend has now
        name = current(settings.models_dir, self.id)
        if name is None:
            return resolve(settings.model, settings.models_dir).name
        try:
            version = find(name, settings.models_dir)
            if version is None:
                raise WeightsError(f"there is no model version {name!r}")
            version.check()
        except WeightsError as error:
            raise WeightsError(
                f"project {self.id} is to use {name}, which cannot be used: {error}. Choose another model version with"
                f" `av2t models promote NAME --project {self.id}`"
            ) from None
        return name


def model_version(connection: Redis, project: int, settings: Settings) -> str:
    """The one that the project uses, whether it has been set up or not. QueueError, or WeightsError as above."""
    return (known(connection, project) or Project(id=project, label_config="")).model_version(settings)


def keep(connection: Redis, project: Project) -> None:
    """In place of what was known of it. AV2TError: there are too many. QueueError."""
    fields = asdict(project)
    with reachable(connection):
        if connection.hlen(KEY) >= MOST and not connection.hexists(KEY, str(project.id)):
            raise AV2TError(
                f"Project {project.id} is one too many: {MOST} are known already; start another Redis for it"
            )
        connection.hset(KEY, str(fields.pop("id")), json.dumps(fields))


def known(connection: Redis, project: int) -> Project | None:
    """QueueError."""
    with reachable(connection):
        kept = connection.hget(KEY, str(project))
    return Project(id=project, **json.loads(kept)) if kept else None


def all_known(connection: Redis) -> list[Project]:
    """By their ids. QueueError."""
    with reachable(connection):
        kept: dict[bytes, bytes] = connection.hgetall(KEY)  # type: ignore[assignment]  # nothing decodes for us
    return sorted((Project(id=int(id), **json.loads(fields)) for id, fields in kept.items()), key=lambda each: each.id)


def forget(connection: Redis, project: int) -> None:
    """QueueError."""
    with reachable(connection):
        connection.hdel(KEY, str(project))
        connection.srem(ABSENT, project)
        scores.forget(connection, project)
