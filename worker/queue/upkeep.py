"""Jobs that no list knows, and those of deleted tasks. What workers do for their queue's lists is in `rq_worker`."""

import logging
from collections.abc import Collection, Sequence
from typing import Any

from redis import Redis
from rq.job import JobStatus

from worker.queue import KINDS
from worker.queue.connection import AT_ONCE, reachable, read_hashes, redis_time
from worker.queue.job import CHECKPOINT, FAILURE_TTL, JOB, OLD_RESULTS, fetch, id_in, open_queue
from worker.queue.kind import DAY
from worker.queue.queue import job_ids, send_stop
from worker.queue.results import SHEET

log = logging.getLogger("av2t.worker")

REPAIR_EVERY = 600  # seconds between two repairs of a queue, by whichever of its workers

_FAILED = {JobStatus.FAILED.value, JobStatus.STOPPED.value}
_OVER = {JobStatus.FINISHED.value, JobStatus.CANCELED.value}
_ENDS = {CHECKPOINT: DAY, SHEET: DAY, f"{OLD_RESULTS}preannotate-": FAILURE_TTL}
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
    suspects: set[str] = set()
    cursor = None
    while cursor != 0:
        cursor, keys = connection.scan(cursor or 0, count=AT_ONCE)
        # Nothing decodes for us.
        names = [str(key, errors="replace") for key in keys if isinstance(key, bytes)]
        suspects |= _suspects(connection, name, names, listed)
    # What was queued since is listed now; of the others the script makes certain.
    lost = sorted(suspects.difference(job_ids(connection, name)))
    script = connection.register_script(_RETURN)
    lists = queue.key, queue.intermediate_queue_key, queue.started_job_registry.key, queue.scheduled_job_registry.key
    returned = 0
    for start in range(0, len(lost), AT_ONCE):
        returned += script(keys=[*lists, queue.redis_queues_keys], args=[JOB, *lost[start : start + AT_ONCE]])
    if returned or dropped:
        log.warning("%s: %d jobs were in no list and wait again, %d entries had no job", name, returned, dropped)
    return returned


def _suspects(connection: Redis, name: str, keys: Collection[str], listed: Collection[str]) -> set[str]:
    """Of these keys, the ids of the jobs that wait or run and are in no list. What has ended is put right at once, and
    so is what a heartbeat leaves of a job that was deleted."""
    ends = {key: seconds for key in keys for start, seconds in _ENDS.items() if key.startswith(start)}
    jobs = [key for key in keys if key.startswith(JOB)]
    ours = tuple(f"{kind.prefix}-" for kind in KINDS.values())
    suspects, failed = set(), []
    for key, fields in zip(jobs, read_hashes(connection, jobs, ["status", "origin", "data"]), strict=True):
        if fields is None:  # no hash, and so nothing of ours
            continue
        id = key.removeprefix(JOB)
        status, origin = (fields.get(name, b"").decode(errors="replace") for name in ("status", "origin"))
        if not fields.get("data") and not origin and id.startswith(ours):
            connection.delete(key)
        elif origin != name or id in listed:
            continue
        elif status in _FAILED:
            failed.append(id)
            ends[key] = FAILURE_TTL
        elif status in _OVER:
            ends[key] = DAY
        else:
            suspects.add(id)
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
