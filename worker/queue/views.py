"""What is read of the queues for the status page, the commands and Prometheus. Nothing here changes anything."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import chain, islice
from math import isfinite
from typing import Any

import pydantic.dataclasses
from pydantic import AwareDatetime
from redis import Redis
from rq import Queue
from rq.job import JobStatus
from rq.worker import BaseWorker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from av2t_core.limits import REMARKS, SENTENCE
from worker.queue import KINDS, task_queues
from worker.queue.connection import reachable, read_hashes, redis_time
from worker.queue.job import JOB, NOTHING, KnownJob, Outcome, checked, fetch, id_in, open_queue, outcomes, reason
from worker.queue.kind import State, Subject
from worker.queue.preannotation import PREANNOTATE, Preannotated, job_id
from worker.queue.queue import job_ids
from worker.queue.training import TRAIN, TRAINING, ToTrain, Trained, Training

PAGE = 100
"""Jobs of a registry that are read at a time: as many as the status page shows."""

GPU_MEMORY = "av2t_gpu_memory"
_REPORTED = {
    "hostname": "host",
    "pid": "pid",
    "state": "state",
    "last_heartbeat": "last_seen",
    "successful_job_count": "succeeded",
    "failed_job_count": "failed",
    GPU_MEMORY: "gpu_memory",
}
"""The fields of RQ's hash of a worker, one of which is ours, by what they are called in a `WorkerState`."""

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
class RetriedJob(ListedJob):
    """One that will be tried again: in how many seconds, and why it was not done yet, in one sentence."""

    error: str
    seconds: int


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


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerState:
    """A worker that listens on a queue, as it last reported itself."""

    name: str
    host: str = ""
    pid: int | None = None
    state: str = "unknown"
    last_seen: AwareDatetime | None = None
    succeeded: int = 0
    failed: int = 0
    gpu_memory: int | None = None  # bytes, the most that its model has held; None without a GPU


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Queues at one moment. `queued` also counts what will be tried again later, `finished` what is remembered: tasks
    for 24 hours, trainings for 30 days."""

    queued: int
    finished: int
    failed: int
    running: tuple[RunningJob, ...]
    workers: tuple[WorkerState, ...]

    @property
    def by_state(self) -> dict[str, int]:
        counts = self.queued, len(self.running), self.finished, self.failed
        return dict(zip(("waiting", "running", "done", "failed"), counts, strict=True))


def failed_jobs(connection: Redis, project: int | None = None, limit: int | None = None) -> list[FailedJob]:
    """The failed tasks, the newest first. Raises QueueError."""
    with reachable(connection):
        found: dict[str, KnownJob] = {}
        for queue in _task_queues(connection):
            for jobs in _newest(connection, queue.failed_job_registry.key):
                found |= {job.id: job for job in jobs if project in (None, job.subject.project)}
                if limit is not None and len(found) >= limit:
                    break
        chosen = list(found.values())[:limit]
        recorded = outcomes(connection, [job for job in chosen if not job.told.error])
        return [
            FailedJob(**_listed(job), error=reason(job, recorded.get(job.id, NOTHING)), failed_at=job.ended_at)
            for job in chosen
        ]


def retried_jobs(connection: Redis, project: int | None = None, limit: int | None = None) -> list[RetriedJob]:
    """The tasks that will be tried again, the soonest first. Raises QueueError."""
    with reachable(connection):
        due: dict[str, float] = {}
        for queue in _task_queues(connection):
            entries: Any = connection.zrange(queue.scheduled_job_registry.key, 0, -1, withscores=True)
            due |= {id_in(entry): seconds for entry, seconds in entries}
        found: list[RetriedJob] = []
        ids = iter(sorted(due, key=due.__getitem__))
        while some := list(islice(ids, PAGE)):
            jobs = [job for job in fetch(connection, some) if job.kind and project in (None, job.subject.project)]
            now = redis_time(connection)
            found += [
                RetriedJob(**_listed(job), error=reason(job, NOTHING), seconds=_until(due[job.id], now)) for job in jobs
            ]
            if limit is not None and len(found) >= limit:
                break
        return found[:limit]


def _until(due: float, now: float) -> int:
    """Seconds, and 0 for what somebody has written there that is no time."""
    return max(0, round(due - now)) if isfinite(due) else 0


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
    keys = (JOB + job_id(project, task, model_version) for task in tasks)
    with reachable(connection):
        found = [(fields or {}).get("status") for fields in read_hashes(connection, keys, ["status"])]
    return {
        task: state(status.decode(errors="replace")) if status else State.GONE
        for task, status in zip(tasks, found, strict=True)
    }


def state(status: str) -> State:
    """What RQ's state of a job means to who waits for it."""
    return State.RUNNING if status == JobStatus.STARTED.value else _ENDED.get(status, State.WAITING)


def overview(connection: Redis, project: int | None = None, *, queue: str | None = None) -> Overview:
    """Counts, running jobs (of one project, or all) and workers of the task queues, or of the queue of this name.
    Raises QueueError."""
    with reachable(connection):
        queues = _task_queues(connection) if queue is None else [open_queue(connection, queue)]
        queued, finished, failed, started = zip(*(_counts(each, project) for each in queues), strict=True)
        return Overview(
            queued=sum(queued),
            finished=sum(finished),
            failed=sum(failed),
            running=tuple(_running(job) for job in fetch(connection, chain.from_iterable(started)) if job.kind),
            workers=tuple(chain.from_iterable(map(_workers, queues))),
        )


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
    jobs = [job for job in fetch(connection, ids) if isinstance(job.payload, ToTrain)]
    ended = outcomes(connection, jobs)
    return [_training(job, ended[job.id]) for job in jobs]


def _training(job: KnownJob, outcome: Outcome) -> Training:
    known, asked, told = state(job.get_status(refresh=False).value), job.payload, job.told
    assert isinstance(asked, ToTrain)
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


def _counts(queue: Queue, project: int | None) -> tuple[int, int, int, list[str]]:
    """How many jobs of a project, or of all, wait, ended well and failed, and the ids of those that run.

    All of one moment: a job that is put back meanwhile would else be seen neither running nor waiting. Of all projects
    the long lists are only counted.
    """
    registries = queue.scheduled_job_registry, queue.finished_job_registry, queue.failed_job_registry
    with queue.connection.pipeline(transaction=True) as pipe:
        pipe.zrange(queue.started_job_registry.key, 0, -1)
        pipe.lrange(queue.intermediate_queue_key, 0, -1)
        pipe.llen(queue.key) if project is None else pipe.lrange(queue.key, 0, -1)
        for registry in registries:
            pipe.zcard(registry.key) if project is None else pipe.zrange(registry.key, 0, -1)
        executions, popped, *found = pipe.execute()
    kinds = [kind for kind in KINDS.values() if kind.queue.name == queue.name]
    begins = "" if project is None else tuple(kind.ids_begin(project) for kind in kinds)

    def wanted(entries: Iterable[bytes]) -> list[str]:
        return [id for id in map(id_in, entries) if id.startswith(begins)]

    # A job may have one entry for each of its executions, and what was just popped may run already.
    running = set(wanted(executions))
    waiting, later, finished, failed = (each if isinstance(each, int) else len(wanted(each)) for each in found)
    return waiting + later + len(set(wanted(popped)) - running), finished, failed, sorted(running)


def _listed(job: KnownJob) -> dict[str, Any]:
    return {"id": job.id, **asdict(job.subject)}


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


def note_gpu_memory(connection: Redis, worker: str, size: int) -> None:
    """For the worker of this name. RedisError."""
    connection.hset(f"{BaseWorker.redis_worker_namespace_prefix}{worker}", GPU_MEMORY, size)


def _workers(queue: Queue) -> tuple[WorkerState, ...]:
    members = (key.decode(errors="replace") for key in queue.connection.smembers(WORKERS_BY_QUEUE_KEY % queue.name))
    keys = sorted(key for key in members if key.startswith(BaseWorker.redis_worker_namespace_prefix))
    hashes = read_hashes(queue.connection, keys, _REPORTED)
    return tuple(_worker(key, fields) for key, fields in zip(keys, hashes, strict=True) if fields)


def _worker(key: str, fields: Mapping[str, bytes]) -> WorkerState:
    texts = {_REPORTED[name]: value.decode(errors="replace") for name, value in fields.items() if value}
    return checked(WorkerState, {"name": key.rpartition(":")[2], **texts})[0]
