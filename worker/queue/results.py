"""What workers leave in Redis about tasks that are done: scores, contact sheets, and totals for Prometheus."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis import Redis

from worker.queue.connection import AT_ONCE, memory, reachable

MOST_SHEETS = 20
"""Half a megabyte each at most, of sixty keyframes."""

TOTALS = "av2t:totals"
STAGES = ("fetch", "predict", "upload", "push")
"""Of a task, in their order: the clip is fetched, decoded and predicted; its frames and its prediction are sent."""

SHEET = "av2t:sheet:"
"""What the keys of jobs' contact sheets begin with."""

_SHEETS, _SHEET_SECONDS = "av2t:sheets", 24 * 3600
_STAGE, _OUTCOME, _KEYFRAMES = "seconds:", "tasks:", "keyframes"


def note_score(connection: Redis, project: int, task: int, score: float) -> None:
    """The score of the task's newest prediction: the tasks of the lowest are predicted anew first.

    Label Studio tells a project's scores only together with the predictions, hundreds of kilobytes each. RedisError.
    """
    connection.hset(_scores(project), str(task), f"{score:.4f}")


def scores_of(connection: Redis, project: int, tasks: Sequence[int]) -> dict[int, float]:
    """Of those tasks of which one is known. RedisError."""
    found: dict[int, float] = {}
    for start in range(0, len(tasks), AT_ONCE):
        block = tasks[start : start + AT_ONCE]
        values: list[bytes | None] = connection.hmget(_scores(project), [str(task) for task in block])  # type: ignore[assignment]  # nothing is asynchronous here
        found |= _numbers(dict(zip(block, values, strict=True)))
    return found


def _numbers(values: Mapping[Any, bytes | None]) -> dict[Any, float]:
    """Those of the values that are numbers."""
    numbers = {}
    for name, value in values.items():
        with suppress(ValueError):
            numbers[name] = float(value or b"")
    return numbers


def forget_scores(connection: Redis, project: int) -> None:
    """RedisError."""
    connection.delete(_scores(project))


def _scores(project: int) -> str:
    return f"av2t:scores:{project}"


def keep_sheet(connection: Redis, id: str, jpeg: bytes) -> None:
    """The contact sheet of a job; the oldest make room, and a full Redis gets none. RedisError."""
    if memory(connection).full:
        return
    with connection.pipeline() as pipe:
        pipe.set(SHEET + id, jpeg, ex=_SHEET_SECONDS)
        pipe.lrem(_SHEETS, 0, id)
        pipe.rpush(_SHEETS, id)
        pipe.llen(_SHEETS)
        *_, count = pipe.execute()
    for _ in range(count - MOST_SHEETS):
        if oldest := connection.lpop(_SHEETS):
            connection.delete(SHEET + oldest.decode())  # type: ignore[union-attr]  # nothing decodes for us


def forget_sheets(connection: Redis) -> int:
    """All of them; how many. RedisError."""
    ids = [each for each in connection.lrange(_SHEETS, 0, -1) if isinstance(each, bytes)]  # nothing decodes for us
    return connection.delete(_SHEETS, *(SHEET + each.decode(errors="replace") for each in ids)) - bool(ids)


def sheet(connection: Redis, id: str) -> bytes | None:
    """JPEG. QueueError."""
    with reachable(connection):
        return connection.get(SHEET + id)  # type: ignore[return-value]  # nothing decodes for us


def having_sheets(connection: Redis, ids: Sequence[str]) -> set[str]:
    """Which of the jobs have one. QueueError."""
    with reachable(connection), connection.pipeline(transaction=False) as pipe:
        for id in ids:
            pipe.exists(SHEET + id)
        return {id for id, there in zip(ids, pipe.execute(), strict=True) if there}


class Totals:
    """Since Redis was last emptied: seconds of each stage, ended tasks by outcome, keyframes."""

    def __init__(self, fields: dict[str, float]) -> None:
        self.seconds = {stage: fields.get(_STAGE + stage, 0.0) for stage in STAGES}
        self.outcomes = {name.removeprefix(_OUTCOME): n for name, n in fields.items() if name.startswith(_OUTCOME)}
        self.keyframes = fields.get(_KEYFRAMES, 0.0)


def count_task(connection: Redis, outcome: str, keyframes: int, seconds: dict[str, float]) -> None:
    """Add a task that has ended to the totals; `seconds` are those of its stages. RedisError."""
    with connection.pipeline(transaction=False) as pipe:
        pipe.hincrbyfloat(TOTALS, _OUTCOME + outcome, 1)
        pipe.hincrbyfloat(TOTALS, _KEYFRAMES, keyframes)
        for stage, taken in seconds.items():
            pipe.hincrbyfloat(TOTALS, _STAGE + stage, taken)
        pipe.execute()


def totals(connection: Redis) -> Totals:
    """RedisError."""
    fields: dict[bytes, bytes] = connection.hgetall(TOTALS)  # type: ignore[assignment]  # nothing decodes for us
    return Totals(_numbers({name.decode(errors="replace"): value for name, value in fields.items()}))
