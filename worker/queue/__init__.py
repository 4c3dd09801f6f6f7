"""The queues in Redis: the kinds of jobs, their identity and states, and all that is read of them."""

from typing import Any

from worker.queue.kind import JobQueue, Kind
from worker.queue.preannotation import PREANNOTATION
from worker.queue.training import TRAINING

KINDS: dict[str, Kind[Any, Any]] = {kind.name: kind for kind in (PREANNOTATION, TRAINING)}
"""By the name that a queued job has for its function. A further kind is one more of this line."""


def queues() -> list[JobQueue]:
    """Those of all kinds."""
    return list(dict.fromkeys(kind.queue for kind in KINDS.values()))


def task_queues() -> list[JobQueue]:
    """Those whose jobs are listed as tasks."""
    return [queue for queue in queues() if queue.lists_tasks]
