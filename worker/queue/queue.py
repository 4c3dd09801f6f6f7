"""The queues: their names, the identity of a job, and the few operations that the backend and the commands need.

Tasks to pre-annotate have one queue and trainings (`trainings`) another. A task's job is known by (project,
task, model version). Enqueuing twice is enqueuing once, also for callers at the same moment: the check and the push are
one script inside Redis.
"""

import json
import re
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from rq import Retry
from rq.command import send_command
from rq.job import Job, JobStatus
from rq.utils import utcformat
from rq.worker import BaseWorker

from worker.queue.connection import FULL, IF_ROOM, FullError, flat, reachable, redis_time
from worker.queue.kinds import KINDS, ToPreannotate
from worker.queue.kinds import PREANNOTATE as PREANNOTATE
from worker.queue.kinds import TRAIN as TRAIN
from worker.queue.known_job import AT_ONCE, KnownJob, KnownQueue
from worker.queue.known_job import PROTOCOL as PROTOCOL

FUNCTION = "worker.jobs.preannotate"
RETRIES = 8  # of what can pass: a Label Studio may be away for a quarter of an hour
# A worker listens on one of them: RQ takes a job from a single queue through an intermediate list, so a worker that
# dies right after the pop loses nothing. From two queues it uses BLPOP, which does.
QUEUES = tuple(dict.fromkeys(kind.queue for kind in KINDS.values()))
# Only an upper bound for a worker that hangs: an hour of video takes minutes.
JOB_TIMEOUT = 6 * 3600
RESULT_TTL = 24 * 3600
FAILURE_TTL = 30 * 24 * 3600

# The states of an id in which it may be taken. "absent" is ours, the others are RQ's.
_FOR_A_NEW_JOB = ("absent", JobStatus.FINISHED, JobStatus.CANCELED, JobStatus.STOPPED)
_FOR_A_RETRY = (JobStatus.FAILED, JobStatus.STOPPED)

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

DROP_AT_ONCE = 10_000
"""Entries of a list that one call looks at: some milliseconds, for which Redis serves nobody else."""

# KEYS: a list of ids, or a registry. ARGV: what the jobs' keys begin with, how many entries were looked at and kept,
# how many to look at now, and the tasks of which nothing is to be left; without tasks, it is the ids that have no job.
# A list is looked at from its end, so that what workers take meanwhile moves nothing, and what goes is marked and
# removed in one go, for each LREM passes over the whole list.
_DROP = """
local tasks, looked, most = {}, tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 4, #ARGV do
    tasks[ARGV[i]] = true
end
local is_list = redis.call("TYPE", KEYS[1]).ok == "list"
local ids
if is_list then
    ids = redis.call("LRANGE", KEYS[1], -looked - most, -looked - 1)
else
    ids = redis.call("ZRANGE", KEYS[1], looked, looked + most - 1)
end
local dropped = 0
for i, id in ipairs(ids) do
    local gone
    if #ARGV > 3 then
        gone = tasks[string.match(id, "^preannotate%-%d+%-(%d+)%-") or ""]
    else
        gone = redis.call("EXISTS", ARGV[1] .. id) == 0
    end
    if gone then
        dropped = dropped + 1
        redis.call("DEL", ARGV[1] .. id, "rq:results:" .. id, "av2t:kept:" .. id, "av2t:sheet:" .. id)
        if is_list then
            redis.call("LSET", KEYS[1], i - 1 - #ids - looked, "")
        else
            redis.call("ZREM", KEYS[1], id)
        end
    end
end
if is_list and dropped > 0 then
    redis.call("LREM", KEYS[1], -dropped, "")
end
return {#ids, dropped}
"""

STOPPED = "Stopped by a person."

GPU_MEMORY = "av2t_gpu_memory"
"""A field of ours in RQ's hash of a worker."""


@dataclass(frozen=True, kw_only=True)
class Enqueued:
    """How many jobs a call added, and for how many tasks there was one already (waiting, running or failed)."""

    new: int
    already: int


def job_id(project: int, task: int, model_version: str) -> str:
    """The id of the job; RQ allows letters, digits, '_' and '-' in it."""
    return f"preannotate-{project}-{task}-{model_version.replace('.', '_')}"


def open_queue(connection: Redis, name: str = PREANNOTATE) -> KnownQueue:
    """The queue, with JSON for its serializer: a job is data, and reading one never runs code as a pickle would."""
    return KnownQueue(name, connection=connection, serializer="json", default_timeout=JOB_TIMEOUT)


def enqueue_preannotation(
    connection: Redis, project: int, tasks: Sequence[int], model_version: str, *, first: bool = False
) -> Enqueued:
    """One job for each task that has none waiting, running or failed for this model version. Raises QueueError.

    A task whose job has finished gets a new one, which looks for its result first. A failed one stays as it is until
    `retry_failed`, so that a bad clip is not tried again each time somebody opens its task. `first`: a person waits, so
    it goes to the front, also where it waited already.
    """
    wanted = [(project, task, model_version) for task in dict.fromkeys(tasks)]
    with reachable(connection):
        new = _admit(connection, wanted, _FOR_A_NEW_JOB, first=first)
    return Enqueued(new=new, already=len(tasks) - new)


def retry_failed(connection: Redis, project: int | None = None) -> int:
    """Queue the tasks that failed (of one project, or all) again, with fresh retries; how many. Raises QueueError."""
    with reachable(connection):
        failed = fetch(connection, open_queue(connection).failed_job_registry.get_job_ids(desc=True))
        chosen = [task for task in _tasks(failed) if project in (None, task[0])]
        return _admit(connection, chosen, _FOR_A_RETRY)


def retry_job(connection: Redis, id: str) -> bool:
    """Queue one task that has failed or was stopped again; False if it is neither. Raises QueueError."""
    with reachable(connection):
        return bool(_admit(connection, _tasks(fetch(connection, [id])), _FOR_A_RETRY))


def stop_job(connection: Redis, id: str) -> bool:
    """Stop one job that waits or runs, of whatever queue: it counts as failed; False if it does neither.

    A worker ends a running one within seconds. Raises QueueError.
    """
    with reachable(connection):
        for job in fetch(connection, [id]):
            if job.origin not in QUEUES:
                return False
            queue = open_queue(connection, job.origin)
            fields = flat(failed(job, STOPPED) | {"status": JobStatus.STOPPED.value})
            keys = [job.key, queue.key, queue.scheduled_job_registry.key, queue.failed_job_registry.key]
            script = connection.register_script(_STOP)
            if script(keys=keys, args=[job.id, FAILURE_TTL, redis_time(connection) + FAILURE_TTL, *fields]):
                return True
            if any(now.get_status(refresh=False) == JobStatus.STARTED for now in fetch(connection, [id])):
                return _send_stop(connection, job)
        return False


def stop_jobs(connection: Redis, project: int | None = None, task: int | None = None) -> int:
    """Stop all tasks that wait or run (of one project, one, or all); how many. Raises QueueError."""
    with reachable(connection):
        jobs = under_way(connection, PREANNOTATE)
    wanted = {"project": project, "task": task}
    chosen = [job for job in jobs if all(n in (None, getattr(job.arguments, name, None)) for name, n in wanted.items())]
    return sum(stop_job(connection, job.id) for job in chosen)


def forget_tasks(connection: Redis, tasks: Sequence[int]) -> int:
    """Drop the jobs of tasks that are gone, whether they wait, run or have failed; how many. Of a running one nothing
    is left once its worker has ended it, within seconds.

    A task's id is unique in all of Label Studio, and where several are deleted at once no project is named. Raises
    QueueError.
    """
    gone_tasks = {str(task) for task in tasks}
    with reachable(connection):
        queue = open_queue(connection)
        keys = queue.key, queue.scheduled_job_registry.key, queue.failed_job_registry.key
        gone = sum(drop(connection, key, gone_tasks) for key in keys) if gone_tasks else 0
        started = map(id_in, connection.zrange(queue.started_job_registry.key, 0, -1))
        running = fetch(connection, [each for each in started if _task_in(each) in gone_tasks])
        for job in running:
            connection.set(gone_key(job.id), 1, ex=60)
        return gone + sum(_send_stop(connection, job) for job in running)


def forget_finished(connection: Redis, name: str, most: int) -> int:
    """So many jobs of the queue of this name that ended well, the oldest first; how many there were. RedisError."""
    registry = open_queue(connection, name).finished_job_registry.key
    entries: list[Any] = list(connection.zrange(registry, 0, most - 1))
    with connection.pipeline() as pipe:
        for entry in entries:
            pipe.delete(Job.key_for(id_in(entry)))
            pipe.zrem(registry, entry)
        pipe.execute()
    return len(entries)


def drop(connection: Redis, key: str, tasks: Collection[str] = ()) -> int:
    """Take the jobs of these tasks, or without tasks those that there are no more, out of a list or a registry,
    together with all that is kept of them; how many. RedisError."""
    script = connection.register_script(_DROP)
    seen, gone, dropped, kept = DROP_AT_ONCE, 0, 0, 0
    while seen == DROP_AT_ONCE:
        # Each call is atomic by itself, and between two of them other clients are served.
        seen, gone = script(keys=[key], args=[Job.key_for(""), kept, DROP_AT_ONCE, *tasks])
        dropped, kept = dropped + gone, kept + seen - gone
    return dropped


def gone_key(id: str) -> str:
    """Where it is noted that a job is stopped because its task is gone."""
    return f"av2t:gone:{id}"


def note_gpu_memory(connection: Redis, worker: str, size: int) -> None:
    """For the worker of this name. RedisError."""
    connection.hset(f"{BaseWorker.redis_worker_namespace_prefix}{worker}", GPU_MEMORY, size)


def fetch(connection: Redis, ids: Sequence[str]) -> list[KnownJob]:
    """Those of these jobs that there are, in this order. RedisError."""
    # A registry may name a job twice (one entry for each execution) or one that has expired since.
    jobs = KnownJob.fetch_many(list(dict.fromkeys(ids)), connection=connection, serializer="json")
    return [job for job in jobs if job is not None]


def failed(job: KnownJob, sentence: str) -> dict[str, str]:
    """What the hash of a job has once it has failed, and says why."""
    meta = json.dumps(job.meta | {"error": sentence})
    return {"status": JobStatus.FAILED.value, "meta": meta, "ended_at": utcformat(datetime.now(UTC))}


def under_way(connection: Redis, name: str) -> list[KnownJob]:
    """The jobs of the queue of this name that wait, also for a further try, or run. RedisError."""
    return fetch(connection, job_ids(connection, name))


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


def id_in(entry: Any) -> str:
    """The job's id in an entry (bytes) of a list or a registry; behind those of jobs that run, an execution's is."""
    return str(entry, errors="replace").partition(":")[0]


def blank_job(
    connection: Redis, queue: str, function: str, *, timeout: int = JOB_TIMEOUT, result_ttl: int = RESULT_TTL
) -> Job:
    """What all jobs of a queue have in common, to be written by a script of ours: a thousand of RQ's own would take a
    second to make."""
    job = open_queue(connection, queue).create_job(
        function,
        timeout=timeout,
        result_ttl=result_ttl,
        failure_ttl=FAILURE_TTL,
        # No interval here: the worker that sees the failure decides how long to wait.
        retry=Retry(max=RETRIES),
        meta={"protocol": PROTOCOL},
    )
    job.enqueued_at = datetime.now(UTC)
    return job


def _task_in(id: str) -> str:
    """The task of a job's id, "" if it has none."""
    match = re.match(r"preannotate-\d+-(\d+)-", id)
    return match[1] if match else ""


def _send_stop(connection: Redis, job: KnownJob) -> bool:
    """Tell the worker that runs it; False if none does."""
    if job.worker_name:
        send_command(connection, job.worker_name, "stop-job", job_id=job.id)
    return bool(job.worker_name)


def _tasks(jobs: Iterable[KnownJob]) -> list[tuple[int, int, str]]:
    """Of those that pre-annotate one."""
    asked = [job.arguments for job in jobs]
    return [(each.project, each.task, each.model_version) for each in asked if isinstance(each, ToPreannotate)]


def _admit(
    connection: Redis, wanted: Sequence[tuple[int, int, str]], states: Sequence[str], *, first: bool = False
) -> int:
    queue = open_queue(connection)
    registries = [queue.finished_job_registry.key, queue.failed_job_registry.key, queue.canceled_job_registry.key]
    keys = [queue.key, queue.redis_queues_keys, *registries]
    script = connection.register_script(_ADMIT)
    admitted = 0
    # Each call is atomic by itself, and between two of them other clients are served.
    for start in range(0, len(wanted), AT_ONCE):
        job = blank_job(connection, PREANNOTATE, FUNCTION)
        own: list[Any] = []
        for project, task, model_version in wanted[start : start + AT_ONCE]:
            job.kwargs = {"project": project, "task": task, "model_version": model_version}
            description = f"pre-annotate task {task} of project {project} with {model_version}"
            own += [job_id(project, task, model_version), zlib.compress(job.data), description]
        shared = {name: value for name, value in job.to_dict().items() if name not in {"data", "description"}}
        options: list[Any] = [Job.key_for(""), f"|{'|'.join(states)}|", "first" if first else "last"]
        taken = script(keys=keys, args=[*options, 2 * len(shared), *flat(shared), *own])
        if taken == FULL:
            raise FullError(connection)
        admitted += taken
    return admitted
