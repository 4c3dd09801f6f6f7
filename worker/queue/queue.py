"""What is done with jobs: they are enqueued, tried again, stopped and dropped.

Enqueuing twice is enqueuing once, also for callers at the same moment: the check and the push are one script inside
Redis.
"""

import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from rq import Retry
from rq.command import send_command
from rq.job import Job, JobStatus

from worker.queue import KINDS, queues, task_queues
from worker.queue.connection import AT_ONCE, IF_ROOM, flat, reachable, redis_time
from worker.queue.job import FAILURE_TTL, JOB, PROTOCOL, KnownJob, fetch, id_in, open_queue
from worker.queue.kind import Kind, Payload
from worker.queue.preannotation import PREANNOTATE, PREANNOTATION, ToPreannotate
from worker.queue.training import TRAIN, TRAINING, Extra, ToTrain

RETRIES = 8  # of what can pass: a Label Studio may be away for a quarter of an hour

# The states of an id in which it may be taken. "absent" is ours, the others are RQ's.
_FOR_A_NEW_JOB = ("absent", JobStatus.FINISHED, JobStatus.CANCELED, JobStatus.STOPPED)
_FOR_A_RETRY = (JobStatus.FAILED, JobStatus.STOPPED)

_COUNTER = "av2t:trainings"

# KEYS: the queue, the set of queues, then the registries that a job which has ended may be listed in.
# ARGV: what the jobs' keys begin with, the states in which one may be taken as |a|b|, "first" for the front of the
# queue, how many arguments follow that all jobs share, those (fields and values of their hashes), then for each job its
# id, its data and its description. A job that waits already is brought to the front, too.
_ADMIT = (
    IF_ROOM
    + """
local shared = {unpack(ARGV, 5, 4 + ARGV[4])}
local push = ARGV[3] == "first" and "LPUSH" or "RPUSH"
local admitted = 0
for i = 5 + ARGV[4], #ARGV, 3 do
    local id, key = ARGV[i], ARGV[1] .. ARGV[i]
    local state = redis.call("HGET", key, "status") or "absent"
    if string.find(ARGV[2], "|" .. state .. "|", 1, true) then
        for k = 3, #KEYS do
            redis.call("ZREM", KEYS[k], id)
        end
        redis.call("DEL", key)
        redis.call("HSET", key, "data", ARGV[i + 1], "description", ARGV[i + 2], unpack(shared))
        redis.call("SADD", KEYS[2], KEYS[1])
        redis.call(push, KEYS[1], id)
        admitted = admitted + 1
    elseif push == "LPUSH" and redis.call("LREM", KEYS[1], 1, id) == 1 then
        redis.call("LPUSH", KEYS[1], id)
    end
end
return admitted
"""
)

# KEYS: the queue, its list of what was just popped, what will be tried again later, the set of queues, the counter.
# ARGV: what a job's key begins with, what the project's ids begin with, then the fields and values of the job's hash.
_ENQUEUE_NUMBERED = (
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

# KEYS: the job's hash, the queue, the scheduled and the failed jobs. ARGV: the job's id, for how many seconds and until
# when it is remembered, then fields and values for its hash. Only what waits, now or for a further try, is in one of
# the two lists.
_STOP = """
if redis.call("LREM", KEYS[2], 1, ARGV[1]) + redis.call("ZREM", KEYS[3], ARGV[1]) == 0 then
    return 0
end
redis.call("HSET", KEYS[1], unpack(ARGV, 4))
redis.call("EXPIRE", KEYS[1], ARGV[2])
redis.call("ZADD", KEYS[4], ARGV[3], ARGV[1])
return 1
"""

STOPPED = "Stopped by a person."


def enqueue_preannotation(
    connection: Redis, project: int, tasks: Sequence[int], model_version: str, *, first: bool = False
) -> int:
    """One job for each task that has none waiting, running or failed for this model version; how many are new. Raises
    QueueError.

    A task whose job has finished gets a new one, which looks for its result first. A failed one stays as it is until
    `retry_failed`, so that a bad clip is not tried again each time somebody opens its task. `first`: a person waits, so
    it goes to the front, also where it waited already.
    """
    distinct = dict.fromkeys(tasks)
    wanted = [ToPreannotate(project=project, task=task, model_version=model_version) for task in distinct]
    return enqueue(connection, PREANNOTATION, wanted, first=first)


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
    return enqueue_numbered(
        connection, TRAINING, ToTrain(project=project, base_version=base_version, epochs=epochs, also=list(also))
    )


def enqueue(connection: Redis, kind: Kind[Any, Any], wanted: Sequence[Payload], *, first: bool = False) -> int:
    """A job of this kind for each payload, unless there is one already; how many are new. Raises QueueError."""
    with reachable(connection):
        return _admit(connection, kind, wanted, _FOR_A_NEW_JOB, first=first or kind.first)


def enqueue_numbered(connection: Redis, kind: Kind[Any, Any], payload: Payload) -> tuple[str, bool]:
    """The id of the job of this kind that waits for the payload's project, and whether it is new. Raises QueueError."""
    assert payload.subject.project is not None
    with reachable(connection):
        job = _blank(connection, kind)
        _fill(job, kind, payload)
        queue = open_queue(connection, kind.queue.name)
        lists = queue.key, queue.intermediate_queue_key, queue.scheduled_job_registry.key
        script = connection.register_script(_ENQUEUE_NUMBERED)
        fields = flat(job.to_dict() | {"data": zlib.compress(job.data)})
        ids_begin = kind.ids_begin(payload.subject.project)
        id, new = script(keys=[*lists, queue.redis_queues_keys, _COUNTER], args=[JOB, ids_begin, *fields])
    return id.decode(), bool(new)


def retry_failed(connection: Redis, project: int | None = None) -> int:
    """Queue the tasks that failed (of one project, or all) again, with fresh retries; how many. Raises QueueError."""
    with reachable(connection):
        registries = [open_queue(connection, queue.name).failed_job_registry for queue in task_queues()]
        ids = [id for registry in registries for id in registry.get_job_ids(desc=True)]
        return _retry(connection, [job for job in fetch(connection, ids) if _is_of(job, project)])


def retry_job(connection: Redis, id: str) -> bool:
    """Queue one task that has failed or was stopped again; False if it is neither. Raises QueueError."""
    with reachable(connection):
        return bool(_retry(connection, fetch(connection, [id])))


def stop_job(connection: Redis, id: str) -> bool:
    """Stop one job that waits or runs, of whatever queue: it counts as failed; False if it does neither.

    A worker ends a running one within seconds. Raises QueueError.
    """
    with reachable(connection):
        [job] = KnownJob.fetch_many([id], connection, "json")
        if job is None or job.origin not in {queue.name for queue in queues()}:
            return False
        queue = open_queue(connection, job.origin)
        fields = flat(job.failed_fields(STOPPED) | {"status": JobStatus.STOPPED.value})
        keys = [job.key, queue.key, queue.scheduled_job_registry.key, queue.failed_job_registry.key]
        script = connection.register_script(_STOP)
        if script(keys=keys, args=[job.id, FAILURE_TTL, redis_time(connection) + FAILURE_TTL, *fields]):
            return True
        runs = any(now.get_status(refresh=False) == JobStatus.STARTED for now in fetch(connection, [id]))
        return runs and send_stop(connection, job)


def stop_jobs(
    connection: Redis, project: int | None = None, task: int | None = None, *, queue: str = PREANNOTATE
) -> int:
    """Stop all jobs of a queue that wait or run (of one project, one task, or all); how many. Raises QueueError."""
    with reachable(connection):
        jobs = fetch(connection, job_ids(connection, queue))
    return sum(stop_job(connection, job.id) for job in jobs if _is_of(job, project, task))


def is_training(connection: Redis, project: int | None = None) -> bool:
    """Whether a training of the project, or of any, waits or runs. Raises QueueError."""
    with reachable(connection):
        return any(job.payload and _is_of(job, project) for job in fetch(connection, job_ids(connection, TRAIN)))


def job_ids(connection: Redis, name: str, *, ended: bool = False) -> list[str]:
    """Of the jobs of the queue of this name that wait or run, and of those that have ended. RedisError."""
    queue = open_queue(connection, name)
    # All of one moment, for a job may be put back meanwhile.
    with connection.pipeline(transaction=True) as pipe:
        pipe.zrange(queue.started_job_registry.key, 0, -1)
        pipe.zrange(queue.scheduled_job_registry.key, 0, -1)
        pipe.lrange(queue.key, 0, -1)
        pipe.lrange(queue.intermediate_queue_key, 0, -1)
        for registry in (queue.finished_job_registry, queue.failed_job_registry) if ended else ():
            pipe.zrange(registry.key, 0, -1)
        found = pipe.execute()
    return [id_in(entry) for some in found for entry in some]


def _is_of(job: KnownJob, project: int | None, task: int | None = None) -> bool:
    """Whether it is about them; None is any."""
    return project in (None, job.subject.project) and task in (None, job.subject.task)


def send_stop(connection: Redis, job: KnownJob) -> bool:
    """Tell the worker that runs it; False if none does."""
    if job.worker_name:
        send_command(connection, job.worker_name, "stop-job", job_id=job.id)
    return bool(job.worker_name)


def _blank(connection: Redis, kind: Kind[Any, Any]) -> Job:
    """What all jobs of a kind have in common, to be written by a script: a thousand of RQ's own would take a second."""
    job = open_queue(connection, kind.queue.name).create_job(
        kind.name,
        timeout=kind.timeout,
        result_ttl=kind.result_ttl,
        failure_ttl=FAILURE_TTL,
        # No interval here: the worker that sees the failure decides how long to wait.
        retry=Retry(max=RETRIES),
        meta={"protocol": PROTOCOL},
    )
    job.enqueued_at = datetime.now(UTC)
    return job


def _fill(job: Job, kind: Kind[Any, Any], payload: Payload) -> None:
    job.kwargs = payload.model_dump()
    job.description = kind.describe(payload)


def _retry(connection: Redis, jobs: Iterable[KnownJob]) -> int:
    """Those whose id says what they do; a numbered job is asked for anew."""
    wanted: dict[str, list[Payload]] = {}
    for job in jobs:
        if job.kind is not None and job.payload is not None and job.kind.identity is not None:
            wanted.setdefault(job.kind.name, []).append(job.payload)
    return sum(_admit(connection, KINDS[name], payloads, _FOR_A_RETRY) for name, payloads in wanted.items())


def _admit(
    connection: Redis, kind: Kind[Any, Any], wanted: Sequence[Payload], states: Sequence[str], *, first: bool = False
) -> int:
    queue = open_queue(connection, kind.queue.name)
    registries = [queue.finished_job_registry.key, queue.failed_job_registry.key, queue.canceled_job_registry.key]
    keys = [queue.key, queue.redis_queues_keys, *registries]
    script = connection.register_script(_ADMIT)
    admitted = 0
    # Each call is atomic by itself, and between two of them other clients are served.
    for start in range(0, len(wanted), AT_ONCE):
        job = _blank(connection, kind)
        own: list[Any] = []
        for payload in wanted[start : start + AT_ONCE]:
            _fill(job, kind, payload)
            own += [kind.id(payload), zlib.compress(job.data), job.description]
        shared = {name: value for name, value in job.to_dict().items() if name not in {"data", "description"}}
        options: list[Any] = [JOB, f"|{'|'.join(states)}|", "first" if first else "last"]
        admitted += script(keys=keys, args=[*options, 2 * len(shared), *flat(shared), *own])
    return admitted
