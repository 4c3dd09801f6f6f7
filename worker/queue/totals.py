"""What all workers together have done, counted in Redis: the backend shows it to Prometheus."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis

from worker.queue.queue import number

KEY = "av2t:totals"
STAGES = ("fetch", "predict", "upload", "push")
"""Of a task, in their order: the clip comes, is decoded and looked at, its frames and its prediction go."""

_STAGE, _OUTCOME, _KEYFRAMES = "seconds:", "tasks:", "keyframes"


class Stopwatch:
    """The seconds of a task's stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counted only if it ends well."""
        started = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started


class Totals:
    """Since Redis was last emptied: seconds of each stage, ended tasks by outcome, keyframes."""

    def __init__(self, fields: dict[str, float]) -> None:
        self.seconds = {stage: fields.get(_STAGE + stage, 0.0) for stage in STAGES}
        self.outcomes = {name.removeprefix(_OUTCOME): n for name, n in fields.items() if name.startswith(_OUTCOME)}
        self.keyframes = fields.get(_KEYFRAMES, 0.0)


def add(connection: Redis, outcome: str, keyframes: int, seconds: dict[str, float]) -> None:
    """Count a task that has ended. RedisError."""
    with connection.pipeline(transaction=False) as pipe:
        pipe.hincrbyfloat(KEY, _OUTCOME + outcome, 1)
        pipe.hincrbyfloat(KEY, _KEYFRAMES, keyframes)
        for stage, taken in seconds.items():
            pipe.hincrbyfloat(KEY, _STAGE + stage, taken)
        pipe.execute()


def totals(connection: Redis) -> Totals:
    """RedisError."""
    fields: dict[bytes, bytes] = connection.hgetall(KEY)  # type: ignore[assignment]  # nothing decodes for us
    numbers = {name.decode(errors="replace"): number(value) for name, value in fields.items()}
    return Totals({name: value for name, value in numbers.items() if value is not None})
