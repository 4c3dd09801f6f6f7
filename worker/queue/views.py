"""What is to be seen of the queues: for the status page, the commands and Prometheus. Nothing here changes anything."""

import json
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, BaseModel
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.job import Job, JobStatus
from rq.worker import BaseWorker

from av2t_core.limits import REMARKS, SENTENCE
from worker.queue.connection import reachable
from worker.queue.kinds import ToPreannotate
from worker.queue.known_job import EXCEPTION, RESULT, KnownJob, checked, inflated
from worker.queue.queue import PREANNOTATE, fetch, id_in, job_id, open_queue

PAGE = 100
"""Jobs of a registry that are read at a time: as many as the status page shows."""


class State(StrEnum):
    """What has become of a job that was enqueued."""

    WAITING = "waiting"  # also for a further try
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    GONE = "gone"  # its task was deleted, or it ended so long ago that nobody remembers


# RQ's states, but for those in which a job is still on its way.
_ENDED = {
    JobStatus.FINISHED.value: State.DONE,
    JobStatus.FAILED.value: State.FAILED,
    JobStatus.STOPPED.value: State.FAILED,
}


@dataclass(frozen=True, kw_only=True)
class FailedJob:
    """A job that has failed for good, and why in one sentence. What was no job of ours has no task."""

    id: str
    project: int | None
    task: int | None
    model_version: str | None
    error: str
    failed_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class FinishedJob:
    """A job that has ended well."""

    id: str
    project: int
    task: int
    model_version: str
    outcome: str  # in words
    keyframes: int
    remarks: tuple[str, ...]  # sentences about its clip
    seconds: float
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class RunningJob:
    """A job in a worker's hands; `done` of `total` keyframes, None until the worker knows."""

    id: str
    project: int
    task: int
    model_version: str
    worker: str | None
    started_at: datetime | None
    done: int | None
    total: int | None


@dataclass(frozen=True, kw_only=True)
class WorkerState:
    """A worker that listens on a queue, as it last reported itself."""

    name: str
    host: str
    pid: int | None
    state: str
    last_seen: datetime | None
    succeeded: int
    failed: int
    gpu_memory: int | None  # bytes, the most that its model has held; None without a GPU


@dataclass(frozen=True, kw_only=True)
class Counts:
    """A queue's jobs by state. `queued` also counts what will be tried again later, `finished` what is remembered."""

    queued: int
    running: int
    finished: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Pre-annotation at one moment. `queued` also counts what will be tried again later, `finished` the last 24
    hours."""

    queued: int
    finished: int
    failed: int
    running: tuple[RunningJob, ...]
    workers: tuple[WorkerState, ...]


def failed_jobs(connection: Redis, project: int | None = None, limit: int | None = None) -> list[FailedJob]:
    """The failed tasks, the newest first. Raises QueueError."""
    with reachable(connection):
        found: dict[str, KnownJob] = {}
        for jobs in _newest(connection, open_queue(connection).failed_job_registry.key):
            found |= {job.id: job for job in jobs if project in (None, getattr(job.arguments, "project", None))}
            if limit is not None and len(found) >= limit:
                break
        chosen = list(found.values())[:limit]
        recorded = outcomes(connection, [job for job in chosen if not job.meta.get("error")])
        return [
            FailedJob(
                id=job.id,
                **_TASK_OF_NONE | _task(job),
                error=reason(job, recorded.get(job.id, NOTHING)),
                failed_at=job.ended_at,
            )
            for job in chosen
        ]


def _newest(connection: Redis, registry: str) -> Iterator[list[KnownJob]]:
    """The jobs of a registry, from its end on, some at a time. RedisError."""
    start = 0
    while ids := connection.zrange(registry, start, start + PAGE - 1, desc=True):
        yield fetch(connection, [id_in(id) for id in ids])
        start += PAGE


def finished_jobs(connection: Redis, limit: int) -> list[FinishedJob]:
    """The tasks that ended well in the last 24 hours, the newest first. Raises QueueError."""
    with reachable(connection):
        ids = connection.zrange(open_queue(connection).finished_job_registry.key, 0, limit - 1, desc=True)
        jobs = [job for job in fetch(connection, [id_in(id) for id in ids]) if _task(job)]
        returned = outcomes(connection, jobs)
        return [_finished(job, returned[job.id].value) for job in jobs]


def states(connection: Redis, project: int, tasks: Sequence[int], model_version: str) -> dict[int, State]:
    """What has become of each task. Raises QueueError."""
    with reachable(connection), connection.pipeline(transaction=False) as pipe:
        for task in tasks:
            pipe.hget(Job.key_for(job_id(project, task, model_version)), "status")
        found = pipe.execute()
    return {
        task: state(status.decode(errors="replace")) if status else State.GONE
        for task, status in zip(tasks, found, strict=True)
    }


def state(status: str) -> State:
    """What RQ's state of a job means to who waits for it."""
    return State.RUNNING if status == JobStatus.STARTED.value else _ENDED.get(status, State.WAITING)


def overview(connection: Redis, project: int | None = None) -> Overview:
    """Counts, running jobs (of one project, or all) and workers of pre-annotation. Raises QueueError."""
    with reachable(connection):
        queue = open_queue(connection)
        counts, started = _counts(queue, "" if project is None else f"preannotate-{project}-")
        return Overview(
            queued=counts.queued,
            finished=counts.finished,
            failed=counts.failed,
            running=tuple(_running(job) for job in fetch(connection, started) if _task(job)),
            workers=_workers(queue),
        )


def counts(connection: Redis, queue: str) -> Counts:
    """Of all jobs of the queue of this name. Raises QueueError."""
    with reachable(connection):
        return _counts(open_queue(connection, queue), "")[0]


def workers(connection: Redis, queue: str = PREANNOTATE) -> tuple[WorkerState, ...]:
    """Those that listen on the queue of this name. Raises QueueError."""
    with reachable(connection):
        return _workers(open_queue(connection, queue))


def oldest_waiting(connection: Redis) -> datetime | None:
    """When the task at the head of the queue was enqueued, None if none waits. Raises QueueError."""
    with reachable(connection):
        heads = map(id_in, connection.lrange(open_queue(connection).key, 0, 0))
        return next((job.enqueued_at for job in fetch(connection, list(heads))), None)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What RQ has recorded of a job's last end: what its function returned, or its exception with the traceback."""

    value: Any = None
    exception: str = ""


NOTHING = Outcome()


def outcomes(connection: Redis, jobs: Sequence[Job]) -> dict[str, Outcome]:
    """Of each of these jobs, NOTHING where nothing is recorded that can be read. RedisError."""
    with connection.pipeline(transaction=False) as pipe:
        for job in jobs:
            pipe.hmget(job.key, RESULT, EXCEPTION)
            pipe.xrevrange(f"rq:results:{job.id}", count=1)
        found = pipe.execute(raise_on_error=False)
    return {
        job.id: _outcome(*of_one) for job, of_one in zip(jobs, zip(found[::2], found[1::2], strict=True), strict=True)
    }


def _outcome(fields: Any, entries: Any) -> Outcome:
    """`entries`: where earlier releases kept it."""
    try:
        if not isinstance(fields, RedisError) and any(fields):
            value, exception = fields
            return Outcome(value=json.loads(value or b"null"), exception=(exception or b"").decode(errors="replace"))
        if not entries or isinstance(entries, RedisError):
            return NOTHING
        [(_, recorded)] = entries
        exception, _ = inflated(b64decode(recorded.get(b"exc_string", b"")))
        return Outcome(
            value=json.loads(b64decode(recorded.get(b"return_value", b"")) or b"null"),
            exception=exception.decode(errors="replace"),
        )
    except (ValueError, RecursionError):
        return NOTHING


def reason(job: Job, outcome: Outcome) -> str:
    """Why it failed: the sentence that the worker left, or the last line of what RQ recorded."""
    if error := job.meta.get("error"):
        return str(error)[:SENTENCE]
    if "AbandonedJobError" in outcome.exception:
        return "The worker died each time this was tried"
    last = outcome.exception.strip().rpartition("\n")[2]
    return last[:SENTENCE] or "Unknown: the worker left no reason"


def _counts(queue: Queue, start: str) -> tuple[Counts, list[str]]:
    """Of the jobs whose ids begin with `start`, and the ids of those that run.

    All of one moment: a job that is put back meanwhile would else be seen neither running nor waiting. Without `start`
    the long lists are only counted.
    """
    scheduled, started = queue.scheduled_job_registry, queue.started_job_registry
    with queue.connection.pipeline(transaction=True) as pipe:
        pipe.zrange(started.key, 0, -1)
        pipe.lrange(queue.intermediate_queue_key, 0, -1)
        pipe.lrange(queue.key, 0, -1) if start else pipe.llen(queue.key)
        for registry in (scheduled, queue.finished_job_registry, queue.failed_job_registry):
            pipe.zrange(registry.key, 0, -1) if start else pipe.zcard(registry.key)
        executions, popped, *found = pipe.execute()
    # A job may have one entry for each of its executions, and what was just popped may run already.
    running = set(map(id_in, executions))
    popped = set(map(id_in, popped)) - running
    if start:
        found = [sum(each.startswith(start.encode()) for each in ids) for ids in found]
    waiting, later, finished, failed = found
    ours = sorted(each for each in running if each.startswith(start))
    waiting += later + sum(each.startswith(start) for each in popped)
    return Counts(queued=waiting, running=len(ours), finished=finished, failed=failed), ours


_TASK_OF_NONE = dict.fromkeys(ToPreannotate.model_fields)


def _task(job: KnownJob) -> dict[str, Any]:
    """The task, its project and the model version; nothing if the job is none of ours."""
    return job.arguments.model_dump() if isinstance(job.arguments, ToPreannotate) else {}


class _Returned(BaseModel):
    """What `worker.jobs.preannotate` returns."""

    outcome: str = "done"
    keyframes: int = 0
    remarks: list[str] = []


def _finished(job: KnownJob, value: Any) -> FinishedJob:
    returned, _ = checked(_Returned, value if isinstance(value, dict) else {})
    began, ended = job.started_at, job.ended_at
    return FinishedJob(
        id=job.id,
        **_task(job),
        outcome=returned.outcome[:SENTENCE],
        keyframes=returned.keyframes,
        remarks=tuple(remark[:SENTENCE] for remark in returned.remarks[:REMARKS]),
        seconds=round((ended - began).total_seconds(), 1) if began and ended else 0.0,
        finished_at=ended,
    )


def _running(job: KnownJob) -> RunningJob:
    return RunningJob(
        id=job.id,
        **_task(job),
        worker=job.worker_name,
        started_at=job.started_at,
        done=job.meta.get("done"),
        total=job.meta.get("total"),
    )


class _Told(BaseModel):
    """What a worker tells of itself, in RQ's hash of it."""

    hostname: str = ""
    pid: int | None = None
    state: str = "unknown"
    last_heartbeat: AwareDatetime | None = None
    successful_job_count: int = 0
    failed_job_count: int = 0
    av2t_gpu_memory: int | None = None


def _workers(queue: Queue) -> tuple[WorkerState, ...]:
    members = (key.decode(errors="replace") for key in queue.connection.smembers(f"rq:workers:{queue.name}"))
    keys = sorted(key for key in members if key.startswith(BaseWorker.redis_worker_namespace_prefix))
    with queue.connection.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hmget(key, list(_Told.model_fields))
        hashes = pipe.execute(raise_on_error=False)
    return tuple(
        _worker(key, values)
        for key, values in zip(keys, hashes, strict=True)
        if not isinstance(values, RedisError) and any(values)
    )


def _worker(key: str, values: Sequence[bytes | None]) -> WorkerState:
    named = zip(_Told.model_fields, values, strict=True)
    told, _ = checked(_Told, {name: value.decode(errors="replace") for name, value in named if value})
    return WorkerState(
        name=key.rpartition(":")[2],
        host=told.hostname,
        pid=told.pid,
        state=told.state,
        last_seen=told.last_heartbeat,
        succeeded=told.successful_job_count,
        failed=told.failed_job_count,
        gpu_memory=told.av2t_gpu_memory,
    )
