"""A queue in order: the jobs of workers that fell silent, those that nobody began, and those that are due again.

RQ has all of it, too. But its own holds a lock for 15 minutes if the worker dies in between, returns what nobody began
only after a minute, takes each machine's clock for all machines', and has a process for what is due that outlives a
killed worker.
"""

import logging
import re
import time
from typing import Any

from rq.job import Job, JobStatus
from rq.worker import BaseWorker

from worker.process.model_process import LEASE
from worker.queue.connection import redis_time
from worker.queue.known_job import KnownQueue
from worker.queue.queue import id_in

log = logging.getLogger("av2t.worker")

EVERY = 5  # seconds between two looks
STRANDED = 10  # seconds after which a job that was popped and never begun goes back

_RUNS = re.compile(rb"[\w-]+:[\w-]+")  # a job's id and its execution's


class Housekeeping:
    """What each worker does for all workers of its queue, one at a time."""

    def __init__(self, queue: KnownQueue, worker_name: str) -> None:
        self._queue, self._worker_name = queue, worker_name
        self._looked: float | None = None
        self._stranded: dict[bytes, float] = {}  # id of a popped job that nobody runs -> when it was first seen

    @property
    def is_due(self) -> bool:
        return self._looked is None or time.monotonic() - self._looked > EVERY

    def look(self) -> None:
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
        connection, listed = self._queue.connection, f"rq:workers:{self._queue.name}"
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


def _note_lost_worker(job: Job, *_: Any) -> None:
    """RQ calls this for a job whose worker fell silent, before it queues or fails it."""
    job.meta["error"] = "The worker was lost while it ran this."
    job.save_meta()
    job.retry_intervals = None  # those of an earlier try; this one is made at once
    log.warning("job %s: its worker was lost", job.id)
