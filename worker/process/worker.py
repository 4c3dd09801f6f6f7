"""The worker: an RQ worker that never imports torch, and one process beside it that holds the model.

This half takes jobs, sends heartbeats, keeps the registries in order, and ends and replaces the other half. What RQ's
own workers do instead, and why none of them fits: CUDA does not survive their fork, or the model is loaded for every
job, or nothing beats while a job runs.
"""

import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import LockNotOwnedError, OutOfMemoryError, RedisError
from redis.lock import Lock
from rq import Queue
from rq.command import handle_stop_job_command
from rq.exceptions import NoSuchJobError, StopRequested
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.utils import now
from rq.worker import BaseWorker, WorkerStatus

from av2t_core.errors import AV2TError
from av2t_core.files import in_gigabytes
from worker.client.reconcile import Reconciler
from worker.logs import about, log_to_stderr
from worker.process.devices import lease_key
from worker.process.memory_limit import held_by, most_memory
from worker.process.model_process import LEASE, REDIS_TIMEOUT, ModelProcess
from worker.process.work_folder import work_folder
from worker.queue.connection import connect, reachable, redis_address, redis_time
from worker.queue.housekeeping import Housekeeping
from worker.queue.known_job import AT_ONCE, KnownJob, KnownQueue
from worker.queue.queue import (
    FAILURE_TTL,
    PREANNOTATE,
    PROTOCOL,
    STOPPED,
    TRAIN,
    failed,
    forget_finished,
    gone_key,
    open_queue,
)
from worker.queue.repair import Repairer
from worker.queue.results import forget_sheets
from worker.queue.trainings import turn
from worker.settings import Settings

log = logging.getLogger("av2t.worker")

BEAT = 3  # seconds between two heartbeats of a running job
GRACE = 8  # seconds that a running job has to end, or to keep what it has, when the worker is told to stop
DEATHS = 3  # of the model's process in one job, after which the job is given up
LEAVE = 2  # seconds between two looks at jobs that are left to others
LONGEST_WAIT = 15  # seconds between two looks for a Redis that is away


@dataclass(frozen=True, kw_only=True)
class Duty:
    """What a worker is there for."""

    queue: str
    job: str  # what people call a job of it
    set_up: str  # the function ("module:function") that makes the model's process ready, given the settings
    warm: bool  # the model's process stays from job to job; else it is there, with its memory, only while one runs
    one_for_each_project: bool  # at a time


DUTIES = {
    "preannotate": Duty(
        queue=PREANNOTATE, job="task", set_up="worker.jobs.preannotation:set_up", warm=True, one_for_each_project=False
    ),
    "train": Duty(
        queue=TRAIN, job="training", set_up="worker.jobs.finetuning:set_up", warm=False, one_for_each_project=True
    ),
}


class ModelDiedError(AV2TError):
    """The model's process ended while it started; `how`, for a sentence."""

    def __init__(self, how: str) -> None:
        super().__init__(f"The model's process ended while it started ({how}).")
        self.how = how


def run_worker(
    settings: Settings,
    duty: Duty = DUTIES["preannotate"],
    *,
    name: str | None = None,
    burst: bool = False,
    max_jobs: int | None = None,
) -> None:
    """Work until told to stop, in a burst until the queue is empty, or until `max_jobs` are done. AV2TError: it cannot
    work as things are.
    """
    # Until RQ, right before it looks for jobs, has its own: else what is started here would be left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    log_to_stderr(settings)
    # The settings have it: what the jobs and their packages start need not inherit it.
    os.environ.pop("LABEL_STUDIO_API_KEY", None)
    connection = connect(settings.redis_url, timeout=REDIS_TIMEOUT)
    with reachable(connection):
        connection.ping()
    log.info("connected to Redis at %s", redis_address(connection))
    # Unique, for RQ refuses the name of a worker that was killed a minute ago.
    name = f"{name or socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    with work_folder() as folder:
        model, reconciler = ModelProcess(settings, name, duty.queue, duty.set_up, folder), Reconciler(settings)
        repairer = Repairer(settings, duty.queue)
        memory = most_memory(settings.memory_mb)
        worker = WarmWorker(connection, name, duty, model, hang_seconds=settings.hang_seconds, most_memory=memory)
        try:
            if duty.warm:
                worker.wait_for_model(lambda: None)
            if settings.reconcile_minutes and not burst and duty.queue == PREANNOTATE:
                reconciler.start()
            if not burst:
                repairer.start()
            ended = worker.work_on(burst=burst, max_jobs=max_jobs)
        finally:
            reconciler.stop()
            repairer.stop()
            model.stop(timeout=2)
    if worker.fault is not None:
        raise worker.fault
    if not ended:
        raise AV2TError("The worker ended because of the error above; start it again, its job is not lost.")
    log.info("worker %s ended", name)


class WarmWorker(BaseWorker):  # type: ignore[misc]  # rq has no types
    """The half that RQ sees. Where a method of RQ's is replaced, its docstring says why."""

    job_class, queue_class = KnownJob, KnownQueue
    max_connection_wait_time = LONGEST_WAIT  # RQ's: seconds between two tries to reach Redis

    _stopped_job_id: str | None  # RQ's: the job that a person wants stopped
    execution: Execution | None  # RQ's: of the job that runs

    def __init__(
        self,
        connection: Redis,
        name: str,
        duty: Duty,
        model: ModelProcess,
        *,
        hang_seconds: int,
        most_memory: int | None,
    ) -> None:
        super().__init__(
            [open_queue(connection, duty.queue)],
            name=name,
            connection=connection,
            serializer="json",
            worker_ttl=17,  # RQ waits 15 s less for a job, and looks up from the wait for what this class adds
            job_monitoring_interval=BEAT,
        )
        self._duty = duty
        self._model = model
        self._hang_seconds = hang_seconds  # without a sign of life, after which a job's process is ended
        self._most_memory = most_memory  # bytes of a job's process, beyond which it is ended
        self._housekeeping = Housekeeping(self.queues[0], name)
        self.fault: AV2TError | None = None  # why the worker cannot go on
        self._told_to_stop = False
        self._lost_redis = False
        self._done = 0  # jobs
        self._most: int | None = None  # jobs
        self._turn: Lock | None = None  # while a job runs that is its project's only one
        self._left: set[object] = set()  # why jobs were left to others, as far as that was said

    def work_on(self, *, burst: bool, max_jobs: int | None) -> bool:
        """RQ's `work`, and again whenever Redis was lost and is back. False: it ended for another reason than its own.

        The model stays warm meanwhile; a job whose end could not be noted is given out again, and finds its result.
        """
        self._most = max_jobs  # RQ would count those that are left to others
        while True:
            self._lost_redis = False
            try:
                self.work(burst=burst, logging_level="WARNING")
            except RedisError as error:  # while RQ registers the worker
                log.warning("Redis cannot be used (%s)", error)
                self._lost_redis = True
            if self._told_to_stop or self._done == self._most:
                return True
            if not self._lost_redis:
                return burst
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
                if isinstance(error, OutOfMemoryError):
                    self._make_room_in_redis()
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                log.info("Redis is back")
                return

    def _make_room_in_redis(self) -> None:
        """So that what waits can be done: a Redis at its limit still lets go of what it has."""
        with suppress(RedisError):
            gone = forget_sheets(self.connection) + forget_finished(self.connection, self._duty.queue, AT_ONCE)
            log.warning("%d pictures and jobs that ended well were forgotten, for Redis is full", gone)

    @contextmanager
    def _ending_without_redis(self) -> Iterator[None]:
        """RQ ends when Redis cannot be used, with a traceback; here its loop is left, to be begun anew."""
        try:
            yield
        except RedisError as error:
            log.warning("Redis cannot be used (%s)", error)
            self._lost_redis = True
            raise StopRequested from None

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Any:
        """RQ's own waits for a Redis that refuses it, but not for one that answers too late; and as long as no job
        comes, it does not return to look whether somebody else needs the GPU."""
        with self._ending_without_redis():
            while self._duty.warm and self._model.gpu:
                self._make_room()
                result = super().dequeue_job_and_maintain_ttl(timeout, None if timeout is None else 1)
                if result is not None or timeout is None:
                    return result
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def _make_room(self) -> None:
        """Wait, with the model put down, while a training has the GPU for itself."""
        lease = lease_key(self._model.gpu)
        if not self.connection.exists(lease):
            return
        log.info("worker %s puts its model down: a training needs its GPU", self.name)
        self._model.stop(timeout=2)
        while self.connection.exists(lease):
            self.heartbeat()
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()
            time.sleep(1)
        log.info("worker %s goes on: its GPU is free again", self.name)

    def teardown(self) -> None:
        """RQ's own fails without Redis; where it is left out, the worker is forgotten when its key runs out."""
        with suppress(RedisError):
            super().teardown()

    def wait_for_model(self, tick: Callable[[], None]) -> None:
        """Have the model's process ready, calling `tick` each second until it is. ModelDiedError, or AV2TError: it
        refuses."""
        if self._model.ready and self._model.receive(0) != "dead":
            return
        self._model.start()
        while (message := self._model.receive(1)) != "ready":
            if message == "dead":
                raise ModelDiedError(self._model.exit_reason())
            tick()

    def execute_job(self, job: KnownJob, queue: Queue) -> None:
        """RQ's own forks here."""
        with self._ending_without_redis():
            protocol = job.meta.get("protocol", PROTOCOL)
            if protocol != PROTOCOL:
                why = f"is of protocol {protocol} and this worker of {PROTOCOL}: bring both to the same release"
                self._leave(job, queue, protocol, why)
                return
            if job.refusal:
                self._refuse(job, queue)
                return
            with about(job), self._its_turn(job) as granted:
                if not granted:
                    self._leave(job, queue, job.id, "waits until its project's other one has ended")
                    return
                self._execute(job, queue)
        self._done += 1
        if self._done == self._most:
            raise StopRequested

    @contextmanager
    def _its_turn(self, job: Job) -> Iterator[bool]:
        """Whether the job may run now; within the block, no worker runs another one that has to wait for it."""
        if not self._duty.one_for_each_project:
            yield True
            return
        self._turn = turn(self.connection, job.kwargs["project"], LEASE)
        granted = self._turn.acquire()
        try:
            yield granted
        finally:
            if granted:
                with suppress(RedisError):  # then it runs out
                    self._turn.release()
            self._turn = None

    def _leave(self, job: Job, queue: Queue, key: object, why: str) -> None:
        """To other workers, or to a later look: it goes to the end of the queue. `why` is said once for each `key`."""
        if key not in self._left:
            self._left.add(key)
            log.warning("job %s %s; it is left to others", job.id, why)
        with self.connection.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 0, job.id)
            pipeline.rpush(queue.key, job.id)
            pipeline.execute()
        time.sleep(LEAVE)

    def _refuse(self, job: KnownJob, queue: Queue) -> None:
        """It has failed, with the reason, and whoever looks after Redis sees it."""
        log.error("job %s: %s", job.id, job.refusal)
        until = redis_time(self.connection) + FAILURE_TTL
        with self.connection.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 0, job.id)
            pipeline.hset(job.key, mapping=failed(job, job.refusal))
            pipeline.expire(job.key, FAILURE_TTL)
            pipeline.zadd(queue.failed_job_registry.key, {job.id: until})
            self.increment_failed_job_count(pipeline)
            pipeline.execute()

    def _execute(self, job: Job, queue: Queue) -> None:
        execution = self.prepare_execution(job)
        self._hold(job, execution)
        # RQ leaves this to who performs the job; done here, the list only ever holds jobs that are about to begin.
        queue.intermediate_queue.remove(job.id)

        if not self._model.ready:
            # The process does this when it begins the job; until then nobody could stop it.
            self.prepare_job_execution(job)
        if self._has_model_for(job, queue):
            self._model.perform(job, execution)
            self._watch(job, queue)
        if not self._duty.warm:
            self._model.stop(timeout=2)
        self.execution = None
        self.set_state(WorkerStatus.IDLE)

    def _has_model_for(self, job: Job, queue: Queue) -> bool:
        """Whether the model's process is ready for the job; where it is not, the job has been taken care of."""

        def tick() -> None:
            self._beat(job)
            if self._stop_requested or self._stopped_job_id == job.id:
                raise StopRequested

        reason: AV2TError | StopRequested | None = None
        try:
            self.wait_for_model(tick)
        except (AV2TError, StopRequested) as caught:
            reason = caught
        if self._stopped_job_id == job.id:
            self._after_death(job, queue, "stopped")
        elif reason is None:
            return True
        elif self._duty.warm or isinstance(reason, StopRequested):
            self.fault = reason if isinstance(reason, AV2TError) else None
            self._put_back(job, queue)
            raise StopRequested
        elif isinstance(reason, ModelDiedError):
            self._after_death(job, queue, f"{reason.how}, while it started")
        else:
            self._give_up(job, queue, str(reason))
        return False

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
            held = held_by(self._model.pid)
            if self._most_memory is not None and held is not None and held > self._most_memory:
                allowed = f"the {in_gigabytes(self._most_memory)} that AV2T_MEMORY_MB allows"
                self._after_death(job, queue, f"it held {in_gigabytes(held)} of memory, more than {allowed}")
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
            if self.execution is not None:
                self._hold(job, self.execution)
            if self._turn is not None:
                try:
                    self._turn.reacquire()
                except LockNotOwnedError:  # it ran out while this machine, or Redis, stood still
                    self._turn.acquire()
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()
        except RedisError as error:
            log.warning("no heartbeat: %s", error)

    def _hold(self, job: Job, execution: Execution) -> None:
        """For as long as the lease: RQ counts from this machine's clock, which may be an hour behind the others'."""
        until = redis_time(self.connection) + LEASE
        self.connection.zadd(job.started_job_registry.key, {execution.composite_key: until}, xx=True)

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
            what = self._duty.job
            sentence = f"The model's process died {deaths} times on this {what} ({reason}); the {what} was given up."
            job.retries_left = 0
        else:
            sentence = f"The model's process died on this {self._duty.job} ({reason})."
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
        job.retry_intervals = None  # those of an earlier try; this one is made at once
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

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """RQ's own counts by a clock that may be set back."""
        return self._housekeeping.is_due

    def run_maintenance_tasks(self) -> None:
        """RQ's own leaves too much behind, see `housekeeping`."""
        self._housekeeping.look()
