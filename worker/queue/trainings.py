"""Trainings: how one is asked for, what is told of it while it runs, and what became of it.

A project has at most one that waits and one that runs. Who asks for another while one waits gets that one: it will see
everything that was labelled by then.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis import Redis
from redis.lock import Lock
from rq.job import Job

from worker.queue.connection import FULL, IF_ROOM, FullError, flat, reachable
from worker.queue.kinds import MOST_EPOCHS as MOST_EPOCHS
from worker.queue.kinds import Extra as Extra
from worker.queue.kinds import ToTrain
from worker.queue.known_job import KnownJob
from worker.queue.queue import TRAIN, blank_job, fetch, job_ids, open_queue, stop_job, under_way
from worker.queue.views import Outcome, State, outcomes, reason, state

FUNCTION = "worker.finetuning.finetune"

JOB_TIMEOUT = 3 * 24 * 3600  # an upper bound: tens of clips take minutes
RESULT_TTL = 30 * 24 * 3600

_COUNTER = "av2t:trainings"

# KEYS: the queue, its list of what was just popped, what will be tried again later, the set of queues, the counter.
# ARGV: what a job's key begins with, what the project's ids begin with, then the fields and values of the job's hash.
_ENQUEUE = (
    IF_ROOM
    + """
local waiting = {redis.call("LRANGE", KEYS[1], 0, -1), redis.call("LRANGE", KEYS[2], 0, -1),
                 redis.call("ZRANGE", KEYS[3], 0, -1)}
for _, ids in ipairs(waiting) do
    for _, id in ipairs(ids) do
        if string.sub(id, 1, #ARGV[2]) == ARGV[2] then
            local state = redis.call("HGET", ARGV[1] .. id, "status")
            if state == "queued" or state == "scheduled" then
                return {id, 0}
            end
        end
    end
end
local id = ARGV[2] .. redis.call("INCR", KEYS[5])
redis.call("HSET", ARGV[1] .. id, unpack(ARGV, 3))
redis.call("SADD", KEYS[4], KEYS[1])
redis.call("RPUSH", KEYS[1], id)
return {id, 1}
"""
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
    result: dict[str, Any] | None  # version, promoted, sentence, metrics
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
                return str((self.result or {}).get("sentence", "done"))
            case State.FAILED:
                return self.error or "failed"
            case State.WAITING:
                return f"{self.error} It will be tried again." if self.error else "waiting"
        if self.stage is None:
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


def enqueue_training(
    connection: Redis,
    project: int,
    *,
    base_version: str | None = None,
    epochs: int | None = None,
    also: Sequence[Extra] = (),
) -> tuple[str, bool]:
    """The id of the project's training that waits now, and whether it is new. Raises QueueError.

    `base_version`: the model version to start from, the project's current one where None; `epochs`: how many at most;
    `also`: what is trained beside the adapters and the projector. One that waits already stays as it was
    asked for.
    """
    with reachable(connection):
        job = blank_job(connection, TRAIN, FUNCTION, timeout=JOB_TIMEOUT, result_ttl=RESULT_TTL)
        job.kwargs = {"project": project, "base_version": base_version, "epochs": epochs, "also": list(also)}
        job.description = f"train the model of project {project}"
        queue = open_queue(connection, TRAIN)
        keys = [
            queue.key,
            queue.intermediate_queue_key,
            queue.scheduled_job_registry.key,
            queue.redis_queues_keys,
            _COUNTER,
        ]
        fields = job.to_dict() | {"data": zlib.compress(job.data)}
        script = connection.register_script(_ENQUEUE)
        taken = script(keys=keys, args=[Job.key_for(""), _ids_begin(project), *flat(fields)])
        if taken == FULL:
            raise FullError(connection)
        id, new = taken
    return id.decode(), bool(new)


def training(connection: Redis, job: str) -> Training | None:
    """The one with this job's id; None if there is none, or it ended more than 30 days ago. Raises QueueError."""
    with reachable(connection):
        return next(iter(_trainings(connection, fetch(connection, [job]))), None)


def trainings(connection: Redis, project: int | None = None, limit: int | None = None) -> list[Training]:
    """Those of a project, or all, of the last 30 days: the newest first. Raises QueueError."""
    with reachable(connection):
        ids = job_ids(connection, TRAIN, ended=True)
        which = re.compile(rf"train-{'[0-9]+' if project is None else project}-([0-9]{{1,18}})")
        numbers = {each: int(match[1]) for each in ids if (match := which.fullmatch(each))}
        chosen = sorted(numbers, key=numbers.__getitem__, reverse=True)
        return _trainings(connection, fetch(connection, chosen[:limit]))


def is_training(connection: Redis, project: int | None = None) -> bool:
    """Whether one of the project, or of any, waits or runs. Raises QueueError."""
    with reachable(connection):
        return bool(_under_way(connection, project))


def stop_trainings(connection: Redis, project: int | None = None) -> int:
    """Stop those of a project, or all, that wait or run; how many. Raises QueueError."""
    with reachable(connection):
        jobs = _under_way(connection, project)
    return sum(stop_job(connection, job.id) for job in jobs)


def turn(connection: Redis, project: int, seconds: float) -> Lock:
    """The right to train the project, for one worker at a time; it runs out by itself after so many seconds."""
    return Lock(connection, f"av2t:training:{project}", timeout=seconds, blocking=False, thread_local=False)


def duration(seconds: float) -> str:
    """In words: 40 s, 3 min, 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _ids_begin(project: int) -> str:
    return f"train-{project}-"


def _under_way(connection: Redis, project: int | None) -> list[KnownJob]:
    asked = [(job, job.arguments) for job in under_way(connection, TRAIN)]
    return [job for job, each in asked if isinstance(each, ToTrain) and project in (None, each.project)]


def _trainings(connection: Redis, jobs: Sequence[KnownJob]) -> list[Training]:
    ended = outcomes(connection, jobs)
    return [_training(job, job.arguments, ended[job.id]) for job in jobs if isinstance(job.arguments, ToTrain)]


def _training(job: KnownJob, asked: ToTrain, outcome: Outcome) -> Training:
    known, meta = state(job.get_status(refresh=False).value), job.meta
    value = outcome.value if known is State.DONE else None
    return Training(
        job=job.id,
        project=asked.project,
        state=known,
        base_version=asked.base_version,
        also=tuple(asked.also),
        epochs=meta.get("epochs", asked.epochs),
        **{name: meta.get(name) for name in ("stage", "done", "total", "epoch", "loss", "eta")},
        **{name: meta.get(name) for name in ("version", "clips", "held_out")},
        result=value if isinstance(value, dict) else None,
        error=reason(job, outcome) if known is State.FAILED else meta.get("error"),
        worker=job.worker_name or None,
        enqueued_at=job.enqueued_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
    )
