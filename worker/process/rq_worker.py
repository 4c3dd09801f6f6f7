"""RQ's workers, as far as theirs is replaced: where a method of RQ's is, its docstring says why."""

import json
import logging
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

from redis.exceptions import OutOfMemoryError, RedisError
from rq import Queue
from rq.command import handle_stop_job_command
from rq.exceptions import NoSuchJobError, StopRequested
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.worker import BaseWorker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from av2t_core.text import redact
from worker.failures import Verdict, delay, judge, wait_for
from worker.logs import about
from worker.queue.connection import AT_ONCE, LEASE, best_effort, memory, redis_time
from worker.queue.heartbeat import Interrupted
from worker.queue.job import FAILURE_TTL, KnownJob, KnownQueue, id_in
from worker.queue.results import forget_sheets
from worker.queue.upkeep import forget_finished

log = logging.getLogger("av2t.worker")

BEAT = 3  # seconds between two heartbeats of a running job
LONGEST_WAIT = 15  # seconds between two looks for a Redis that is away
MAINTENANCE_INTERVAL = 5  # seconds
STRANDED = 10  # seconds after which a job that was popped and never begun goes back
FULL_TTL = 60
"""Seconds for which a job that ended well is remembered where Redis is full."""

DEFECT_RETRIES = 2
"""Of a failure that nobody foresaw: it may pass, but most do not."""

_RUNS = re.compile(rb"[\w-]+:[\w-]+")  # a job's id and its execution's


class RQWorker(BaseWorker):  # type: ignore[misc]  # rq has no types
    """A worker that outlives an outage of Redis, and leaves nothing of a queue to a dead one's care."""

    job_class, queue_class = KnownJob, KnownQueue
    max_connection_wait_time = LONGEST_WAIT  # RQ's: seconds between two tries to reach Redis

    def __init__(self, queue: KnownQueue, name: str) -> None:
        super().__init__(
            [queue],
            name=name,
            connection=queue.connection,
            serializer="json",
            worker_ttl=17,  # RQ waits 15 s less for a job, and looks up from the wait for what this class adds
            job_monitoring_interval=BEAT,
        )
        self._maintained: float | None = None  # when this worker last looked after its queue
        self._stranded: dict[bytes, float] = {}  # id of a popped job that nobody runs -> when it was first seen
        self._told_to_stop = False
        self._lost_redis = False

    @property
    def is_over(self) -> bool:
        """Whether all is done that was to be done."""
        return False

    def work_through_outages(self, *, burst: bool) -> bool:
        """RQ's `work`, and again whenever Redis was lost and is back, until `is_over`. False: it ended for another
        reason than its own.

        A job whose end could not be noted is given out again, and finds its result.
        """
        while True:
            self._lost_redis = False
            try:
                self.work(burst=burst, logging_level="WARNING")
            except RedisError as error:  # while RQ registers the worker
                log.warning("Redis cannot be used (%s)", error)
                self._lost_redis = True
            if self._told_to_stop or self.is_over:
                return True
            if not self._lost_redis:
                return burst
            try:
                # RQ refuses a name that it knows: the worker that it was is dead.
                wait_for(self.register_death, RedisError, longest=LONGEST_WAIT, report=self._report_outage)
                log.info("Redis is back")
            except StopRequested:  # what RQ's handler of the signal raises in an idle worker
                return True

    def _report_outage(self, error: Exception, seconds: float) -> None:
        log.warning("Redis cannot be used (%s); looking again in %d s", error, seconds)
        if isinstance(error, OutOfMemoryError):  # at its limit, it still lets go of what it has
            with suppress(RedisError):
                gone = forget_sheets(self.connection) + forget_finished(self.connection, self.queues[0].name, AT_ONCE)
                log.warning("%d pictures and jobs that ended well were forgotten, for Redis is full", gone)

    @contextmanager
    def ending_without_redis(self) -> Iterator[None]:
        """RQ ends when Redis cannot be used, with a traceback; here its loop is left, to be begun anew."""
        try:
            yield
        except RedisError as error:
            log.warning("Redis cannot be used (%s)", error)
            self._lost_redis = True
            raise StopRequested from None

    def teardown(self) -> None:
        """RQ's own fails without Redis; where it is left out, the worker is forgotten when its key runs out."""
        with suppress(RedisError):
            super().teardown()

    def get_heartbeat_ttl(self, job: Job) -> int:
        """RQ's own is a minute and more: so long a killed worker's job would lie there."""
        return LEASE

    def hold(self, job: Job, execution: Execution) -> None:
        """For as long as the lease: RQ counts from this machine's clock, which may be an hour behind the others'."""
        until = redis_time(self.connection) + LEASE
        self.connection.zadd(job.started_job_registry.key, {execution.composite_key: until}, xx=True)

    def refuse(self, job: KnownJob, queue: Queue) -> None:
        """It has failed, with the reason, and whoever looks after Redis sees it."""
        log.error("job %s: %s", job.id, job.refusal)
        until = redis_time(self.connection) + FAILURE_TTL
        with self.connection.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 0, job.id)
            pipeline.hset(job.key, mapping=job.failed_fields(job.refusal))
            pipeline.expire(job.key, FAILURE_TTL)
            pipeline.zadd(queue.failed_job_registry.key, {job.id: until})
            self.increment_failed_job_count(pipeline)
            pipeline.execute()

    def put_back(self, job: KnownJob, queue: Queue) -> None:
        """The job goes to the front of the queue, as if it had not been taken."""
        with self.connection.pipeline() as pipeline:
            queue.enqueue_job(job, pipeline=pipeline, at_front=True)  # first, for it begins the transaction
            self.cleanup_execution(job, pipeline)
            pipeline.execute()
        log.info("job %s: put back", job.id)

    def is_in_hand(self, job: KnownJob) -> bool:
        """Whether the job, read again, is still in this worker's hands."""
        try:
            job.refresh()
        except NoSuchJobError:
            return False
        return job.get_status(refresh=False) in {JobStatus.QUEUED, JobStatus.STARTED}

    def handle_payload(self, message: dict[str, Any]) -> None:
        """RQ's own also ends the worker or its model's process, and hears nothing more after what it cannot read."""
        try:
            said = json.loads(message["data"])
            if isinstance(said, dict) and said.get("command") == "stop-job" and isinstance(said.get("job_id"), str):
                handle_stop_job_command(self, said)
            else:
                log.warning("a message that is none was left out")
        except (ValueError, RecursionError):
            log.warning("a message that cannot be read was left out")
        except RedisError as error:
            log.warning("a message was not understood, for Redis cannot be used (%s)", error)

    def _install_signal_handlers(self) -> None:
        """RQ calls this right before it looks for jobs; from then on a signal ends the worker in order."""
        super()._install_signal_handlers()
        log.info("worker %s waits for jobs", self.name)

    def handle_warm_shutdown_request(self) -> None:
        """RQ calls this at the first signal."""
        self._told_to_stop = True

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """RQ's own counts by a clock that may be set back."""
        return self._maintained is None or time.monotonic() - self._maintained > MAINTENANCE_INTERVAL

    def run_maintenance_tasks(self) -> None:
        """What one worker at a time does for all workers of its queue. RedisError.

        RQ's own holds a lock for 15 minutes if the worker dies in between, returns what nobody began only after a
        minute, takes each machine's clock for all machines', and has a process for what is due that outlives a killed
        worker.
        """
        queue, lock = self.queues[0], f"{self.queues[0].name}:maintenance"
        if self.connection.set(lock, self.name, nx=True, ex=2 * LEASE):
            for entry in self.connection.zrange(queue.started_job_registry.key, 0, -1):
                if not _RUNS.fullmatch(entry):  # over which RQ's own would end the worker
                    self.connection.zrem(queue.started_job_registry.key, entry)
            queue.started_job_registry.cleanup(redis_time(self.connection), [_note_lost_worker])
            queue.finished_job_registry.cleanup()
            queue.failed_job_registry.cleanup()
            self._forget_workers()
            self._return_stranded()
            self._enqueue_due()
            self.connection.delete(lock)
        self._maintained = time.monotonic()

    def _forget_workers(self) -> None:
        """Of which nothing is left; RQ's own ends its worker over a name that is none."""
        listed = WORKERS_BY_QUEUE_KEY % self.queues[0].name
        for key in self.connection.smembers(listed):
            if not self.connection.exists(key):
                self.connection.srem(listed, key)
                self.connection.srem(self.redis_workers_keys, key)

    def _return_stranded(self) -> None:
        """Back into the queue with what a worker popped and, dying, never began."""
        queue, clock = self.queues[0], time.monotonic()
        started = set(map(id_in, self.connection.zrange(queue.started_job_registry.key, 0, -1)))
        entries = self.connection.lrange(queue.intermediate_queue_key, 0, -1)
        popped = [entry for entry in entries if id_in(entry) not in started]
        self._stranded = {entry: self._stranded.get(entry, clock) for entry in popped}
        for entry, since in self._stranded.items():
            job = queue.look_up(entry)
            if job is not None and clock - since < STRANDED:
                continue
            with self.connection.pipeline() as pipeline:
                pipeline.lrem(queue.intermediate_queue_key, 0, entry)
                pipeline.lrem(queue.key, 0, entry)
                if job is not None and (job.get_status(refresh=False) == JobStatus.QUEUED or job.refusal):
                    pipeline.lpush(queue.key, entry)
                pipeline.execute()

    def _enqueue_due(self) -> None:
        """What was to be tried again later, and now is later."""
        key = self.queues[0].scheduled_job_registry.key
        for entry in self.connection.zrangebyscore(key, "-inf", redis_time(self.connection)):
            job = self.queues[0].look_up(entry)
            with self.connection.pipeline() as pipeline:
                if job is not None:
                    self.queues[0].enqueue_job(job, pipeline=pipeline)
                pipeline.zrem(key, entry)
                pipeline.execute()


def _note_lost_worker(job: KnownJob, *_: Any) -> None:
    """RQ calls this for a job whose worker fell silent, before it queues or fails it."""
    job.note(error="The worker was lost while it ran this.")
    job.retry_intervals = None  # those of an earlier try; this one is made at once
    log.warning("job %s: its worker was lost", job.id)


class JobRunner(BaseWorker):  # type: ignore[misc]  # rq has no types
    """RQ's own handling of a job, its registries and its retries, inside the process that holds the model."""

    job_class, queue_class = KnownJob, KnownQueue

    def __init__(self, queue: Queue, name: str, secret: str) -> None:
        super().__init__([queue], name=name, connection=queue.connection, serializer="json", prepare_for_work=False)
        self._secret = secret
        self._verdict: Verdict | None = None
        self._interrupted = False

    def run(self, job_id: str, execution_id: str) -> Literal["done", "interrupted"]:
        """`interrupted`: the job is as it was, and still in the hands of the worker."""
        try:
            job = KnownJob.fetch(job_id, connection=self.connection, serializer=self.serializer)
            self.execution = Execution.fetch(execution_id, job_id, connection=self.connection)
            if job.refusal:  # it was changed meanwhile: once its lease has run out, it is popped and refused
                raise ValueError(job.refusal)
        except (NoSuchJobError, ValueError, KeyError):  # KeyError: RQ's, of an execution without all of its fields
            log.info("job %s: taken back before it began", job_id)
            return "done"
        except RedisError as error:
            log.warning("job %s: Redis cannot be used (%s); it will be looked at again", job_id, error)
            return "done"
        # Its effects are in Label Studio; the lease runs out, and the next run finds them.
        with best_effort(f"job {job_id}: its end could not be noted in Redis; it will be looked at again"), about(job):
            if job.told.error:  # of an earlier try
                job.note(error=None)
            self.perform_job(job, self.queues[0])
        return "interrupted" if self._interrupted else "done"

    def get_heartbeat_ttl(self, job: Job) -> int:
        return LEASE

    def handle_job_success(self, job: Job, queue: Queue, started_job_registry: Any) -> None:
        """Where Redis is full, what was done makes room for what waits."""
        if memory(self.connection).full:
            job.result_ttl = FULL_TTL
        super().handle_job_success(job, queue, started_job_registry)

    def handle_exception(self, job: KnownJob, *exc_info: Any) -> None:
        """Decide whether the job is tried again, and say why it was not done."""
        self._interrupted = isinstance(exc_info[1], Interrupted)
        if self._interrupted:
            return
        attempts, doubts = job.told.attempts, job.told.doubts
        self._verdict = verdict = judge(exc_info[1], self._secret, doubts=doubts, timeout=job.timeout)
        if verdict.final or (not verdict.expected and attempts >= DEFECT_RETRIES):
            job.retries_left = 0
        if job.should_retry:
            seconds = delay(attempts, verdict.retry_after)
            attempts += 1
            job.retry_intervals = [seconds]
            log.warning("job %s: %s Trying again in %d s.", job.id, verdict.sentence, seconds)
        else:
            log.error("job %s: %s", job.id, verdict.sentence)
        if not verdict.expected:
            log.error("%s", "".join(traceback.format_exception(*exc_info)))
        job.note(error=verdict.sentence, attempts=attempts, doubts=doubts + verdict.doubtful)

    def handle_job_failure(
        self, job: KnownJob, queue: Queue, started_job_registry: Any = None, exc_string: str = ""
    ) -> None:
        if self._interrupted:
            return
        expected = self._verdict is not None and self._verdict.expected
        reason = job.told.error or "" if expected else redact(exc_string, self._secret)
        super().handle_job_failure(job, queue, started_job_registry, reason)
        if job.retry_intervals:
            # RQ counts from this machine's clock, which may be an hour ahead of the others'; Redis's is one for all.
            due = redis_time(self.connection) + job.retry_intervals[0]
            self.connection.zadd(queue.scheduled_job_registry.key, {job.id: due}, xx=True)
