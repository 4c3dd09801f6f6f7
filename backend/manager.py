"""One model context for each project, behind the methods that label-studio-ml's views call."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import Any

from redis import Redis

from av2t_core.errors import AV2TError
from av2t_core.labelstudio.config import parse_label_config
from backend.bodies import project_id
from backend.frame import LabelStudioMLBase
from worker.queue import Enqueued, enqueue_preannotation, forget_tasks

log = logging.getLogger(__name__)

# A context is some kilobytes; the bound is for a caller that makes up project ids.
MAX_PROJECTS = 1000

NO_TRAINING = "This version does not train from annotations yet; the corrected masks stay in Label Studio"


class UnknownProjectError(AV2TError):
    """A call for a project that has not been set up, and that brings no label config with it."""


class NotSupportedError(AV2TError):
    """A call of the protocol that this version does not serve."""


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something that nobody would see otherwise, for Label Studio ignores what a webhook answers."""

    time: datetime
    sentence: str


class ProjectModel(LabelStudioMLBase):  # type: ignore[misc]  # the package has no types
    """A project's label config and model version, and its way into the queue. ConfigError for a config without targets.

    `hostname` is Label Studio's address as people open it, "" until /setup has told it.
    """

    def __init__(self, connection: Redis, project: int, label_config: str, model_version: str, hostname: str) -> None:
        # Not handed to the base, which would parse it a second time, by another parser.
        super().__init__(hostname=hostname)
        self.label_config = label_config
        self.targets = parse_label_config(label_config)
        self.project = project
        self.model_version = model_version
        self._connection = connection

    def enqueue(self, tasks: Sequence[dict[str, Any]]) -> Enqueued:
        """One job for each task. Raises QueueError."""
        ids = [task["id"] for task in tasks]
        enqueued = enqueue_preannotation(self._connection, self.project, ids, self.model_version)
        log.info("Project %d: %d new jobs, %d already there", self.project, enqueued.new, enqueued.already)
        return enqueued

    def predict(self, tasks: Sequence[dict[str, Any]], **_: Any) -> list[list[Any]]:
        """Enqueue, and say "queued": Label Studio stores nothing for an empty list and logs no error."""
        self.enqueue(tasks)
        return [[] for _ in tasks]


class Manager:
    """What `label_studio_ml.api` calls its manager: the same methods, called from the server's threads.

    `current_version` names the model version that a prediction would be made with now.
    """

    # Shown by the frame's /health and /versions, and nobody else's business.
    model_dir = None

    def __init__(self, connection: Redis, current_version: Callable[[], str]) -> None:
        self._connection = connection
        self._current_version = current_version
        self._lock = Lock()
        self._projects: dict[int, ProjectModel] = {}
        self._remarks: deque[Remark] = deque(maxlen=20)

    def fetch(
        self, project: str, schema: str, _force_reload: bool = False, /, *, hostname: str | None = None, **_: Any
    ) -> ProjectModel:
        """/setup. Its access_token is the legacy one, useless where that is off, and is not kept."""
        return self._context(project_id(project), schema, hostname or "")

    def predict(
        self,
        tasks: Sequence[dict[str, Any]],
        project: str,
        label_config: str | None,
        _force_reload: bool = False,
        _try_fetch: bool = True,
        /,
        **_: Any,
    ) -> tuple[list[list[Any]], ProjectModel]:
        """/predict. The parameters are positional, for the others come from the body and may have any name."""
        model = self._context(project_id(project), label_config)
        return model.predict(tasks), model

    def webhook(self, event: str, data: dict[str, Any]) -> dict[str, Any]:
        """/webhook. `data` has been checked by `backend.bodies`."""
        try:
            return self._handle(event, data)
        except AV2TError as error:
            self._remark(f"{event} was refused: {error}")
            raise

    def train(self, *_: Any, **__: Any) -> None:
        """/train."""
        raise NotSupportedError(NO_TRAINING)

    def is_training(self, _project: str | None) -> dict[str, bool]:
        """/is_training."""
        return {"is_training": False}

    def versions(self) -> list[str]:
        """The model versions that Label Studio can choose from."""
        return [self._current_version()]

    def _get_models_from_workdir(self, _project: str) -> list[str]:
        return self.versions()

    def hostname(self, project: int) -> str:
        """Label Studio's address as people open it, "" where no /setup has told it since the start."""
        with self._lock:
            model = self._projects.get(project)
        return model.hostname if model else ""

    def remarks(self) -> list[Remark]:
        """The newest first."""
        with self._lock:
            return list(reversed(self._remarks))

    def _handle(self, event: str, data: dict[str, Any]) -> dict[str, Any]:
        match event:
            case "TASKS_CREATED":
                project = data["project"]
                enqueued = self._context(project["id"], project["label_config"]).enqueue(data["tasks"])
                return {"status": "queued", "new": enqueued.new, "already": enqueued.already}
            case "TASKS_DELETED":
                dropped = forget_tasks(self._connection, [task["id"] for task in data["tasks"]])
                return {"status": "dropped", "jobs": dropped}
            case "PROJECT_UPDATED":
                project = data["project"]
                model = self._context(project["id"], project["label_config"])
                return {"status": "updated", "model_version": model.model_version}
            case "START_TRAINING":
                self._remark(f"Training was asked for project {data['project']['id']}. {NO_TRAINING}")
                return {"status": "not supported", "reason": NO_TRAINING}
            case _:
                return {"status": "ignored"}

    def _context(self, project: int, label_config: str | None, hostname: str = "") -> ProjectModel:
        version = self._current_version()
        with self._lock:
            known = self._projects.get(project)
            if label_config is None:
                if known is None:
                    raise UnknownProjectError(
                        f"Project {project} is not set up: send its label_config, or call /setup first"
                    )
                label_config = known.label_config
            hostname = hostname or (known.hostname if known else "")
            wanted = (label_config, version, hostname)
            if known and (known.label_config, known.model_version, known.hostname) == wanted:
                return known
            model = ProjectModel(self._connection, project, *wanted)
            self._projects.pop(project, None)
            self._projects[project] = model
            while len(self._projects) > MAX_PROJECTS:
                del self._projects[next(iter(self._projects))]
        return model

    def _remark(self, sentence: str) -> None:
        log.warning("%s", sentence)
        with self._lock:
            self._remarks.append(Remark(time=datetime.now(UTC), sentence=sentence))
