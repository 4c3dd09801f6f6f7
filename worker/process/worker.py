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
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event, Thread
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.utils import now
from rq.worker import WorkerStatus

from av2t_core.errors import AV2TError
from av2t_core.files import in_gigabytes
from worker.client.reconcile import reconcile
from worker.logs import about, log_to_stderr
from worker.process.duty import by_turns
from worker.process.memory import held_by, lease_key, most_memory
from worker.process.model_process import REDIS_TIMEOUT, ModelProcess, work_folder
from worker.process.rq_worker import BEAT, RQWorker
from worker.queue import heartbeat
from worker.queue.connection import LEASE, Lease, connect, reachable, redis_address
from worker.queue.job import PROTOCOL, KnownJob, open_queue
from worker.queue.kind import JobQueue
from worker.queue.preannotation import PREANNOTATE, PREANNOTATION
from worker.queue.projects import RECONCILED
from worker.queue.queue import STOPPED
from worker.queue.upkeep import REPAIR_EVERY, gone_key, repair
from worker.settings import Settings

log = logging.getLogger("av2t.worker")

GRACE = 8  # seconds that a running job has to end, or to keep what it has, when the worker is told to stop
DEATHS = 3  # of the model's process in one job, after which the job is given up
LEAVE = 2  # seconds between two looks at jobs that are left to others


class ModelDiedError(AV2TError):
    """The model's process ended while it started; `how`, for a sentence."""

    def __init__(self, how: str) -> None:
        super().__init__(f"The model's process ended while it started ({how}).")
        self.how = how


def run_worker(
    settings: Settings,
    queue: JobQueue = PREANNOTATION.queue,
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
        model, over = ModelProcess(settings, name, queue, folder), Event()
        worker = WarmWorker(connection, name, queue, model, max_jobs, settings)
        try:
            if queue.warm:
                worker.wait_for_model(lambda: None)
            if not burst:
                _begin_duties(settings, queue, over)
            ended = worker.work_through_outages(burst=burst)
        finally:
            over.set()
            model.stop(timeout=2)
    if worker.fault is not None:
        raise worker.fault
    if not ended:
        raise AV2TError("The worker ended because of the error above; start it again, its job is not lost.")
    log.info("worker %s ended", name)


def _begin_duties(settings: Settings, queue: JobQueue, over: Event) -> None:
    """What this worker does by turns with the others, until it is over."""

    def begin(*duty: object) -> None:
        Thread(target=by_turns, args=(settings.redis_url, over, *duty), name="av2t-duty", daemon=True).start()

    again = partial(repair, name=queue.name)
    begin("looking for jobs that no list knows", f"av2t:repaired:{queue.name}", REPAIR_EVERY, again)
    if settings.reconcile_minutes and queue.name == PREANNOTATE:
        missed = partial(reconcile, settings=settings)
        begin("looking for tasks that were missed", RECONCILED, 60 * settings.reconcile_minutes, missed)


class WarmWorker(RQWorker):
    """The half that RQ sees."""

    _stopped_job_id: str | None  # RQ's: the job that a person wants stopped
    execution: Execution | None  # RQ's: of the job that runs

    def __init__(
        self,
        connection: Redis,
        name: str,
        queue: JobQueue,
        model: ModelProcess,
        max_jobs: int | None,
        settings: Settings,
    ) -> None:
        super().__init__(open_queue(connection, queue.name), name)
        self._queue, self._model = queue, model
        self._hang_seconds = settings.hang_seconds  # without a heartbeat, after which a job's process is ended
        self._most_memory = most_memory(settings.memory_mb)  # bytes of a job's process, beyond which it is ended
        self.fault: AV2TError | None = None  # why the worker cannot go on
        self._done, self._most = 0, max_jobs  # RQ would count those that are left to others
        self._project_lease: Lease | None = None  # while a job runs that is its project's only one
        self._left: set[object] = set()  # why jobs were left to others, as far as that was said

    @property
    def is_over(self) -> bool:
        return self._done == self._most

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Any:
        """RQ's own waits for a Redis that refuses it, but not for one that answers too late; and as long as no job
        comes, it does not return to look whether somebody else needs the GPU."""
        with self.ending_without_redis():
            while self._queue.warm and self._model.gpu:
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
        with self.ending_without_redis():
            protocol = PROTOCOL if job.told.protocol is None else job.told.protocol
            if protocol != PROTOCOL:
                why = f"is of protocol {protocol} and this worker of {PROTOCOL}: bring both to the same release"
                self._leave(job, queue, protocol, why)
                return
            if job.refusal:
                self.refuse(job, queue)
                return
            with about(job), self._alone_in_project(job) as granted:
                if not granted:
                    self._leave(job, queue, job.id, "waits until its project's other one has ended")
                    return
                self._execute(job, queue)
        self._done += 1
        if self.is_over:
            raise StopRequested

    @contextmanager
    def _alone_in_project(self, job: KnownJob) -> Iterator[bool]:
        """Whether the job may run now; within the block, no worker runs another one that has to wait for it."""
        assert job.kind is not None
        assert job.payload is not None
        if job.kind.project_lease is None:
            yield True
            return
        lease = Lease(self.connection, f"{job.kind.project_lease}:{job.payload.subject.project}")
        if not lease.acquire():
            yield False
            return
        self._project_lease = lease
        try:
            yield True
        finally:
            self._project_lease = None
            with suppress(RedisError):  # then it runs out
                lease.release()

    def _leave(self, job: KnownJob, queue: Queue, key: object, why: str) -> None:
        """To other workers, or to a later look: it goes to the end of the queue. `why` is said once for each `key`."""
        if key not in self._left:
            self._left.add(key)
            log.warning("job %s %s; it is left to others", job.id, why)
        with self.connection.pipeline() as pipeline:
            pipeline.lrem(queue.intermediate_queue_key, 0, job.id).rpush(queue.key, job.id).execute()
        time.sleep(LEAVE)

    def _execute(self, job: KnownJob, queue: Queue) -> None:
        execution = self.prepare_execution(job)
        self.hold(job, execution)
        # RQ leaves this to who performs the job; done here, the list only ever holds jobs that are about to begin.
        queue.intermediate_queue.remove(job.id)

        if not self._model.ready:
            # The process does this when it begins the job; until then nobody could stop it.
            self.prepare_job_execution(job)
        if self._has_model_for(job, queue):
            self._model.send((job.id, execution.id))
            self._watch(job, queue)
        if not self._queue.warm:
            self._model.stop(timeout=2)
        self.execution = None
        self.set_state(WorkerStatus.IDLE)

    def _has_model_for(self, job: KnownJob, queue: Queue) -> bool:
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
        elif self._queue.warm or isinstance(reason, StopRequested):
            self.fault = reason if isinstance(reason, AV2TError) else None
            self._end_and_put_back(job, queue)
            raise StopRequested
        elif isinstance(reason, ModelDiedError):
            self._after_death(job, queue, f"{reason.how}, while it started")
        else:
            self._give_up(job, queue, str(reason))
        return False

    def _watch(self, job: KnownJob, queue: Queue) -> None:
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
            if self._stop_requested and stop_at is None:
                self._model.send(heartbeat.STOP)
                stop_at = clock + GRACE
            if message == "interrupted" or (stop_at is not None and clock >= stop_at):
                self._end_and_put_back(job, queue)
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

    def _beat(self, job: KnownJob) -> None:
        try:
            self.maintain_heartbeats(job)
            if self.execution is not None:
                self.hold(job, self.execution)
            if self._project_lease is not None:
                self._project_lease.renew()
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()
        except RedisError as error:
            log.warning("no heartbeat: %s", error)

    def _after_death(self, job: KnownJob, queue: Queue, reason: str) -> None:
        self._model.kill()
        if not self.is_in_hand(job):
            return
        if self._stopped_job_id == job.id and self.connection.delete(gone_key(job.id)):
            log.info("job %s: ended, for its task is gone", job.id)
            with self.connection.pipeline() as pipeline:
                self.cleanup_execution(job, pipeline)
                pipeline.delete(job.key)
                pipeline.execute()
            self._stopped_job_id = None
            return
        deaths = job.told.deaths + 1
        if self._stopped_job_id == job.id:
            sentence = STOPPED
        elif deaths >= DEATHS or not job.should_retry:
            what = self._queue.job
            sentence = f"The model's process died {deaths} times on this {what} ({reason}); the {what} was given up."
            job.retries_left = 0
        else:
            sentence = f"The model's process died on this {self._queue.job} ({reason})."
        self._fail(job, queue, sentence, deaths=deaths)

    def _give_up(self, job: KnownJob, queue: Queue, sentence: str) -> None:
        self._model.kill()
        if self.is_in_hand(job):
            job.retries_left = 0
            self._fail(job, queue, sentence)

    def _fail(self, job: KnownJob, queue: Queue, sentence: str, **noted: int) -> None:
        log.error("job %s: %s", job.id, sentence)
        job.note(error=sentence, **noted)
        job.retry_intervals = None  # those of an earlier try; this one is made at once
        job.ended_at = now()
        self.handle_job_failure(job, queue, exc_string=sentence)

    def _end_and_put_back(self, job: KnownJob, queue: Queue) -> None:
        self._model.kill()
        if self.is_in_hand(job):
            self.put_back(job, queue)

    @property
    def horse_pid(self) -> int:
        """RQ asks for it when a second signal comes: then the other half is killed."""
        return self._model.pid

    def kill_horse(self, *_: Any) -> None:
        """RQ calls this to stop a job, from its own thread: only the signal is sent, and `_watch` sees the death."""
        if pid := self._model.pid:
            os.kill(pid, signal.SIGKILL)
