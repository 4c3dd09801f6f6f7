"""Pre-annotation: a task gets its prediction of a model version."""

from typing import Annotated

from pydantic import Field

from av2t_core.versions.names import NAME
from worker.queue.kind import Id, JobQueue, Kind, Payload, Result, Subject

PREANNOTATE = "av2t-preannotate"
VersionName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class ToPreannotate(Payload):
    project: Id
    task: Id
    model_version: VersionName

    @property
    def subject(self) -> Subject:
        return Subject(project=self.project, task=self.task, model_version=self.model_version)


class Preannotated(Result):
    outcome: str = "done"  # in words
    keyframes: int = 0
    remarks: tuple[str, ...] = ()  # sentences about the clip


PREANNOTATION = Kind(
    name="worker.jobs.preannotate",
    function="worker.jobs.preannotation:preannotate",
    payload=ToPreannotate,
    result=Preannotated,
    queue=JobQueue(
        name=PREANNOTATE, option="preannotate", job="task", set_up="worker.jobs.preannotation:set_up", warm=True
    ),
    prefix="preannotate",
    identity=lambda asked: f"{asked.project}-{asked.task}-{asked.model_version}",
    describe=lambda asked: f"pre-annotate task {asked.task} of project {asked.project} with {asked.model_version}",
    outcome=lambda returned: returned.outcome,
    timeout=6 * 3600,  # an hour of video takes minutes
)


def job_id(project: int, task: int, model_version: str) -> str:
    """Of the job that pre-annotates the task."""
    return PREANNOTATION.id(ToPreannotate(project=project, task=task, model_version=model_version))
