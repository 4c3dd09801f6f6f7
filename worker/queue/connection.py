"""The connection to Redis: how it is made, what its failures mean, and how full the server is."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import LockNotOwnedError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.lock import Lock
from redis.retry import Retry

from av2t_core.errors import AV2TError

log = logging.getLogger("av2t.worker")

SHARE = 90
"""Per cent of Redis's maxmemory up to which jobs are taken. Workers need the rest: at its limit Redis refuses what they
write, and nothing would ever be done."""

_FULL = "AV2TFULL"
# How a script that takes jobs begins. Redis itself stops no script that has begun to write.
IF_ROOM = f"""
local memory = redis.pcall("INFO", "memory")
if type(memory) == "string" then
    local used, most = string.match(memory, "used_memory:(%d+)"), string.match(memory, "\\nmaxmemory:(%d+)")
    if tonumber(most or 0) > 0 and used * 100 > most * {SHARE} then
        return redis.error_reply("{_FULL} of jobs")
    end
end
"""


AT_ONCE = 500
"""Jobs, or keys, that are asked of Redis, or sent to it, together."""

LEASE = 15
"""Seconds after which what a worker that fell silent had taken is free for others: a job, a project, a GPU."""


class Lease(Lock):
    """What one at a time may hold, for `LEASE` seconds after it was last renewed."""

    def __init__(self, connection: Redis, key: str) -> None:
        super().__init__(connection, key, timeout=LEASE, blocking=False, thread_local=False)

    def renew(self) -> None:
        """RedisError."""
        try:
            self.reacquire()
        except LockNotOwnedError:  # it ran out while this machine, or Redis, stood still
            self.acquire()


class QueueError(AV2TError):
    """Redis cannot be used now; nothing was lost, and the same call can be made again."""


class FullError(QueueError):
    """Redis takes no more jobs, and workers go on with those that it has."""

    def __init__(self, connection: Redis) -> None:
        super().__init__(
            f"Redis at {redis_address(connection)} is full (more than {SHARE} % of its maxmemory): nothing more is"
            " queued until workers have made room; start more of them, or raise its maxmemory"
        )


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of Redis, in bytes; `most` is 0 where it has no limit."""

    used: int
    most: int

    @property
    def full(self) -> bool:
        """Whether no more jobs are taken."""
        return 0 < self.most * SHARE < self.used * 100


def connect(url: str, *, timeout: float = 0.5) -> Redis:
    """A client that connects on first use and gives up after `timeout` seconds.

    It does not try again by itself: the backend has one second to answer in, and its caller tries again anyway.
    """
    return Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0))


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
        if str(error).startswith(_FULL):
            raise FullError(connection) from None
        reason = str(error).rstrip(".") or type(error).__name__
        where = redis_address(connection)
        raise QueueError(f"Redis at {where} cannot be used ({reason}): {_remedy(error)}") from error


def _remedy(error: RedisError) -> str:
    match error:
        case ReadOnlyError():
            return "set REDIS_URL to the server that it is a replica of"
        case OutOfMemoryError():
            return "raise its maxmemory"
        case ResponseError() if str(error).startswith("MISCONF"):
            return "make room on its disk"
        case _:
            return "start it, or set REDIS_URL"


@contextmanager
def best_effort(consequence: str) -> Iterator[None]:
    """A failure of Redis within the block is logged with its consequence, and the work goes on."""
    try:
        yield
    except RedisError as error:
        log.warning("%s: %s", consequence, error)


def memory(connection: Redis) -> Memory:
    """How full Redis is. RedisError."""
    info = connection.info("memory")
    return Memory(used=info["used_memory"], most=info.get("maxmemory", 0))


def check(connection: Redis) -> None:
    """QueueError: no task can be queued, because Redis is away, full, or takes no writes."""
    with reachable(connection):
        if memory(connection).full:
            raise FullError(connection)
        connection.set("av2t:health", "", ex=60)


def redis_time(connection: Redis) -> int:
    """Seconds since the epoch by Redis's clock, which is the same for all workers. RedisError."""
    seconds, _ = connection.time()
    return int(seconds)


def read_hashes(connection: Redis, keys: Iterable[str], fields: Iterable[str]) -> list[dict[str, bytes] | None]:
    """Those of the fields that each key has, None where it is no hash. RedisError."""
    wanted, names = list(keys), list(fields)
    found: list[Any] = []
    for start in range(0, len(wanted), AT_ONCE):
        with connection.pipeline(transaction=False) as pipe:
            for key in wanted[start : start + AT_ONCE]:
                pipe.hmget(key, names)
            found += pipe.execute(raise_on_error=False)
    return [_present(names, values) for values in found]


def _present(names: list[str], values: Any) -> dict[str, bytes] | None:
    if isinstance(values, RedisError):
        if str(values).startswith("WRONGTYPE"):
            return None
        raise values
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


def flat(fields: Mapping[str, Any]) -> list[Any]:
    """A hash's fields and values, as HSET takes them."""
    return [part for field in fields.items() for part in field]
