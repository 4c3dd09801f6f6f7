"""What Label Studio has told of its projects, kept in Redis: it outlives a restart, and the workers reconcile by it."""

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass

from redis import Redis

from av2t.remedies import told
from av2t_core import limits
from av2t_core.errors import AV2TError, WeightsError
from av2t_core.versions.pointers import current
from av2t_core.versions.version import find, resolve
from worker.queue.connection import reachable
from worker.queue.results import forget_scores
from worker.settings import Settings

KEY = "av2t:projects"

ABSENT = "av2t:absent"
"""Those of which the last look for missed tasks was told that there is none any more."""

CONNECTING = "av2t:connecting"
"""Those that were set up and not seen to be connected yet: Label Studio sets a project up before it is, and after."""

RECONCILED = "av2t:reconciled"
"""There until it is time to look for missed tasks again."""

REPREDICT = "av2t:repredict"
"""The projects of which a person wants the tasks that nobody has touched predicted anew."""


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
        with suppress(WeightsError):  # another model's, or its backend's title: it is shown what the backend has now
            if self.chosen and (version := find(self.chosen, settings.models_dir)):
                return version.check().name
        name = current(settings.models_dir, self.id)
        if name is None:
            return resolve(settings.model, settings.models_dir).name
        try:
            if (version := find(name, settings.models_dir)) is None:
                raise WeightsError(f"there is no model version {name!r}")
            return version.check().name
        except WeightsError as error:
            raise WeightsError(
                f"project {self.id} is to use {name}, which cannot be used: {told(error)}. Choose another model version"
                f" with `av2t models promote NAME --project {self.id}`"
            ) from None


def model_version(connection: Redis, project: int, settings: Settings) -> str:
    """The one that the project uses, whether it has been set up or not. QueueError, or WeightsError as above."""
    return (known(connection, project) or Project(id=project, label_config="")).model_version(settings)


def keep(connection: Redis, project: Project) -> None:
    """In place of what was known of it. AV2TError: there are too many. QueueError."""
    fields = asdict(project)
    id, value = str(fields.pop("id")), json.dumps(fields)
    with reachable(connection):
        others = [key for key in connection.hkeys(KEY) if key != id.encode()]
        if len(others) >= limits.PROJECTS:
            raise AV2TError(
                f"Project {id} is one too many: {limits.PROJECTS} are known already; start another Redis for it"
            )
        with connection.pipeline(transaction=False) as pipe:
            for key in others:
                pipe.hstrlen(KEY, key)
            size = sum(pipe.execute())
        if size + len(value) > limits.PROJECTS_SIZE:
            raise AV2TError(
                f"The label config of project {id} is {size + len(value) - limits.PROJECTS_SIZE} characters too many:"
                f" those of all projects have {limits.PROJECTS_SIZE >> 20} MB; make it smaller, or start another Redis"
            )
        connection.hset(KEY, id, value)


def known(connection: Redis, project: int) -> Project | None:
    """None also where what is kept of it is damaged, which its next /setup mends. QueueError."""
    id = str(project).encode()
    with reachable(connection):
        kept: bytes | None = connection.hget(KEY, id)  # type: ignore[assignment]  # nothing decodes for us
    return _parsed(id, kept) if kept else None


def is_kept(connection: Redis, project: int) -> bool:
    """Whether Label Studio has told of it, though what is kept may be damaged. QueueError."""
    with reachable(connection):
        return bool(connection.hexists(KEY, str(project)))


def all_known(connection: Redis) -> list[Project]:
    """By their ids. QueueError."""
    return with_damaged(connection)[0]


def with_damaged(connection: Redis) -> tuple[list[Project], list[str]]:
    """All that are known, by their ids, and the ids under which something is kept that is no project. QueueError."""
    with reachable(connection):
        kept: dict[bytes, bytes] = connection.hgetall(KEY)  # type: ignore[assignment]  # nothing decodes for us
    found = {id: _parsed(id, value) for id, value in kept.items()}
    projects = sorted((each for each in found.values() if each), key=lambda each: each.id)
    return projects, sorted(id.decode(errors="backslashreplace") for id, project in found.items() if project is None)


def forget(connection: Redis, project: int) -> None:
    """QueueError."""
    with reachable(connection):
        connection.hdel(KEY, str(project))
        connection.srem(ABSENT, project)
        connection.srem(CONNECTING, project)
        forget_scores(connection, project)


def reconcile_soon(connection: Redis, repredict: int | None = None) -> None:
    """Have a worker look through the projects within seconds; `repredict`: the one whose untouched tasks are predicted
    anew, whatever the settings say. QueueError."""
    with reachable(connection):
        if repredict is not None:
            connection.sadd(REPREDICT, repredict)
        connection.delete(RECONCILED)


def connecting(connection: Redis, project: int, *, new: bool) -> None:
    """Of a project that is set up: have its tasks looked through soon, unless that was done. QueueError."""
    with reachable(connection):
        if new:
            connection.sadd(CONNECTING, project)
        if connection.sismember(CONNECTING, str(project)):
            connection.delete(RECONCILED)


def _parsed(id: bytes, value: bytes) -> Project | None:
    """None if it is none. What a newer release keeps beside it is let be."""
    try:
        read = json.loads(value)
        fields = {name: read.get(name, "") for name in ("label_config", "hostname", "chosen")}
        for field in fields.values():
            field.encode()
    except (ValueError, AttributeError, RecursionError):
        return None
    return Project(id=int(id), **fields) if re.fullmatch(rb"[1-9][0-9]{0,18}", id) else None
