"""The worker: an RQ worker that never imports torch, and one process beside it that holds the model.

This half takes jobs, sends heartbeats, keeps the registries in order, and ends and replaces the other half. What RQ's
own workers do instead, and why none of them fits: CUDA does not survive their fork, or the model is loaded for every
job, or nothing beats while a job runs.
"""

import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import NoSuchJobError, StopRequested
from rq.job import Job, JobStatus
from rq.registry import clean_registries
from rq.utils import now
from rq.worker import BaseWorker, WorkerStatus
from rq.worker_registration import clean_worker_registry

from av2t_core.errors import AV2TError
from worker.logs import about, log_to_stderr
from worker.model_process import LEASE, REDIS_TIMEOUT, ModelProcess
from worker.queue import PROTOCOL, QUEUE, STOPPED, connect, gone_key, open_queue, reachable, redis_address
from worker.reconcile import Reconciler
from worker.settings import Settings
from worker.work_folder import work_folder

log = logging.getLogger("av2t.worker")

SET_UP = "worker.jobs:set_up"
BEAT = 3  # seconds between two heartbeats of a running job
MAINTENANCE = 5  # seconds between two looks for jobs that were left behind or are due again
GRACE = 8  # seconds that a running job has to end, or to keep what it has, when the worker is told to stop
DEATHS = 3  # of the model's process in one job, after which the job is given up
LEAVE = 2  # seconds between two looks at jobs of another protocol
LONGEST_WAIT = 15  # seconds between two looks for a Redis that is away
STRANDED = 10  # seconds after which a job that was popped and never begun goes back


def run_worker(
    settings: Settings,
    *,
    name: str | None = None,
    burst: bool = False,
    max_jobs: int | None = None,
    set_up: str = SET_UP,
) -> None:
    """Work until told to stop, in a burst until the queue is empty, or until `max_jobs` are done. AV2TError: it cannot
    work as things are.

    `set_up` names the function ("module:function") that makes the model's process ready, given the settings.
    """
    log_to_stderr(settings)
    connection = connect(settings.redis_url, timeout=REDIS_TIMEOUT)
    with reachable(connection):
        connection.ping()
    log.info("connected to Redis at %s", redis_address(connection))
    # Unique, for RQ refuses the name of a worker that was killed a minute ago.
    name = f"{name or socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    with work_folder() as folder:
        model, reconciler = ModelProcess(settings, name, set_up, folder), Reconciler(settings)
        worker = WarmWorker(connection, name, model, hang_seconds=settings.hang_seconds)
        try:
            worker.wait_for_model(lambda: None)
            if settings.reconcile_minutes and not burst:
                reconciler.start()
            ended = worker.work_on(burst=burst, max_jobs=max_jobs)
        finally:
            reconciler.stop()
            model.stop(timeout=2)
    if worker.fault is not None:
        raise worker.fault
    if not ended:
        raise AV2TError("The worker ended because of the error above; start it again, its job is not lost.")
    log.info("worker %s ended", name)


class WarmWorker(BaseWorker):  # type: ignore[misc]  # rq has no types
    """The half that RQ sees. Where a method of RQ's is replaced, its docstring says why."""

    max_connection_wait_time = LONGEST_WAIT  # RQ's: seconds between two tries to reach Redis

    _stopped_job_id: str | None  # RQ's: the job that a person wants stopped

    def __init__(self, connection: Redis, name: str, model: ModelProcess, *, hang_seconds: int) -> None:
        super().__init__(
            [open_queue(connection)],
            name=name,
            connection=connection,
            serializer="json",
            worker_ttl=17,  # RQ waits 15 s less for a job, and looks up from the wait for what this class adds
            job_monitoring_interval=BEAT,
            maintenance_interval=MAINTENANCE,
            exception_handlers=[_note_lost_worker],
        )
        self._model = model
        self._hang_seconds = hang_seconds  # without a sign of life, after which a job's process is ended
        self._stranded: dict[str, float] = {}  # id of a popped job that nobody runs -> when it was first seen
        self.fault: AV2TError | None = None  # why the worker cannot go on
        self._told_to_stop = False
        self._lost_redis = False
        self._done = 0  # jobs
        self._refused: set[object] = set()  # protocols of jobs that were left alone

    def work_on(self, *, burst: bool, max_jobs: int | None) -> bool:
        """RQ's `work`, and again whenever Redis was lost and is back. False: it ended for another reason than its own.

        The model stays warm meanwhile; a job whose end could not be noted is given out again, and finds its result.
        """
        while True:
            left = None if max_jobs is None else max_jobs - self._done
            if left == 0:
                return True
            self._lost_redis = False
            try:
                self.work(burst=burst, logging_level="WARNING", max_jobs=left)
            except RedisError as error:  # while RQ registers the worker
                log.warning("Redis cannot be used (%s)", error)
                self._lost_redis = True
            if not self._lost_redis or self._told_to_stop:
                return burst or self._told_to_stop or (max_jobs is not None and self._done >= max_jobs)
            try:
                self._wait_for_redis()
            except StopRequested:  # what RQ's handler of the signal raises in an idle worker
                return True

    def _wait_for_redis(self) -> None:
        wait = 1
        while True:
            try:
                self.connection.ping()
                self.register_death()  # of the worker that it was: RQ refuses a name that it knows
            except RedisError as error:
                log.warning("Redis cannot be used (%s); looking again in %d s", error, wait)
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                log.info("Redis is back")
                return

    @contextmanager
    def _ending_without_redis(self) -> Iterator[None]:
        """RQ ends when Redis cannot be used, with a traceback; here its loop is left, to be begun anew."""
        try:
            yield
        except RedisError as error:
            log.warning("Redis cannot be used (%s)", error)
            self._lost_redis = True
            raise StopRequested from None

    def dequeue_job_and_maintain_ttl(self, *arguments: Any) -> Any:
        """RQ's own waits for a Redis that refuses it, but not for one that answers too late."""
        with self._ending_without_redis():
            return super().dequeue_job_and_maintain_ttl(*arguments)

    def teardown(self) -> None:
        """RQ's own fails without Redis; where it is left out, the worker is forgotten when its key runs out."""
        with suppress(RedisError):
            super().teardown()

    def wait_for_model(self, tick: Callable[[], None]) -> None:
        """Have the model's process ready, calling `tick` each second until it is. AV2TError: it cannot be."""
        if self._model.ready and self._model.receive(0) != "dead":
            return
        self._model.start()
        while (message := self._model.receive(1)) != "ready":
            if message == "dead":
                raise AV2TError(f"The model's process ended while it started ({self._model.exit_reason()}).")
            tick()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """RQ's own forks here."""
        with about(job), self._ending_without_redis():
            if job.meta.get("protocol", PROTOCOL) == PROTOCOL:
                self._execute(job, queue)
                self._done += 1
            else:
                self._leave(job, queue)

    def _leave(self, job: Job, queue: Queue) -> None:
        """To a worker that knows what the job's arguments mean: it goes to the end of the queue."""
        protocol = job.meta["protocol"]
        if protocol not in self._refused:
            self._refused.add(protocol)
            log.warning(
                "job %s is of protocol %s and this worker of %s: bring both to the same release; it is left to others",
                job.id,
                protocol,
                PROTOCOL,
            )
        with self.connection.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 0, job.id)
            pipeline.rpush(queue.key, job.id)
            pipeline.execute()
        time.sleep(LEAVE)

    def _execute(self, job: Job, queue: Queue) -> None:
        execution = self.prepare_execution(job)
        # RQ leaves this to who performs the job; done here, the list only ever holds jobs that are about to begin.
        queue.intermediate_queue.remove(job.id)

        def tick() -> None:
            self._beat(job)
            if self._stop_requested:
                raise StopRequested

        try:
            self.wait_for_model(tick)
        except (AV2TError, StopRequested) as reason:
            self.fault = reason if isinstance(reason, AV2TError) else None
            self._put_back(job, queue)
            raise StopRequested from None
        self._model.perform(job, execution)
        self._watch(job, queue)
        self.execution = None
        self.set_state(WorkerStatus.IDLE)

    def _watch(self, job: Job, queue: Queue) -> None:
        """Beat for the job until it ends or has to be ended."""
        started = beaten = heard = time.monotonic()
        stop_at: float | None = None
        while (message := self._model.receive(0.5)) != "done":
            clock = time.monotonic()
            if message == "alive":
                heard = clock
            if message == "dead":
                self._after_death(job, queue, self._model.exit_reason())
                return
            if message == "interrupted":
                self._put_back(job, queue)
                return
            if self._stop_requested:
                if stop_at is None:
                    self._model.ask_to_stop()
                    stop_at = clock + GRACE
                if clock >= stop_at:
                    self._put_back(job, queue)
                    return
            if clock - heard > self._hang_seconds:
                self._after_death(job, queue, f"ended after {self._hang_seconds} s without a sign of life")
                return
            if job.timeout and 0 < job.timeout + LEASE < clock - started:
                self._give_up(job, queue, f"The job hung for more than {job.timeout} s and was ended.")
                return
            if clock - beaten >= BEAT:
                beaten = clock
                self._beat(job)

    def _beat(self, job: Job) -> None:
        try:
            self.maintain_heartbeats(job)
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()
        except RedisError as error:
            log.warning("no heartbeat: %s", error)

    def get_heartbeat_ttl(self, job: Job) -> int:
        """RQ's own is a minute and more: so long a killed worker's job would lie there."""
        return LEASE

    def _after_death(self, job: Job, queue: Queue, reason: str) -> None:
        self._model.kill()
        if not self._unfinished(job):
            return
        if self._stopped_job_id == job.id and self.connection.delete(gone_key(job.id)):
            log.info("job %s: ended, for its task is gone", job.id)
            with self.connection.pipeline() as pipeline:
                self.cleanup_execution(job, pipeline)
                pipeline.delete(job.key)
                pipeline.execute()
            self._stopped_job_id = None
            return
        deaths = job.meta["deaths"] = job.meta.get("deaths", 0) + 1
        if self._stopped_job_id == job.id:
            sentence = STOPPED
        elif deaths >= DEATHS or not job.should_retry:
            sentence = f"The model's process died {deaths} times on this task ({reason}); the task was given up."
            job.retries_left = 0
        else:
            sentence = f"The model's process died on this task ({reason})."
        log.error("job %s: %s", job.id, sentence)
        self._fail(job, queue, sentence)

    def _give_up(self, job: Job, queue: Queue, sentence: str) -> None:
        self._model.kill()
        if self._unfinished(job):
            job.retries_left = 0
            log.error("job %s: %s", job.id, sentence)
            self._fail(job, queue, sentence)

    def _fail(self, job: Job, queue: Queue, sentence: str) -> None:
        job.meta["error"] = sentence
        job.save_meta()
        job.ended_at = now()
        self.handle_job_failure(job, queue, exc_string=sentence)

    def _put_back(self, job: Job, queue: Queue) -> None:
        """The job goes to the front of the queue, as if it had not been taken."""
        self._model.kill()
        if not self._unfinished(job):
            return
        with self.connection.pipeline() as pipeline:
            queue.enqueue_job(job, pipeline=pipeline, at_front=True)  # first, for it begins the transaction
            self.cleanup_execution(job, pipeline)
            pipeline.execute()
        log.info("job %s: put back", job.id)

    def _unfinished(self, job: Job) -> bool:
        """Whether the job, read again, is still in this worker's hands."""
        try:
            job.refresh()
        except NoSuchJobError:
            return False
        return job.get_status(refresh=False) in {JobStatus.QUEUED, JobStatus.STARTED}

    @property
    def horse_pid(self) -> int:
        """RQ asks for it when a second signal comes: then the other half is killed."""
        return self._model.pid

    def kill_horse(self, *_: Any) -> None:
        """RQ calls this to stop a job, from its own thread: only the signal is sent, and `_watch` sees the death."""
        if pid := self._model.pid:
            os.kill(pid, signal.SIGKILL)

    def _install_signal_handlers(self) -> None:
        """RQ calls this right before it looks for jobs; from then on a signal ends the worker in order."""
        super()._install_signal_handlers()
        log.info("worker %s waits for jobs", self.name)

    def handle_warm_shutdown_request(self) -> None:
        """RQ calls this at the first signal."""
        self._told_to_stop = True

    def run_maintenance_tasks(self) -> None:
        """RQ's own is for its scheduler, a process that outlives a killed worker; what is due is looked for here."""
        self.clean_registries()

    def clean_registries(self) -> None:
        """RQ's own holds its lock for 15 minutes if the worker dies in between, and returns stranded jobs after one."""
        [queue] = self.queues
        if self.connection.set(f"{QUEUE}:maintenance", self.name, nx=True, ex=2 * LEASE):
            clean_registries(queue, self._exc_handlers)
            clean_worker_registry(queue)
            self._return_stranded(queue)
            _enqueue_due(queue)
            self.connection.delete(f"{QUEUE}:maintenance")
        self.last_cleaned_at = now()

    def _return_stranded(self, queue: Queue) -> None:
        """Back into the queue with what a worker popped and, dying, never began."""
        clock = time.monotonic()
        started = set(queue.started_job_registry.get_job_ids(cleanup=False))
        ids = [job_id for job_id in queue.intermediate_queue.get_job_ids() if job_id not in started]
        self._stranded = {job_id: self._stranded.get(job_id, clock) for job_id in ids}
        for job_id, since in self._stranded.items():
            if clock - since < STRANDED:
                continue
            job = queue.fetch_job(job_id)
            waits = job is not None and job.get_status() == JobStatus.QUEUED
            with self.connection.pipeline() as pipeline:
                pipeline.lrem(queue.intermediate_queue_key, 0, job_id)
                pipeline.lrem(queue.key, 0, job_id)
                if waits:
                    pipeline.lpush(queue.key, job_id)
                pipeline.execute()


def _enqueue_due(queue: Queue) -> None:
    """What was to be tried again later, and now is later."""
    registry = queue.scheduled_job_registry
    for job_id in registry.get_jobs_to_schedule():
        job = queue.fetch_job(job_id)
        with queue.connection.pipeline() as pipeline:
            if job is not None:
                queue.enqueue_job(job, pipeline=pipeline)
            registry.remove(job_id, pipeline=pipeline)
            pipeline.execute()


def _note_lost_worker(job: Job, *_: Any) -> None:
    """RQ calls this for a job whose worker fell silent, before it queues or fails it."""
    job.meta["error"] = "The worker was lost while it ran this task."
    job.save_meta()
    log.warning("job %s: its worker was lost", job.id)
