"""What a kind of job is: its arguments, its result, its queue, its ids, and what is shown of it.

Who can write to Redis writes there what they like. So the name of a function stands for a kind of `worker.queue.KINDS`
or for nothing, and its arguments have the types of the kind.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from av2t_core.limits import JOB_TRIES

Id = Annotated[int, Field(ge=0, le=2**63 - 1)]  # as Label Studio's database has them

DAY = 24 * 3600


class State(StrEnum):
    """What has become of a job that was enqueued."""

    WAITING = "waiting"  # also for a further try
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    GONE = "gone"  # its task was deleted, or it ended so long ago that nobody remembers


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a job is about; a field is None where it has no such thing."""

    project: int | None = None
    task: int | None = None
    model_version: str | None = None


class Payload(BaseModel):
    """The arguments of a job's function."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())

    @property
    def subject(self) -> Subject:
        return Subject()


class Result(BaseModel):
    """What a job's function returns; as a stored one may be anybody's, each field has a default."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Meta(BaseModel):
    """What is noted of a job while it waits and runs: by its worker, and by the job itself."""

    model_config = ConfigDict(strict=True, frozen=True)

    protocol: int | None = None
    error: str | None = None
    attempts: Annotated[int, Field(ge=0, le=JOB_TRIES)] = 0
    doubts: Annotated[int, Field(ge=0, le=JOB_TRIES)] = 0
    deaths: Annotated[int, Field(ge=0, le=JOB_TRIES)] = 0
    uploading: bool | None = None
    stage: str | None = None
    done: Annotated[int, Field(ge=0)] | None = None
    total: Annotated[int, Field(ge=0)] | None = None
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    eta: Annotated[float, Field(allow_inf_nan=False)] | None = None  # seconds
    version: str | None = None
    clips: int | None = None
    held_out: int | None = None


@dataclass(frozen=True, kw_only=True)
class JobQueue:
    """A queue, and the process that holds the model for its jobs."""

    name: str  # in Redis
    option: str  # of `av2t worker --queues`
    job: str  # what people call a job of it
    set_up: str  # "module:function": it makes the process ready, given the settings
    warm: bool  # the process stays from job to job; else it is there, with its memory, only while one runs
    lists_tasks: bool = True  # its jobs are listed with the tasks, on the status page and by `av2t status`


AnyPayload = TypeVar("AnyPayload", bound=Payload)
AnyResult = TypeVar("AnyResult", bound=Result)


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[AnyPayload, AnyResult]):
    """Jobs of one function. Its ids begin with `prefix` and the project's number."""

    name: str  # of the function, in a queued job
    function: str  # "module:function", imported when the first job runs: it takes the payload and returns the result
    payload: type[AnyPayload]
    result: type[AnyResult]
    queue: JobQueue
    prefix: str
    identity: Callable[[AnyPayload], str] | None  # the rest of the id; None: each job has a new number
    describe: Callable[[AnyPayload], str]  # for who looks into Redis
    outcome: Callable[[AnyResult], str]  # for the status page
    project_lease: str | None = None  # the key under which one job of a project runs at a time; None: many do
    first: bool = False  # its jobs go to the front of the queue
    timeout: int  # seconds, an upper bound for a worker that hangs
    result_ttl: int = DAY

    def ids_begin(self, project: int) -> str:
        return f"{self.prefix}-{project}-"

    def id(self, payload: AnyPayload) -> str:
        """RQ allows letters, digits, "_" and "-" in it."""
        assert self.identity is not None, f"{self.name} numbers its jobs"
        return f"{self.prefix}-{self.identity(payload)}".replace(".", "_")

    def number_in(self, id: str, project: int | None) -> int | None:
        """The number of a numbered job, None if the id is none of this kind, or of another project."""
        found = re.fullmatch(rf"{self.prefix}-{r'[0-9]+' if project is None else project}-([0-9]{{1,18}})", id)
        return int(found[1]) if found else None

    def task_in(self, id: str) -> str:
        """The task in the id, "" if there is none."""
        found = re.match(rf"{self.prefix}-\d+-(\d+)-", id)
        return found[1] if found else ""

    @property
    def task_pattern(self) -> str:
        """`task_in` for a script inside Redis."""
        return f"^{self.prefix}%-%d+%-(%d+)%-"
