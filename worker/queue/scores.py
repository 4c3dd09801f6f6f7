"""The score of each task's newest prediction, kept in Redis: those that the model was least sure of go first again.

Label Studio has them, too, but tells a project's only together with the predictions, hundreds of kilobytes for each.
"""

from collections.abc import Sequence

from redis import Redis

from worker.queue.queue import number

AT_ONCE = 1000  # tasks


def note(connection: Redis, project: int, task: int, score: float) -> None:
    """In place of what was known of the task. RedisError."""
    connection.hset(_key(project), str(task), f"{score:.4f}")


def known(connection: Redis, project: int, tasks: Sequence[int]) -> dict[int, float]:
    """Of those tasks of which one is kept. RedisError."""
    found: dict[int, float] = {}
    for start in range(0, len(tasks), AT_ONCE):
        block = tasks[start : start + AT_ONCE]
        values: list[bytes | None] = connection.hmget(_key(project), [str(task) for task in block])  # type: ignore[assignment]  # nothing is asynchronous here
        numbers = zip(block, map(number, values), strict=True)
        found.update({task: score for task, score in numbers if score is not None})
    return found


def forget(connection: Redis, project: int) -> None:
    """RedisError."""
    connection.delete(_key(project))


def _key(project: int) -> str:
    return f"av2t:scores:{project}"
