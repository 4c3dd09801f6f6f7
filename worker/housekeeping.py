"""A queue in order: the jobs of workers that fell silent, those that nobody began, and those that are due again.

RQ has all of it, too. But its own holds a lock for 15 minutes if the worker dies in between, returns what nobody began
only after a minute, takes each machine's clock for all machines', and has a process for what is due that outlives a
killed worker.
"""

import logging
import time
from typing import Any

from rq import Queue
from rq.job import Job, JobStatus
from rq.worker_registration import clean_worker_registry

from worker.model_process import LEASE
from worker.queue import now_of

log = logging.getLogger("av2t.worker")

EVERY = 5  # seconds between two looks
STRANDED = 10  # seconds after which a job that was popped and never begun goes back


class Housekeeping:
    """What each worker does for all workers of its queue, one at a time."""

    def __init__(self, queue: Queue, worker_name: str) -> None:
        self._queue, self._worker_name = queue, worker_name
        self._looked: float | None = None
        self._stranded: dict[str, float] = {}  # id of a popped job that nobody runs -> when it was first seen

    @property
    def is_due(self) -> bool:
        return self._looked is None or time.monotonic() - self._looked > EVERY

    def look(self) -> None:
        """Nothing to do while another worker is at it. RedisError."""
        queue, connection = self._queue, self._queue.connection
        if connection.set(f"{queue.name}:maintenance", self._worker_name, nx=True, ex=2 * LEASE):
            queue.started_job_registry.cleanup(now_of(connection), [_note_lost_worker])
            queue.finished_job_registry.cleanup()
            queue.failed_job_registry.cleanup()
            clean_worker_registry(queue)
            self._return_stranded()
            self._enqueue_due()
            connection.delete(f"{queue.name}:maintenance")
        self._looked = time.monotonic()

    def _return_stranded(self) -> None:
        """Back into the queue with what a worker popped and, dying, never began."""
        queue, clock = self._queue, time.monotonic()
        started = set(queue.started_job_registry.get_job_ids(cleanup=False))
        ids = [job_id for job_id in queue.intermediate_queue.get_job_ids() if job_id not in started]
        self._stranded = {job_id: self._stranded.get(job_id, clock) for job_id in ids}
        for job_id, since in self._stranded.items():
            if clock - since < STRANDED:
                continue
            job = queue.fetch_job(job_id)
            waits = job is not None and job.get_status() == JobStatus.QUEUED
            with queue.connection.pipeline() as pipeline:
                pipeline.lrem(queue.intermediate_queue_key, 0, job_id)
                pipeline.lrem(queue.key, 0, job_id)
                if waits:
                    pipeline.lpush(queue.key, job_id)
                pipeline.execute()

    def _enqueue_due(self) -> None:
        """What was to be tried again later, and now is later."""
        queue = self._queue
        registry = queue.scheduled_job_registry
        for job_id in registry.get_jobs_to_schedule(now_of(queue.connection)):
            job = queue.fetch_job(job_id)
            with queue.connection.pipeline() as pipeline:
                if job is not None:
                    queue.enqueue_job(job, pipeline=pipeline)
                registry.remove(job_id, pipeline=pipeline)
                pipeline.execute()


def _note_lost_worker(job: Job, *_: Any) -> None:
    """RQ calls this for a job whose worker fell silent, before it queues or fails it."""
    job.meta["error"] = "The worker was lost while it ran this."
    job.save_meta()
    job.retry_intervals = None  # those of an earlier try; this one is made at once
    log.warning("job %s: its worker was lost", job.id)
