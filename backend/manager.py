"""What the backend does for Label Studio: it remembers its projects, queues their tasks, and answers at once."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import Any

from redis import Redis

from av2t.remedies import told
from av2t_core import limits
from av2t_core.errors import AV2TError
from av2t_core.labelstudio.label_config import parse_label_config
from av2t_core.text import sentence
from av2t_core.versions.version import installed, resolve
from backend import bodies
from worker.queue.projects import Project, connecting, keep, known
from worker.queue.queue import enqueue_preannotation, enqueue_training
from worker.queue.training import Extra
from worker.queue.upkeep import forget_tasks
from worker.settings import Settings, web_address

log = logging.getLogger(__name__)


class UnknownProjectError(AV2TError):
    """A call for a project that has not been set up, and that brings no label config with it."""


@dataclass(frozen=True, kw_only=True)
class Remark:
    """A problem for the status page, since Label Studio ignores what a webhook answers."""

    time: datetime
    sentence: str


@dataclass(frozen=True, kw_only=True)
class ProjectModel:
    """A project, and the model version that it uses."""

    project: Project
    model_version: str


class Manager:
    """One backend's state; called from the server's threads. Every method may raise QueueError."""

    def __init__(self, connection: Redis, settings: Settings) -> None:
        self.connection = connection
        self.settings = settings
        self.mirror = settings.mirror()
        self._lock = Lock()
        self._remarks: list[Remark] = []

    def set_up(self, project: int, label_config: str, hostname: str) -> ProjectModel:
        """`hostname`: Label Studio's address as people open it, or "". ConfigError: the config has no targets."""
        new = known(self.connection, project) is None
        model = self._model(project, label_config=label_config, hostname=self._address(project, hostname))
        connecting(self.connection, project, new=new)
        return model

    def preannotate(self, project: int, tasks: Sequence[int], label_config: str | None) -> ProjectModel:
        """Queue one job for each task. ConfigError, UnknownProjectError."""
        model = self._model(project, label_config=label_config)
        # A single one is sent for a person who has just opened it, and waits.
        self._enqueue(model, tasks, first=len(tasks) == 1)
        return model

    def webhook(self, action: str, event: bodies.Event | None) -> dict[str, Any]:
        """`event`: None for an action that is of no interest."""
        try:
            match event:
                case bodies.TasksCreated():
                    tasks = [task.id for task in event.tasks]
                    new = self._enqueue(self._updated(event.project), tasks)
                    return {"status": "queued", "new": new, "already": len(tasks) - new}
                case bodies.TasksDeleted():
                    dropped = forget_tasks(self.connection, [task.id for task in event.tasks])
                    return {"status": "dropped", "jobs": dropped}
                case bodies.ProjectUpdated():
                    return {"status": "updated", "model_version": self._updated(event.project).model_version}
                case bodies.StartTraining():
                    if event.project.label_config is not None:
                        self._updated(event.project)
                    job, is_new = self.train(event.project.id)
                    return {"status": "queued", "job": job, "new": is_new}
                case None:
                    return {"status": "ignored"}
        except AV2TError as error:
            self._remark(f"{action} was refused: {told(error)}")
            raise

    def train(
        self, project: int, base_version: str | None = None, epochs: int | None = None, also: Sequence[Extra] = ()
    ) -> tuple[str, bool]:
        """The job of the project's training that waits now, and whether it is new.

        UnknownProjectError, WeightsError: there is no such model version.
        """
        if known(self.connection, project) is None:
            raise UnknownProjectError(
                f"Project {project} is not set up: add this backend to its settings in Label Studio first"
            )
        if base_version is not None:
            base_version = resolve(base_version, self.settings.models_dir).check().name
        job, new = enqueue_training(self.connection, project, base_version=base_version, epochs=epochs, also=also)
        log.info("Project %d: %s %s", project, job, "was queued" if new else "waits already")
        return job, new

    def current_version(self) -> str:
        """The model version of projects that have chosen none."""
        return resolve(self.settings.model, self.settings.models_dir).name

    def versions(self) -> list[str]:
        """The model versions that Label Studio can choose from, the current one first."""
        others = [each.name for each in installed(self.settings.models_dir) if not each.card.start]
        return list(dict.fromkeys([self.current_version(), *others]))

    def remarks(self) -> list[Remark]:
        """The newest first."""
        return self._remarks

    def _enqueue(self, model: ProjectModel, tasks: Sequence[int], *, first: bool = False) -> int:
        id = model.project.id
        new = enqueue_preannotation(self.connection, id, tasks, model.model_version, first=first)
        log.info("Project %d: %d new jobs, %d already there", id, new, len(tasks) - new)
        return new

    def _updated(self, project: bodies.Project) -> ProjectModel:
        # Where a backend was chosen, its title is here: even cut, it is the name of no model version.
        chosen = project.model_version and project.model_version[: limits.TITLE]
        return self._model(project.id, label_config=project.label_config, chosen=chosen)

    def _address(self, project: int, hostname: str) -> str | None:
        """For links that people follow; None where it cannot be used."""
        if not hostname:
            return None
        try:
            if len(hostname) > limits.ADDRESS:
                raise ValueError(f"it must have at most {limits.ADDRESS} characters")
            return web_address(hostname)
        except ValueError as error:
            self._remark(
                f"The address that Label Studio gives for itself in project {project} is no http address to link to:"
                f" {error}; set LABEL_STUDIO_HOST where Label Studio runs"
            )
            return None

    def _model(self, id: int, *, label_config: str | None, **changes: str | None) -> ProjectModel:
        """The project with these changes, which are kept; None changes nothing. ConfigError, UnknownProjectError."""
        before = known(self.connection, id)
        if before is None and label_config is None:
            raise UnknownProjectError(f"Project {id} is not set up: send its label_config, or call /setup first")
        given = {name: value for name, value in changes.items() if value is not None}
        if label_config is not None:
            given["label_config"] = label_config
        project = Project(**(asdict(before) if before else {"id": id}) | given)
        parse_label_config(project.label_config)
        model = ProjectModel(project=project, model_version=project.model_version(self.settings))
        if project != before:
            keep(self.connection, project)
        return model

    def _remark(self, message: str) -> None:
        """The same sentence moves to the front and is not repeated."""
        remark = Remark(time=datetime.now(UTC), sentence=sentence(message))
        log.warning("%s", remark.sentence)
        with self._lock:
            others = [each for each in self._remarks if each.sentence != remark.sentence]
            self._remarks = [remark, *others][: limits.REMARKS]
