"""The queues: their names, the identity of a job, and the few operations that the backend and the commands need.

Tasks to pre-annotate have one queue and trainings (`worker.trainings`) another. A task's job is known by (project,
task, model version). Enqueuing twice is enqueuing once, also for callers at the same moment: the check and the push are
one script inside Redis.
"""

import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry as ConnectionRetry
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation
from rq.job import Job, JobStatus
from rq.worker import BaseWorker

from av2t_core.errors import AV2TError

log = logging.getLogger("av2t.worker")

# A worker listens on one of them: RQ takes a job from a single queue through an intermediate list, so a worker that
# dies right after the pop loses nothing. From two queues it uses BLPOP, which does.
PREANNOTATE = "av2t-preannotate"
TRAIN = "av2t-train"

FUNCTION = "worker.jobs.preannotate"
PROTOCOL = 1
"""What a job's arguments mean, and what workers keep of it in Redis. A worker of another one leaves the job alone."""
RETRIES = 8  # of what can pass: a Label Studio may be away for a quarter of an hour
AT_ONCE = 500  # jobs that are sent to Redis together
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
_ADMIT = """
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

# KEYS: the job's hash, the queue, the scheduled and the failed jobs. ARGV: the job's id, until when it is remembered,
# then the fields and values of its hash. Only what waits, now or for a further try, is in one of the two lists.
_STOP = """
if redis.call("LREM", KEYS[2], 1, ARGV[1]) + redis.call("ZREM", KEYS[3], ARGV[1]) == 0 then
    return 0
end
redis.call("HSET", KEYS[1], unpack(ARGV, 3))
redis.call("ZADD", KEYS[4], ARGV[2], ARGV[1])
return 1
"""

STOPPED = "Stopped by a person."

GPU_MEMORY = "av2t_gpu_memory"
"""A field of ours in RQ's hash of a worker."""


class QueueError(AV2TError):
    """Redis cannot be used now; nothing was lost, and the same call can be made again."""


@dataclass(frozen=True, kw_only=True)
class Enqueued:
    """How many jobs a call added, and for how many tasks there was one already (waiting, running or failed)."""

    new: int
    already: int


def job_id(project: int, task: int, model_version: str) -> str:
    """The id of the job; RQ allows letters, digits, '_' and '-' in it."""
    return f"preannotate-{project}-{task}-{model_version.replace('.', '_')}"


def connect(url: str, *, timeout: float = 0.5) -> Redis:
    """A client that connects on first use and gives up after `timeout` seconds.

    It does not try again by itself: the backend has one second to answer in, and its caller tries again anyway.
    """
    return Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=ConnectionRetry(NoBackoff(), 0)
    )


def redis_address(connection: Redis) -> str:
    """Where the Redis of `connection` is, without user and password."""
    options = connection.connection_pool.connection_kwargs
    if "path" in options:
        return f"unix://{options['path']}"
    return f"{options.get('host', '127.0.0.1')}:{options.get('port', 6379)}/{options.get('db') or 0}"


@contextmanager
def reachable(connection: Redis) -> Iterator[None]:
    """Turn a failure of Redis within the block into a QueueError that says where and why."""
    try:
        yield
    except RedisError as error:
        reason = str(error).rstrip(".") or type(error).__name__
        where = redis_address(connection)
        raise QueueError(f"Redis at {where} cannot be used ({reason}): start it, or set REDIS_URL") from error


@contextmanager
def dispensable(consequence: str) -> Iterator[None]:
    """Let a failure of Redis within the block pass: the log says the consequence, and what was begun goes on."""
    try:
        yield
    except RedisError as error:
        log.warning("%s: %s", consequence, error)


def open_queue(connection: Redis, name: str = PREANNOTATE) -> Queue:
    """The queue, with JSON for its serializer: a job is data, and reading one never runs code as a pickle would."""
    return Queue(name, connection=connection, serializer="json", default_timeout=JOB_TIMEOUT)


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
        chosen = [job for job in failed if project in (None, job.kwargs["project"])]
        return _admit(connection, [_task(job) for job in chosen], _FOR_A_RETRY)


def retry_job(connection: Redis, id: str) -> bool:
    """Queue one task that has failed or was stopped again; False if it is neither. Raises QueueError."""
    with reachable(connection):
        wanted = [_task(job) for job in fetch(connection, [id]) if job.origin == PREANNOTATE]
        return bool(_admit(connection, wanted, _FOR_A_RETRY))


def stop_job(connection: Redis, id: str) -> bool:
    """Stop one job that waits or runs, of whatever queue: it counts as failed; False if it does neither.

    A worker ends a running one within seconds. Raises QueueError.
    """
    with reachable(connection):
        for job in fetch(connection, [id]):
            queue = open_queue(connection, job.origin)
            ended = datetime.now(UTC)
            job.meta["error"], job.ended_at = STOPPED, ended
            fields = flat(job.to_dict() | {"status": JobStatus.STOPPED.value})
            keys = [job.key, queue.key, queue.scheduled_job_registry.key, queue.failed_job_registry.key]
            script = connection.register_script(_STOP)
            if script(keys=keys, args=[job.id, int(ended.timestamp()) + FAILURE_TTL, *fields]):
                return True
            if job.get_status() == JobStatus.STARTED:
                return _send_stop(connection, job)
        return False


def stop_jobs(connection: Redis, project: int | None = None, task: int | None = None) -> int:
    """Stop all tasks that wait or run (of one project, one, or all); how many. Raises QueueError."""
    with reachable(connection):
        jobs = under_way(connection, PREANNOTATE)
    wanted = {"project": project, "task": task}
    chosen = [job for job in jobs if all(value in (None, job.kwargs[name]) for name, value in wanted.items())]
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
        registries = queue.scheduled_job_registry, queue.failed_job_registry
        listed = queue.get_job_ids() + [each for some in registries for each in some.get_job_ids(cleanup=False)]
        ids = [each for each in listed if each.split("-", 3)[2] in gone_tasks]
        with connection.pipeline() as pipe:
            for each in ids:
                pipe.lrem(queue.key, 1, each)
                for some in registries:
                    pipe.zrem(some.key, each)
            removed = pipe.execute()
        # A worker may have taken one in between: then no list held it any more, and it is left to that worker.
        gone = [each for n, each in enumerate(ids) if any(removed[3 * n : 3 * n + 3])]
        if gone:
            connection.delete(*(Job.key_for(each) for each in gone))
        started = queue.started_job_registry.get_job_ids(cleanup=False)
        running = fetch(connection, [each for each in started if each.split("-", 3)[2] in gone_tasks])
        for job in running:
            connection.set(gone_key(job.id), 1, ex=60)
        return len(gone) + sum(_send_stop(connection, job) for job in running)


def gone_key(id: str) -> str:
    """Where it is noted that a job is stopped because its task is gone."""
    return f"av2t:gone:{id}"


def note_gpu_memory(connection: Redis, worker: str, size: int) -> None:
    """For the worker of this name. RedisError."""
    connection.hset(f"{BaseWorker.redis_worker_namespace_prefix}{worker}", GPU_MEMORY, size)


def fetch(connection: Redis, ids: Sequence[str]) -> list[Job]:
    """Those of these jobs that there are, in this order. RedisError."""
    # A registry may name a job twice (one entry for each execution) or one that has expired since.
    jobs = Job.fetch_many(list(dict.fromkeys(ids)), connection=connection, serializer="json")
    return [job for job in jobs if job is not None]


def now_of(connection: Redis) -> int:
    """Seconds since the epoch by Redis's clock, which is the same for all workers. RedisError."""
    seconds, _ = connection.time()
    return int(seconds)


def under_way(connection: Redis, name: str) -> list[Job]:
    """The jobs of the queue of this name that wait, also for a further try, or run. RedisError."""
    return fetch(connection, job_ids(connection, name))


def job_ids(connection: Redis, name: str, *, ended: bool = False) -> list[str]:
    """Of the jobs of the queue of this name that wait or run, and of those that have ended. RedisError."""
    queue = open_queue(connection, name)
    started = queue.started_job_registry
    # All of one moment, for a job may be put back meanwhile.
    with connection.pipeline(transaction=True) as pipe:
        pipe.zrange(started.key, 0, -1)
        pipe.zrange(queue.scheduled_job_registry.key, 0, -1)
        pipe.lrange(queue.key, 0, -1)
        pipe.lrange(queue.intermediate_queue_key, 0, -1)
        for registry in (queue.finished_job_registry, queue.failed_job_registry) if ended else ():
            pipe.zrange(registry.key, 0, -1)
        executions, *others = pipe.execute()
    return [*map(started.parse_job_id, executions), *(id.decode() for some in others for id in some)]


def flat(fields: Mapping[str, Any]) -> list[Any]:
    """A hash's fields and values, as HSET takes them."""
    return [part for field in fields.items() for part in field]


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


def _send_stop(connection: Redis, job: Job) -> bool:
    """Tell the worker that runs it; False if none does any more."""
    with suppress(InvalidJobOperation):  # its worker has just put it down
        send_stop_job_command(connection, job.id, serializer=job.serializer)
        return True
    return False


def _task(job: Job) -> tuple[int, int, str]:
    return job.kwargs["project"], job.kwargs["task"], job.kwargs["model_version"]


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
        admitted += script(keys=keys, args=[*options, 2 * len(shared), *flat(shared), *own])
    return admitted
