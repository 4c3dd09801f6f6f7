"""One model context for each project, behind the methods that label-studio-ml's views call."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import Any

from redis import Redis

from av2t.remedies import told
from av2t_core import limits
from av2t_core.errors import AV2TError
from av2t_core.labelstudio.config import parse_label_config
from av2t_core.text import sentence
from av2t_core.versions.version import installed, resolve
from backend.bodies import project_id, project_in
from backend.frame import LabelStudioMLBase
from worker.queue.projects import Project, keep, known
from worker.queue.queue import Enqueued, enqueue_preannotation, forget_tasks
from worker.queue.trainings import Extra, enqueue_training, is_training
from worker.settings import Settings, web_address

log = logging.getLogger(__name__)


class UnknownProjectError(AV2TError):
    """A call for a project that has not been set up, and that brings no label config with it."""


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something that nobody would see otherwise, for Label Studio ignores what a webhook answers."""

    time: datetime
    sentence: str


class ProjectModel(LabelStudioMLBase):  # type: ignore[misc]  # the package has no types
    """A project, its model version, and its way into the queue. ConfigError for a config without targets."""

    def __init__(self, connection: Redis, project: Project, model_version: str) -> None:
        # Not handed to the base, which would parse it a second time, by another parser.
        super().__init__(hostname=project.hostname)
        self.label_config = project.label_config
        self.targets = parse_label_config(project.label_config)
        self.project = project
        self.model_version = model_version
        self._connection = connection

    def enqueue(self, tasks: Sequence[dict[str, Any]], *, first: bool = False) -> Enqueued:
        """One job for each task. Raises QueueError."""
        ids = [task["id"] for task in tasks]
        enqueued = enqueue_preannotation(self._connection, self.project.id, ids, self.model_version, first=first)
        log.info("Project %d: %d new jobs, %d already there", self.project.id, enqueued.new, enqueued.already)
        return enqueued

    def predict(self, tasks: Sequence[dict[str, Any]], **_: Any) -> list[list[Any]]:
        """Enqueue, and say "queued": Label Studio stores nothing for an empty list and logs no error."""
        # A single one is sent for a person who has just opened it, and waits.
        self.enqueue(tasks, first=len(tasks) == 1)
        return [[] for _ in tasks]


class Manager:
    """What `label_studio_ml.api` calls its manager: the same methods, called from the server's threads."""

    # Shown by the frame's /health and /versions, and nobody else's business.
    model_dir = None

    def __init__(self, connection: Redis, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings
        self.mirror = settings.mirror()
        self._lock = Lock()
        self._remarks: deque[Remark] = deque(maxlen=limits.REMARKS)

    def fetch(
        self, project: str, schema: str, _force_reload: bool = False, /, *, hostname: str | None = None, **_: Any
    ) -> ProjectModel:
        """/setup. Its access_token is the legacy one, useless where that is off, and is not kept."""
        id = project_id(project)
        return self._model(id, label_config=schema, hostname=self._address(id, hostname or ""))

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
        model = self._model(project_id(project), label_config=label_config)
        return model.predict(tasks), model

    def webhook(self, event: str, data: dict[str, Any]) -> dict[str, Any]:
        """/webhook. `data` has been checked by `backend.bodies`."""
        try:
            return self._handle(event, data)
        except AV2TError as error:
            self._remark(f"{event} was refused: {told(error)}")
            raise

    def train(
        self, project: int, base_version: str | None = None, epochs: int | None = None, also: Sequence[Extra] = ()
    ) -> tuple[str, bool]:
        """/train: the job of the project's training that waits now, and whether it is new.

        UnknownProjectError, WeightsError: there is no such model version. QueueError.
        """
        if known(self._connection, project) is None:
            raise UnknownProjectError(
                f"Project {project} is not set up: add this backend to its settings in Label Studio first"
            )
        base = None
        if base_version is not None:
            version = resolve(base_version, self._settings.models_dir)
            version.check()
            base = version.name
        job, new = enqueue_training(self._connection, project, base_version=base, epochs=epochs, also=also)
        log.info("Project %d: %s %s", project, job, "was queued" if new else "waits already")
        return job, new

    def is_training(self, project: str | None) -> dict[str, bool]:
        """/is_training, of a project or of any."""
        chosen = None if project is None else project_in(project)
        return {"is_training": is_training(self._connection, chosen)}

    def current_version(self) -> str:
        """That of projects that have chosen none."""
        return resolve(self._settings.model, self._settings.models_dir).name

    def versions(self) -> list[str]:
        """The model versions that Label Studio can choose from, the current one first."""
        current = self.current_version()
        others = [each.name for each in installed(self._settings.models_dir) if not each.card.get("start")]
        return list(dict.fromkeys([current, *others]))

    def _get_models_from_workdir(self, _project: str) -> list[str]:
        return self.versions()

    def remarks(self) -> list[Remark]:
        """The newest first."""
        with self._lock:
            return list(reversed(self._remarks))

    def _handle(self, event: str, data: dict[str, Any]) -> dict[str, Any]:
        match event:
            case "TASKS_CREATED":
                enqueued = self._told(data["project"]).enqueue(data["tasks"])
                return {"status": "queued", "new": enqueued.new, "already": enqueued.already}
            case "TASKS_DELETED":
                dropped = forget_tasks(self._connection, [task["id"] for task in data["tasks"]])
                return {"status": "dropped", "jobs": dropped}
            case "PROJECT_UPDATED":
                return {"status": "updated", "model_version": self._told(data["project"]).model_version}
            case "START_TRAINING":
                if data["project"].get("label_config") is not None:
                    self._told(data["project"])
                job, new = self.train(data["project"]["id"])
                return {"status": "queued", "job": job, "new": new}
            case _:
                return {"status": "ignored"}

    def _told(self, project: dict[str, Any]) -> ProjectModel:
        """By the project that comes with an event."""
        # Cut, the title of a backend is still the name of no model version.
        chosen = None if (said := project.get("model_version")) is None else said[: limits.TITLE]
        return self._model(project["id"], label_config=project["label_config"], chosen=chosen)

    def _address(self, project: int, said: str) -> str | None:
        """Label Studio's, for links that people follow; None where it has said none that can be used."""
        if not said:
            return None
        try:
            if len(said) > limits.ADDRESS:
                raise ValueError(f"it must have at most {limits.ADDRESS} characters")
            return web_address(said)
        except ValueError as error:
            self._remark(
                f"The address that Label Studio has told with project {project} is no http address to link to: {error};"
                " set LABEL_STUDIO_HOST where Label Studio runs"
            )
            return None

    def _model(self, id: int, *, label_config: str | None, **told: str | None) -> ProjectModel:
        """The project as it is with what was told of it now; None says nothing. ConfigError, UnknownProjectError."""
        before = known(self._connection, id)
        if before is None and label_config is None:
            raise UnknownProjectError(f"Project {id} is not set up: send its label_config, or call /setup first")
        news = {name: value for name, value in {"label_config": label_config, **told}.items() if value is not None}
        project = Project(**(asdict(before) if before else {"id": id}) | news)
        model = ProjectModel(self._connection, project, project.model_version(self._settings))
        if project != before:
            keep(self._connection, project)
        return model

    def _remark(self, said: str) -> None:
        """What was said before is said anew, and not twice."""
        remark = Remark(time=datetime.now(UTC), sentence=sentence(said))
        log.warning("%s", remark.sentence)
        with self._lock:
            others = [each for each in self._remarks if each.sentence != remark.sentence]
            self._remarks = deque([*others, remark], maxlen=limits.REMARKS)
