"""What Label Studio has told of its projects, kept in Redis: it outlives a restart, and the workers reconcile by it."""

import json
from dataclasses import asdict, dataclass

from redis import Redis

from av2t_core.errors import AV2TError, WeightsError
from av2t_core.versions import resolve
from worker.queue import reachable
from worker.settings import Settings

KEY = "av2t:projects"

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
        """The one that it has chosen, if it is one of ours; else the current one. WeightsError: there is none."""
        if self.chosen:
            try:
                version = resolve(self.chosen, settings.models_dir)
                version.check()
                return version.name
            except WeightsError:
                pass  # another model's, or the title of its backend: then it is shown what the backend has now
        return resolve(settings.model, settings.models_dir).name


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
