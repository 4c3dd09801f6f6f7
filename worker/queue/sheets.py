"""Contact sheets of the tasks that were done last, in Redis, where the status page finds them."""

from collections.abc import Sequence

from redis import Redis

from worker.queue.queue import memory, reachable

MOST = 20
"""Half a megabyte each at most, of sixty keyframes."""

_ORDER, _LIVES = "av2t:sheets", 24 * 3600  # seconds


def keep_sheet(connection: Redis, id: str, jpeg: bytes) -> None:
    """For the job of this id; the oldest make room, and a Redis that is full gets none. RedisError."""
    if memory(connection).full:
        return
    with connection.pipeline() as pipe:
        pipe.set(_key(id), jpeg, ex=_LIVES)
        pipe.lrem(_ORDER, 0, id)
        pipe.rpush(_ORDER, id)
        pipe.llen(_ORDER)
        *_, count = pipe.execute()
    for _ in range(count - MOST):
        if oldest := connection.lpop(_ORDER):
            connection.delete(_key(oldest.decode()))  # type: ignore[union-attr]  # nothing decodes for us


def forget_sheets(connection: Redis) -> int:
    """All of them; how many. RedisError."""
    ids = [each for each in connection.lrange(_ORDER, 0, -1) if isinstance(each, bytes)]  # nothing decodes for us
    return connection.delete(_ORDER, *(_key(each.decode(errors="replace")) for each in ids)) - bool(ids)


def sheet(connection: Redis, id: str) -> bytes | None:
    """JPEG. QueueError."""
    with reachable(connection):
        return connection.get(_key(id))  # type: ignore[return-value]  # nothing decodes for us


def having_sheets(connection: Redis, ids: Sequence[str]) -> set[str]:
    """Which of the jobs have one. QueueError."""
    with reachable(connection), connection.pipeline(transaction=False) as pipe:
        for id in ids:
            pipe.exists(_key(id))
        return {id for id, there in zip(ids, pipe.execute(), strict=True) if there}


def _key(id: str) -> str:
    return f"av2t:sheet:{id}"
