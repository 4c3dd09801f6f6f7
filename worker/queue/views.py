"""What is read of the queues for the status page, the commands and Prometheus. Nothing here changes anything."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.job import JobStatus
from rq.worker import BaseWorker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from av2t_core.limits import REMARKS, SENTENCE
from worker.queue import KINDS, task_queues
from worker.queue.connection import reachable
from worker.queue.job import JOB, NOTHING, KnownJob, Outcome, checked, fetch, id_in, open_queue, outcomes, reason
from worker.queue.kind import Payload, State, Subject
from worker.queue.preannotation import PREANNOTATE, Preannotated, job_id
from worker.queue.queue import job_ids
from worker.queue.training import TRAIN, TRAINING, ToTrain, Trained, Training

PAGE = 100
"""Jobs of a registry that are read at a time: as many as the status page shows."""

GPU_MEMORY = "av2t_gpu_memory"
"""A field of ours in RQ's hash of a worker."""

# RQ's states, but for those in which a job is still on its way.
_ENDED = {
    JobStatus.FINISHED.value: State.DONE,
    JobStatus.FAILED.value: State.FAILED,
    JobStatus.STOPPED.value: State.FAILED,
}


@dataclass(frozen=True, kw_only=True)
class ListedJob(Subject):
    """A job of a task queue. What no kind knows has no project, task or model version."""

    id: str


@dataclass(frozen=True, kw_only=True)
class FailedJob(ListedJob):
    """One that has failed for good, and why in one sentence."""

    error: str
    failed_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class FinishedJob(ListedJob):
    """One that has ended well."""

    outcome: str  # in words
    keyframes: int
    remarks: tuple[str, ...]  # sentences about its clip
    seconds: float
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class RunningJob(ListedJob):
    """One in a worker's hands; `done` of `total` keyframes, None until the worker knows."""

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
    """The task queues at one moment. `queued` also counts what will be tried again later, `finished` the last 24
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
        for queue in _task_queues(connection):
            for jobs in _newest(connection, queue.failed_job_registry.key):
                found |= {job.id: job for job in jobs if project in (None, _subject(job).project)}
                if limit is not None and len(found) >= limit:
                    break
        chosen = list(found.values())[:limit]
        recorded = outcomes(connection, [job for job in chosen if not job.told.error])
        return [
            FailedJob(**_listed(job), error=reason(job, recorded.get(job.id, NOTHING)), failed_at=job.ended_at)
            for job in chosen
        ]


def _newest(connection: Redis, registry: str) -> Iterator[list[KnownJob]]:
    """The jobs of a registry, from its end on, some at a time. RedisError."""
    start = 0
    while ids := connection.zrange(registry, start, start + PAGE - 1, desc=True):
        yield fetch(connection, map(id_in, ids))
        start += PAGE


def finished_jobs(connection: Redis, limit: int) -> list[FinishedJob]:
    """The tasks that ended well in the last 24 hours, the newest first. Raises QueueError."""
    with reachable(connection):
        registries = [queue.finished_job_registry.key for queue in _task_queues(connection)]
        ids = [id for key in registries for id in connection.zrange(key, 0, limit - 1, desc=True)]
        jobs = [job for job in fetch(connection, map(id_in, ids)) if job.kind][:limit]
        returned = outcomes(connection, jobs)
        return [_finished(job, returned[job.id].value) for job in jobs]


def states(connection: Redis, project: int, tasks: Sequence[int], model_version: str) -> dict[int, State]:
    """What has become of each task. Raises QueueError."""
    with reachable(connection), connection.pipeline(transaction=False) as pipe:
        for task in tasks:
            pipe.hget(JOB + job_id(project, task, model_version), "status")
        found = pipe.execute()
    return {
        task: state(status.decode(errors="replace")) if status else State.GONE
        for task, status in zip(tasks, found, strict=True)
    }


def state(status: str) -> State:
    """What RQ's state of a job means to who waits for it."""
    return State.RUNNING if status == JobStatus.STARTED.value else _ENDED.get(status, State.WAITING)


def overview(connection: Redis, project: int | None = None) -> Overview:
    """Counts, running jobs (of one project, or all) and workers of the task queues. Raises QueueError."""
    with reachable(connection):
        queues = _task_queues(connection)
        counted, started = zip(*(_counts(queue, project) for queue in queues), strict=True)
        running = fetch(connection, [id for ids in started for id in ids])
        return Overview(
            queued=sum(each.queued for each in counted),
            finished=sum(each.finished for each in counted),
            failed=sum(each.failed for each in counted),
            running=tuple(_running(job) for job in running if job.kind),
            workers=tuple(worker for queue in queues for worker in _workers(queue)),
        )


def counts(connection: Redis, queue: str) -> Counts:
    """Of all jobs of the queue of this name. Raises QueueError."""
    with reachable(connection):
        return _counts(open_queue(connection, queue), None)[0]


def workers(connection: Redis, queue: str = PREANNOTATE) -> tuple[WorkerState, ...]:
    """Those that listen on the queue of this name. Raises QueueError."""
    with reachable(connection):
        return _workers(open_queue(connection, queue))


def oldest_waiting(connection: Redis) -> datetime | None:
    """When the task at the head of the queue was enqueued, None if none waits. Raises QueueError."""
    with reachable(connection):
        heads = map(id_in, connection.lrange(open_queue(connection).key, 0, 0))
        return next((job.enqueued_at for job in fetch(connection, heads)), None)


def training(connection: Redis, job: str) -> Training | None:
    """The one with this job's id; None if there is none, or it ended more than 30 days ago. Raises QueueError."""
    with reachable(connection):
        return next(iter(_trainings(connection, [job])), None)


def trainings(connection: Redis, project: int | None = None, limit: int | None = None) -> list[Training]:
    """Those of a project, or all, of the last 30 days: the newest first. Raises QueueError."""
    with reachable(connection):
        ids = job_ids(connection, TRAIN, ended=True)
        numbers = {id: number for id in ids if (number := TRAINING.number_in(id, project)) is not None}
        return _trainings(connection, sorted(numbers, key=numbers.__getitem__, reverse=True)[:limit])


def _trainings(connection: Redis, ids: Iterable[str]) -> list[Training]:
    jobs = [(job, job.payload) for job in fetch(connection, ids)]
    asked = {job: payload for job, payload in jobs if isinstance(payload, ToTrain)}
    ended = outcomes(connection, list(asked))
    return [_training(job, payload, ended[job.id]) for job, payload in asked.items()]


def _training(job: KnownJob, asked: ToTrain, outcome: Outcome) -> Training:
    known, told = state(job.get_status(refresh=False).value), job.told
    value = outcome.value if known is State.DONE else None
    return Training(
        **asked.model_dump(exclude={"also", "epochs"}),
        **told.model_dump(include={"stage", "done", "total", "epoch", "loss", "eta", "version", "clips", "held_out"}),
        job=job.id,
        state=known,
        also=tuple(asked.also),
        epochs=told.epochs or asked.epochs,
        result=checked(Trained, value)[0].model_dump() if isinstance(value, dict) else None,
        error=reason(job, outcome) if known is State.FAILED else told.error,
        worker=job.worker_name or None,
        enqueued_at=job.enqueued_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
    )


def _task_queues(connection: Redis) -> list[Queue]:
    return [open_queue(connection, queue.name) for queue in task_queues()]


def _counts(queue: Queue, project: int | None) -> tuple[Counts, list[str]]:
    """Of the jobs of a project, or of all, and the ids of those that run.

    All of one moment: a job that is put back meanwhile would else be seen neither running nor waiting. Of all projects
    the long lists are only counted.
    """
    scheduled, started = queue.scheduled_job_registry, queue.started_job_registry
    registries = scheduled, queue.finished_job_registry, queue.failed_job_registry
    with queue.connection.pipeline(transaction=True) as pipe:
        pipe.zrange(started.key, 0, -1)
        pipe.lrange(queue.intermediate_queue_key, 0, -1)
        pipe.llen(queue.key) if project is None else pipe.lrange(queue.key, 0, -1)
        for registry in registries:
            pipe.zcard(registry.key) if project is None else pipe.zrange(registry.key, 0, -1)
        executions, popped, *found = pipe.execute()

    def is_wanted(id: str) -> bool:
        return project is None or any(id.startswith(kind.ids_begin(project)) for kind in kinds)

    kinds = [kind for kind in KINDS.values() if kind.queue.name == queue.name]
    # A job may have one entry for each of its executions, and what was just popped may run already.
    running = set(map(id_in, executions))
    popped = set(map(id_in, popped)) - running
    if project is not None:
        found = [sum(map(is_wanted, map(id_in, ids))) for ids in found]
    waiting, later, finished, failed = found
    ours = sorted(filter(is_wanted, running))
    waiting += later + sum(map(is_wanted, popped))
    return Counts(queued=waiting, running=len(ours), finished=finished, failed=failed), ours


def _subject(job: KnownJob) -> Subject:
    return (job.payload or Payload()).subject


def _listed(job: KnownJob) -> dict[str, Any]:
    return {"id": job.id, **asdict(_subject(job))}


def _finished(job: KnownJob, value: Any) -> FinishedJob:
    assert job.kind is not None
    returned, _ = checked(job.kind.result, value if isinstance(value, dict) else {})
    of_clip = returned if isinstance(returned, Preannotated) else Preannotated()
    began, ended = job.started_at, job.ended_at
    return FinishedJob(
        **_listed(job),
        outcome=job.kind.outcome(returned)[:SENTENCE],
        keyframes=of_clip.keyframes,
        remarks=tuple(remark[:SENTENCE] for remark in of_clip.remarks[:REMARKS]),
        seconds=round((ended - began).total_seconds(), 1) if began and ended else 0.0,
        finished_at=ended,
    )


def _running(job: KnownJob) -> RunningJob:
    return RunningJob(
        **_listed(job),
        worker=job.worker_name,
        started_at=job.started_at,
        done=job.told.done,
        total=job.told.total,
    )


class _Reported(BaseModel):
    """What a worker reports of itself, in RQ's hash of it."""

    hostname: str = ""
    pid: int | None = None
    state: str = "unknown"
    last_heartbeat: AwareDatetime | None = None
    successful_job_count: int = 0
    failed_job_count: int = 0
    av2t_gpu_memory: int | None = None


def note_gpu_memory(connection: Redis, worker: str, size: int) -> None:
    """For the worker of this name. RedisError."""
    connection.hset(f"{BaseWorker.redis_worker_namespace_prefix}{worker}", GPU_MEMORY, size)


def _workers(queue: Queue) -> tuple[WorkerState, ...]:
    members = (key.decode(errors="replace") for key in queue.connection.smembers(WORKERS_BY_QUEUE_KEY % queue.name))
    keys = sorted(key for key in members if key.startswith(BaseWorker.redis_worker_namespace_prefix))
    with queue.connection.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hmget(key, list(_Reported.model_fields))
        hashes = pipe.execute(raise_on_error=False)
    return tuple(
        _worker(key, values)
        for key, values in zip(keys, hashes, strict=True)
        if not isinstance(values, RedisError) and any(values)
    )


def _worker(key: str, values: Sequence[bytes | None]) -> WorkerState:
    named = zip(_Reported.model_fields, values, strict=True)
    told, _ = checked(_Reported, {name: value.decode(errors="replace") for name, value in named if value})
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
