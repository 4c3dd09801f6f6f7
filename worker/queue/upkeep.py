"""A queue in order: the jobs of workers that fell silent, those that nobody began, those that are due again, those that
no list knows, and those of deleted tasks.

RQ has the first three, too. But its own holds a lock for 15 minutes if the worker dies in between, returns what nobody
began only after a minute, takes each machine's clock for all machines', and has a process for what is due that outlives
a killed worker.
"""

import logging
import re
import time
from collections.abc import Collection, Sequence
from threading import Event, Thread
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq.job import JobStatus
from rq.worker import BaseWorker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from av2t_core.errors import AV2TError
from worker.queue import KINDS
from worker.queue.connection import LEASE, connect, reachable, redis_time
from worker.queue.job import CHECKPOINT, FAILURE_TTL, JOB, OLD_RESULTS, KnownJob, KnownQueue, fetch, id_in, open_queue
from worker.queue.kind import DAY
from worker.queue.queue import job_ids, send_stop
from worker.queue.results import SHEET

log = logging.getLogger("av2t.worker")

EVERY = 5  # seconds between two rounds of housekeeping
STRANDED = 10  # seconds after which a job that was popped and never begun goes back
REPAIR_EVERY = 600  # seconds between two repairs of a queue, by whichever of its workers
REPAIR_LOOK = 15  # seconds between two looks at whether it is time
AT_ONCE = 1000  # keys

_RUNS = re.compile(rb"[\w-]+:[\w-]+")  # a job's id and its execution's
_FAILED = {JobStatus.FAILED.value, JobStatus.STOPPED.value}
_OVER = {JobStatus.FINISHED.value, JobStatus.CANCELED.value}
_ENDS = {CHECKPOINT.encode(): DAY, SHEET.encode(): DAY, f"{OLD_RESULTS}preannotate-".encode(): FAILURE_TTL}
"""Keys of ours that must have an end, and in how many seconds."""

# KEYS: what must have an end. ARGV: in how many seconds, if it has none.
_END = """
for i, key in ipairs(KEYS) do
    if redis.call("TTL", key) == -1 then
        redis.call("EXPIRE", key, ARGV[i])
    end
end
"""

# KEYS: the queue, its list of what was just popped, the jobs that run, those of later, the set of queues. ARGV: what
# the jobs' keys begin with, then ids. Only here it is certain that a job is in no list, for nobody moves it meanwhile.
_RETURN = """
local known = {}
for i, read in ipairs({"LRANGE", "LRANGE", "ZRANGE", "ZRANGE"}) do
    for _, entry in ipairs(redis.call(read, KEYS[i], 0, -1)) do
        known[string.match(entry, "^[^:]*")] = true
    end
end
local ended = {finished = true, failed = true, stopped = true, canceled = true}
local returned = 0
for i = 2, #ARGV do
    local state = redis.call("HMGET", ARGV[1] .. ARGV[i], "status", "data")
    if state[2] and not known[ARGV[i]] and not ended[state[1]] then
        redis.call("HSET", ARGV[1] .. ARGV[i], "status", "queued")
        redis.call("PERSIST", ARGV[1] .. ARGV[i])
        redis.call("SADD", KEYS[5], KEYS[1])
        redis.call("RPUSH", KEYS[1], ARGV[i])
        returned = returned + 1
    end
end
return returned
"""

DROP_AT_ONCE = 10_000
"""Entries of a list that one call looks at: some milliseconds, for which Redis serves nobody else."""

# KEYS: a list of ids, or a registry. ARGV: what the jobs' keys begin with, how many entries were looked at and kept,
# how many to look at now, the beginnings of the keys of what a job leaves as |a|b|, the pattern of a task in an id, and
# the tasks of which nothing is to be left; without tasks, it is the ids that have no job.
# A list is looked at from its end, so that what workers take meanwhile moves nothing, and what goes is marked and
# removed in one go, for each LREM passes over the whole list.
_DROP = """
local tasks, looked, most = {}, tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 6, #ARGV do
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
    if #ARGV > 5 then
        gone = tasks[string.match(id, ARGV[5]) or ""]
    else
        gone = redis.call("EXISTS", ARGV[1] .. id) == 0
    end
    if gone then
        dropped = dropped + 1
        redis.call("DEL", ARGV[1] .. id)
        for start in string.gmatch(ARGV[4], "[^|]+") do
            redis.call("DEL", start .. id)
        end
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


class Housekeeping:
    """What each worker does for all workers of its queue, one at a time."""

    def __init__(self, queue: KnownQueue, worker_name: str) -> None:
        self._queue, self._worker_name = queue, worker_name
        self._looked: float | None = None
        self._stranded: dict[bytes, float] = {}  # id of a popped job that nobody runs -> when it was first seen

    @property
    def is_due(self) -> bool:
        return self._looked is None or time.monotonic() - self._looked > EVERY

    def run(self) -> None:
        """Nothing to do while another worker is at it. RedisError."""
        queue, connection = self._queue, self._queue.connection
        if connection.set(f"{queue.name}:maintenance", self._worker_name, nx=True, ex=2 * LEASE):
            self._drop_what_does_not_run()
            queue.started_job_registry.cleanup(redis_time(connection), [_note_lost_worker])
            queue.finished_job_registry.cleanup()
            queue.failed_job_registry.cleanup()
            self._forget_workers()
            self._return_stranded()
            self._enqueue_due()
            connection.delete(f"{queue.name}:maintenance")
        self._looked = time.monotonic()

    def _drop_what_does_not_run(self) -> None:
        """RQ's own ends its worker over an entry that is none."""
        registry = self._queue.started_job_registry.key
        for entry in self._queue.connection.zrange(registry, 0, -1):
            if not _RUNS.fullmatch(entry):
                self._queue.connection.zrem(registry, entry)

    def _forget_workers(self) -> None:
        """Of which nothing is left; RQ's own ends its worker over a name that is none."""
        connection, listed = self._queue.connection, WORKERS_BY_QUEUE_KEY % self._queue.name
        for key in connection.smembers(listed):
            if not connection.exists(key):
                connection.srem(listed, key)
                connection.srem(BaseWorker.redis_workers_keys, key)

    def _return_stranded(self) -> None:
        """Back into the queue with what a worker popped and, dying, never began."""
        queue, clock = self._queue, time.monotonic()
        started = set(map(id_in, queue.connection.zrange(queue.started_job_registry.key, 0, -1)))
        entries = queue.connection.lrange(queue.intermediate_queue_key, 0, -1)
        popped = [entry for entry in entries if id_in(entry) not in started]
        self._stranded = {entry: self._stranded.get(entry, clock) for entry in popped}
        for entry, since in self._stranded.items():
            job = queue.look_up(entry)
            if job is not None and clock - since < STRANDED:
                continue
            waits = job is not None and (job.get_status(refresh=False) == JobStatus.QUEUED or job.refusal)
            with queue.connection.pipeline() as pipeline:
                pipeline.lrem(queue.intermediate_queue_key, 0, entry)
                pipeline.lrem(queue.key, 0, entry)
                if waits:
                    pipeline.lpush(queue.key, entry)
                pipeline.execute()

    def _enqueue_due(self) -> None:
        """What was to be tried again later, and now is later."""
        queue = self._queue
        registry = queue.scheduled_job_registry
        for entry in queue.connection.zrangebyscore(registry.key, "-inf", redis_time(queue.connection)):
            job = queue.look_up(entry)
            with queue.connection.pipeline() as pipeline:
                if job is not None:
                    queue.enqueue_job(job, pipeline=pipeline)
                pipeline.zrem(registry.key, entry)
                pipeline.execute()


def _note_lost_worker(job: KnownJob, *_: Any) -> None:
    """RQ calls this for a job whose worker fell silent, before it queues or fails it."""
    job.note(error="The worker was lost while it ran this.")
    job.retry_intervals = None  # those of an earlier try; this one is made at once
    log.warning("job %s: its worker was lost", job.id)


class Repairer(Thread):
    """In every worker one, beside its jobs; one repair of a queue at a time."""

    def __init__(self, redis_url: str, queue: str) -> None:
        super().__init__(name="av2t-repair", daemon=True)
        self._redis_url, self._queue = redis_url, queue
        self._stopped = Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        connection = connect(self._redis_url, timeout=10)
        while not self._stopped.wait(REPAIR_LOOK):
            try:
                with reachable(connection):
                    if connection.set(f"av2t:repaired:{self._queue}", "", nx=True, ex=REPAIR_EVERY):
                        repair(connection, self._queue)
            except AV2TError as error:
                log.warning("looking for jobs that no list knows: %s", error)


def repair(connection: Redis, name: str) -> int:
    """Put right what a call that was cut off, or a person at Redis, has left of a queue's jobs; how many waited in
    vain. RedisError.

    Entries of lists without a job go; jobs that are in no list, and so would never be done, go back into the queue;
    those that have failed are listed as such; what must have an end gets one.
    """
    queue = open_queue(connection, name)
    registries = queue.scheduled_job_registry, queue.failed_job_registry, queue.finished_job_registry
    dropped = sum(drop(connection, key) for key in (queue.key, *(each.key for each in registries)))
    listed = set(job_ids(connection, name))
    suspects: list[str] = []
    cursor = None
    while cursor != 0:
        cursor, keys = connection.scan(cursor or 0, count=AT_ONCE)
        # Nothing decodes for us.
        suspects += _suspects(connection, name, [key for key in keys if isinstance(key, bytes)], listed)
    # What was queued since is listed now; of the others the script makes certain.
    listed = set(job_ids(connection, name)) if suspects else set()
    suspects = [each for each in dict.fromkeys(suspects) if each not in listed]
    script = connection.register_script(_RETURN)
    lists = queue.key, queue.intermediate_queue_key, queue.started_job_registry.key, queue.scheduled_job_registry.key
    returned = 0
    for start in range(0, len(suspects), AT_ONCE):
        returned += script(keys=[*lists, queue.redis_queues_keys], args=[JOB, *suspects[start : start + AT_ONCE]])
    if returned or dropped:
        log.warning("%s: %d jobs were in no list and wait again, %d entries had no job", name, returned, dropped)
    return returned


def _suspects(connection: Redis, name: str, keys: Collection[bytes], listed: Collection[str]) -> list[str]:
    """Of these keys, the ids of the jobs that wait or run and are in no list. What has ended is put right at once, and
    so is what a heartbeat leaves of a job that was deleted."""
    ends: dict[bytes, int] = {key: seconds for key in keys for start, seconds in _ENDS.items() if key.startswith(start)}
    jobs = [key for key in keys if key.startswith(JOB.encode())]
    with connection.pipeline(transaction=False) as pipe:
        for key in jobs:
            pipe.hmget(key, "status", "origin", "data")
        found = pipe.execute(raise_on_error=False)
    ours = tuple(f"{kind.prefix}-" for kind in KINDS.values())
    suspects: list[str] = []
    failed: list[str] = []
    for key, values in zip(jobs, found, strict=True):
        if isinstance(values, RedisError):  # no hash, and so nothing of ours
            continue
        id = key.decode(errors="replace").removeprefix(JOB)
        status, origin, data = (value.decode(errors="replace") if value else "" for value in values)
        if not data and not origin and id.startswith(ours):
            connection.delete(key)
        elif origin != name or id in listed:
            continue
        elif status in _FAILED:
            failed.append(id)
            ends[key] = FAILURE_TTL
        elif status in _OVER:
            ends[key] = DAY
        else:
            suspects.append(id)
    if failed:
        registry = open_queue(connection, name).failed_job_registry.key
        connection.zadd(registry, dict.fromkeys(failed, redis_time(connection) + FAILURE_TTL), nx=True)
    if ends:
        connection.register_script(_END)(keys=list(ends), args=list(ends.values()))
    return suspects


def forget_tasks(connection: Redis, tasks: Sequence[int]) -> int:
    """Drop the jobs of tasks that are gone, whether they wait, run or have failed; how many. Of a running one nothing
    is left once its worker has ended it, within seconds.

    A task's id is unique in all of Label Studio, and where several are deleted at once no project is named. Raises
    QueueError.
    """
    gone_tasks = {str(task) for task in tasks}
    if not gone_tasks:
        return 0
    gone = 0
    with reachable(connection):
        for kind in {(kind.queue.name, kind.prefix): kind for kind in KINDS.values()}.values():
            queue = open_queue(connection, kind.queue.name)
            for key in (queue.key, queue.scheduled_job_registry.key, queue.failed_job_registry.key):
                gone += drop(connection, key, gone_tasks, kind.task_pattern)
            started = map(id_in, connection.zrange(queue.started_job_registry.key, 0, -1))
            running = fetch(connection, [each for each in started if kind.task_in(each) in gone_tasks])
            for job in running:
                connection.set(gone_key(job.id), 1, ex=60)
            gone += sum(send_stop(connection, job) for job in running)
    return gone


def forget_finished(connection: Redis, name: str, most: int) -> int:
    """So many jobs of the queue of this name that ended well, the oldest first; how many there were. RedisError."""
    registry = open_queue(connection, name).finished_job_registry.key
    entries: list[Any] = list(connection.zrange(registry, 0, most - 1))
    with connection.pipeline() as pipe:
        for entry in entries:
            pipe.delete(JOB + id_in(entry))
            pipe.zrem(registry, entry)
        pipe.execute()
    return len(entries)


def drop(connection: Redis, key: str, tasks: Collection[str] = (), pattern: str = "") -> int:
    """Take the jobs of these tasks, or without tasks those that there are no more, out of a list or a registry,
    together with all that they left; how many. `pattern`: `Kind.task_pattern`. RedisError."""
    script = connection.register_script(_DROP)
    left = "|".join([OLD_RESULTS, CHECKPOINT, SHEET])
    seen, gone, dropped, kept = DROP_AT_ONCE, 0, 0, 0
    while seen == DROP_AT_ONCE:
        # Each call is atomic by itself, and between two of them other clients are served.
        seen, gone = script(keys=[key], args=[JOB, kept, DROP_AT_ONCE, left, pattern, *tasks])
        dropped, kept = dropped + gone, kept + seen - gone
    return dropped


def gone_key(id: str) -> str:
    """Where it is noted that a job is stopped because its task is gone."""
    return f"av2t:gone:{id}"
