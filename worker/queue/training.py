"""Training: a project's annotations become a model version.

A project has at most one training that waits and one that runs. Who asks for another while one waits gets that one: it
will see everything that was labelled by then.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from worker.queue.kind import DAY, Id, JobQueue, Kind, Payload, Result, State, Subject
from worker.queue.preannotation import VersionName

TRAIN = "av2t-train"
MOST_EPOCHS = 1000

Extra = Literal["mask-decoder"]
"""What can be trained beside the adapters and the projector, if it is asked for."""


class ToTrain(Payload):
    project: Id
    base_version: VersionName | None = None  # None: the project's current one
    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)] | None = None
    also: list[Extra] = Field(default_factory=list)

    @property
    def subject(self) -> Subject:
        return Subject(project=self.project)


class Trained(Result):
    version: str = ""
    promoted: bool = False
    sentence: str = "done"  # how it compares
    metrics: dict[str, Any] = Field(default_factory=dict)


TRAINING = Kind(
    name="worker.finetuning.finetune",
    function="worker.jobs.finetuning:finetune",
    payload=ToTrain,
    result=Trained,
    queue=JobQueue(
        name=TRAIN,
        option="train",
        job="training",
        set_up="worker.jobs.finetuning:set_up",
        warm=False,
        lists_tasks=False,
    ),
    prefix="train",
    identity=None,
    describe=lambda asked: f"train the model of project {asked.project}",
    outcome=lambda returned: returned.sentence,
    project_lease="av2t:training",
    timeout=3 * DAY,  # tens of clips take minutes
    result_ttl=30 * DAY,
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training. What it tells of itself while it runs is None until it does."""

    job: str
    project: int
    state: State
    base_version: str | None  # None: the project's current one
    also: tuple[str, ...]
    stage: str | None  # pulling, training or judging
    done: int | None  # of `total`: clips, steps, clips
    total: int | None
    epoch: int | None
    epochs: int | None
    loss: float | None
    eta: float | None  # seconds
    version: str | None  # the one that it makes
    clips: int | None
    held_out: int | None
    result: dict[str, Any] | None  # a `Trained`
    error: str | None  # why it failed, or why it waits for a further try
    worker: str | None
    enqueued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def told(self) -> str:
        """How it stands, in words."""
        match self.state:
            case State.DONE:
                return TRAINING.outcome(Trained.model_validate(self.result or {}))
            case State.FAILED:
                return self.error or "failed"
            case State.WAITING:
                return f"{self.error} It will be tried again." if self.error else "waiting"
            case _ if self.stage is None:
                return "starting"
        progress = f"{self.done or 0} of {self.total}" if self.total else ""
        return ", ".join(filter(None, [self.stage, progress, self.measured]))

    @property
    def measured(self) -> str:
        """Of a stage, beside how much of it is done."""
        parts = []
        if self.stage == "training" and self.epoch is not None:
            parts.append(f"epoch {self.epoch} of {self.epochs or '?'}")
        if self.stage == "training" and self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.eta is not None:
            parts.append(f"{duration(self.eta)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """In words: 40 s, 3 min, 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
