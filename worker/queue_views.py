"""What is to be seen of the queues: for the status page, the commands and Prometheus. Nothing here changes anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.worker_registration import get_keys

from worker.queue import GPU_MEMORY, PREANNOTATE, fetch, job_id, open_queue, reachable


class State(StrEnum):
    """What has become of a job that was enqueued."""

    WAITING = "waiting"  # also for a further try
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    GONE = "gone"  # its task was deleted, or it ended so long ago that nobody remembers


# RQ's states, but for those in which a job is still on its way.
_ENDED = {JobStatus.FINISHED: State.DONE, JobStatus.FAILED: State.FAILED, JobStatus.STOPPED: State.FAILED}


@dataclass(frozen=True, kw_only=True)
class FailedJob:
    """A job that has failed for good, and why in one sentence."""

    id: str
    project: int
    task: int
    model_version: str
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
        registry = open_queue(connection).failed_job_registry
        jobs = fetch(connection, registry.get_job_ids(desc=True))
        chosen = [job for job in jobs if project in (None, job.kwargs["project"])][:limit]
        return [FailedJob(**_identity(job), error=reason(job), failed_at=job.ended_at) for job in chosen]


def finished_jobs(connection: Redis, limit: int) -> list[FinishedJob]:
    """The tasks that ended well in the last 24 hours, the newest first. Raises QueueError."""
    with reachable(connection):
        ids = open_queue(connection).finished_job_registry.get_job_ids(end=limit - 1, desc=True, cleanup=False)
        return [_finished(job) for job in fetch(connection, ids)]


def states(connection: Redis, project: int, tasks: Sequence[int], model_version: str) -> dict[int, State]:
    """What has become of each task. Raises QueueError."""
    with reachable(connection), connection.pipeline(transaction=False) as pipe:
        for task in tasks:
            pipe.hget(Job.key_for(job_id(project, task, model_version)), "status")
        found = pipe.execute()
    return {
        task: state(JobStatus(status.decode())) if status else State.GONE
        for task, status in zip(tasks, found, strict=True)
    }


def state(status: JobStatus) -> State:
    """What RQ's state of a job means to who waits for it."""
    return State.RUNNING if status == JobStatus.STARTED else _ENDED.get(status, State.WAITING)


def overview(connection: Redis, project: int | None = None) -> Overview:
    """Counts, running jobs (of one project, or all) and workers of pre-annotation. Raises QueueError."""
    with reachable(connection):
        queue = open_queue(connection)
        counts, started = _counts(queue, "" if project is None else f"preannotate-{project}-")
        return Overview(
            queued=counts.queued,
            finished=counts.finished,
            failed=counts.failed,
            running=tuple(_running(job) for job in fetch(connection, started)),
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
        jobs = fetch(connection, open_queue(connection).get_job_ids(length=1))
        return jobs[0].enqueued_at if jobs else None


def reason(job: Job) -> str:
    """Why it failed: the sentence that the worker left, or the last line of what RQ recorded."""
    if error := job.meta.get("error"):
        return str(error)
    result = job.latest_result()
    recorded = (result.exc_string if result else "") or ""
    if "AbandonedJobError" in recorded:
        return "The worker died each time this was tried"
    return recorded.strip().rpartition("\n")[2] or "Unknown: the worker left no reason"


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
    running = {started.parse_job_id(each) for each in executions}
    popped = {each.decode() for each in popped} - running
    if start:
        found = [sum(each.startswith(start.encode()) for each in ids) for ids in found]
    waiting, later, finished, failed = found
    ours = sorted(each for each in running if each.startswith(start))
    waiting += later + sum(each.startswith(start) for each in popped)
    return Counts(queued=waiting, running=len(ours), finished=finished, failed=failed), ours


def _identity(job: Job) -> dict[str, Any]:
    return {"id": job.id, **job.kwargs}


def _finished(job: Job) -> FinishedJob:
    value = job.return_value()
    said: dict[str, Any] = value if isinstance(value, dict) else {}
    began, ended = job.started_at, job.ended_at
    return FinishedJob(
        **_identity(job),
        outcome=str(said.get("outcome", "done")),
        keyframes=int(said.get("keyframes", 0)),
        remarks=tuple(map(str, said.get("remarks", ()))),
        seconds=round((ended - began).total_seconds(), 1) if began and ended else 0.0,
        finished_at=ended,
    )


def _running(job: Job) -> RunningJob:
    return RunningJob(
        **_identity(job),
        worker=job.worker_name,
        started_at=job.started_at,
        done=job.meta.get("done"),
        total=job.meta.get("total"),
    )


def _workers(queue: Queue) -> tuple[WorkerState, ...]:
    keys = sorted(get_keys(queue))
    with queue.connection.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hgetall(key)
        hashes = pipe.execute()
    return tuple(_worker(key, fields) for key, fields in zip(keys, hashes, strict=True) if fields)


def _worker(key: str, raw: dict[bytes, bytes]) -> WorkerState:
    fields = {name.decode(): value.decode(errors="replace") for name, value in raw.items()}
    seen = fields.get("last_heartbeat")
    return WorkerState(
        name=key.rpartition(":")[2],
        host=fields.get("hostname", ""),
        pid=int(fields["pid"]) if fields.get("pid") else None,
        state=fields.get("state", "unknown"),
        last_seen=datetime.fromisoformat(seen) if seen else None,
        succeeded=int(fields.get("successful_job_count", 0)),
        failed=int(fields.get("failed_job_count", 0)),
        gpu_memory=int(fields[GPU_MEMORY]) if GPU_MEMORY in fields else None,
    )
