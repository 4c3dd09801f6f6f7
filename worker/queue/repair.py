"""States of jobs that no list knows, as a call that was cut off or a person at Redis leaves them: found and put right.

A job that waits or runs is in one of its queue's lists; one that is in none would never be done, and its task, sent
again, would count as there already.
"""

import logging
from collections.abc import Collection
from threading import Event, Thread

from redis import Redis
from redis.exceptions import RedisError
from rq.job import Job, JobStatus

from av2t_core.errors import AV2TError
from worker.queue.connection import connect, reachable, redis_time
from worker.queue.queue import FAILURE_TTL, RESULT_TTL, drop, job_ids, open_queue
from worker.settings import Settings

log = logging.getLogger("av2t.worker")

EVERY = 600  # seconds between two looks at a queue, by whichever of its workers
LOOK = 15  # seconds between two looks at whether it is time
AT_ONCE = 1000  # keys

_FAILED = {JobStatus.FAILED.value, JobStatus.STOPPED.value}
_OVER = {JobStatus.FINISHED.value, JobStatus.CANCELED.value}
_ENDS = {b"av2t:kept:": 24 * 3600, b"av2t:sheet:": 24 * 3600, b"rq:results:preannotate-": FAILURE_TTL}
"""Keys of ours that must have an end, and in how many seconds."""

_JOB = Job.key_for("").encode()

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


class Repairer(Thread):
    """In every worker one, beside its jobs; one of a queue's looks at a time."""

    def __init__(self, settings: Settings, queue: str) -> None:
        super().__init__(name="av2t-repair", daemon=True)
        self._settings, self._queue = settings, queue
        self._stopped = Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        connection = connect(self._settings.redis_url, timeout=10)
        while not self._stopped.wait(LOOK):
            try:
                with reachable(connection):
                    if connection.set(f"av2t:repaired:{self._queue}", "", nx=True, ex=EVERY):
                        repair(connection, self._queue)
            except AV2TError as error:
                log.warning("looking for jobs that no list knows: %s", error)


def repair(connection: Redis, name: str) -> int:
    """Put right what is wrong with the jobs of a queue; how many waited in vain. RedisError.

    Entries of lists without a job go; jobs that are in no list go back into the queue; those that have failed are
    listed as such; what must have an end gets one.
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
        suspects += _looked_at(connection, name, [key for key in keys if isinstance(key, bytes)], listed)
    # What was queued since is listed now; of the others the script makes certain.
    listed = set(job_ids(connection, name)) if suspects else set()
    suspects = [each for each in dict.fromkeys(suspects) if each not in listed]
    script = connection.register_script(_RETURN)
    lists = queue.key, queue.intermediate_queue_key, queue.started_job_registry.key, queue.scheduled_job_registry.key
    returned = 0
    for start in range(0, len(suspects), AT_ONCE):
        wanted = suspects[start : start + AT_ONCE]
        returned += script(keys=[*lists, queue.redis_queues_keys], args=[Job.key_for(""), *wanted])
    if returned or dropped:
        log.warning("%s: %d jobs were in no list and wait again, %d entries had no job", name, returned, dropped)
    return returned


def _looked_at(connection: Redis, name: str, keys: Collection[bytes], listed: Collection[str]) -> list[str]:
    """Of these keys, the ids of the jobs that wait or run and are in no list. What has ended is put right at once, and
    so is what a heartbeat leaves of a job that was deleted."""
    registry = open_queue(connection, name).failed_job_registry.key
    ends: dict[bytes, int] = {key: seconds for key in keys for start, seconds in _ENDS.items() if key.startswith(start)}
    jobs = [key for key in keys if key.startswith(_JOB)]
    with connection.pipeline(transaction=False) as pipe:
        for key in jobs:
            pipe.hmget(key, "status", "origin", "data")
        found = pipe.execute(raise_on_error=False)
    suspects: list[str] = []
    failed: list[str] = []
    for key, values in zip(jobs, found, strict=True):
        if isinstance(values, RedisError):  # no hash, and so nothing of ours
            continue
        id = key.removeprefix(_JOB).decode(errors="replace")
        status, origin, data = (value.decode(errors="replace") if value else "" for value in values)
        if not data and not origin and id.startswith(("preannotate-", "train-")):
            connection.delete(key)
        elif origin != name or id in listed:
            continue
        elif status in _FAILED:
            failed.append(id)
            ends[key] = FAILURE_TTL
        elif status in _OVER:
            ends[key] = RESULT_TTL
        else:
            suspects.append(id)
    if failed:
        connection.zadd(registry, dict.fromkeys(failed, redis_time(connection) + FAILURE_TTL), nx=True)
    if ends:
        connection.register_script(_END)(keys=list(ends), args=list(ends.values()))
    return suspects
