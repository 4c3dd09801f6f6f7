"""The process that holds the model: spawned once, warm from the second job on, and gone when its parent is gone.

A forked process cannot use CUDA once its parent has, and one spawned for each job would load the model each time.
"""

import ctypes
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.job import Job
from rq.worker import BaseWorker

from av2t.remedies import told
from av2t_core.errors import AV2TError
from av2t_core.text import redact
from worker.failures import Interrupted, Verdict, delay, judge
from worker.logs import about, log_to_stderr
from worker.queue import heartbeat
from worker.queue.connection import connect, memory, redis_time
from worker.queue.known_job import KnownJob, KnownQueue
from worker.queue.queue import open_queue
from worker.settings import Settings

log = logging.getLogger("av2t.worker")

LEASE = 15
"""Seconds after which a job whose worker has fallen silent is given to another."""

REDIS_TIMEOUT = 10.0
FULL_TTL = 60
"""Seconds for which a job that ended well is remembered where Redis is full."""

DEFECT_RETRIES = 2
"""Of a failure that nobody foresaw: it may pass, but most do not."""

Message = Literal["ready", "alive", "done", "interrupted", "dead"]


class ModelProcess:
    """The parent's end. At any time there is one such process or none."""

    def __init__(self, settings: Settings, worker_name: str, queue: str, set_up: str, folder: Path) -> None:
        """`queue`: the name of the one that its jobs are of. `set_up`: the function ("module:function") that makes the
        process ready, given the settings, and returns the UUID of the GPU that its model is on, None for a CPU.
        `folder`: what the process leaves there is removed when it ends.
        """
        self._files = folder / "files"
        self._arguments = (settings, worker_name, queue, set_up, self._files)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._channel: Connection[Any, Any] | None = None
        self.ready = False
        self.gpu = ""  # the one that the model is on, or was

    @property
    def pid(self) -> int:
        return (self._process.pid or 0) if self._process else 0

    def start(self) -> None:
        """Begin to start it; `receive` says when it is ready."""
        self.kill()
        self._files.mkdir()
        context = multiprocessing.get_context("spawn")
        self._channel, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, os.getpid(), *self._arguments), name="av2t-model")
        self._process.start()
        theirs.close()  # else the channel stays open when the process dies

    def perform(self, job: Job, execution: Execution) -> None:
        if self._channel is not None:
            with suppress(OSError):  # it has just died: `receive` says so
                self._channel.send((job.id, execution.id))

    def ask_to_stop(self) -> None:
        """The job is to put down what it holds."""
        if self._channel is not None:
            with suppress(OSError):
                self._channel.send(heartbeat.STOP)

    def receive(self, timeout: float) -> Message | None:
        """The next message, None if there is none in `timeout` seconds. AV2TError: it refuses to start."""
        if self._channel is None or self._process is None:
            return "dead"
        wait([self._channel, self._process.sentinel], timeout)
        try:
            if self._channel.poll():
                message, said = self._channel.recv()
                if message == "refused":
                    self.kill()
                    raise AV2TError(said)
                if message == "ready":
                    self.gpu = said
                self.ready = True
                return message  # type: ignore[no-any-return]  # what `_main` and the job send
        except (EOFError, OSError):
            return "dead"
        return None if self._process.is_alive() else "dead"

    def exit_reason(self) -> str:
        """How it ended, for a sentence."""
        if self._process is None:
            return "it was not running"
        self._process.join()
        code = self._process.exitcode or 0
        if code == -signal.SIGKILL:
            return "signal SIGKILL, as when memory runs out"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def stop(self, timeout: float) -> None:
        """Let it end by itself, and kill it after `timeout` seconds."""
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            self._process.join(timeout)
        self.kill()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._channel is not None:
            self._channel.close()
        shutil.rmtree(self._files, ignore_errors=True)
        self._process = self._channel = None
        self.ready = False


class _JobRunner(BaseWorker):  # type: ignore[misc]  # rq has no types
    """RQ's own handling of a job, its registries and its retries, inside the process that holds the model."""

    job_class, queue_class = KnownJob, KnownQueue

    def __init__(self, queue: Queue, name: str, secret: str) -> None:
        super().__init__([queue], name=name, connection=queue.connection, serializer="json", prepare_for_work=False)
        self._secret = secret
        self._verdict: Verdict | None = None
        self._interrupted = False

    def run(self, job_id: str, execution_id: str) -> Literal["done", "interrupted"]:
        """`interrupted`: the job is as it was, and still in the hands of the worker."""
        queue = self.queues[0]
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
        try:
            if job.meta.pop("error", None):  # of an earlier try
                job.save_meta()
            with about(job):
                self.perform_job(job, queue)
        except RedisError as error:
            # The effects of the job are in Label Studio; the lease runs out, and the next run finds them.
            log.warning("job %s: its end could not be noted in Redis (%s); it will be looked at again", job_id, error)
        return "interrupted" if self._interrupted else "done"

    def get_heartbeat_ttl(self, job: Job) -> int:
        return LEASE

    def handle_job_success(self, job: Job, queue: Queue, started_job_registry: Any) -> None:
        """Where Redis is full, what was done makes room for what waits."""
        if memory(self.connection).full:
            job.result_ttl = FULL_TTL
        super().handle_job_success(job, queue, started_job_registry)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Decide whether the job is tried again, and say why it was not done."""
        self._interrupted = isinstance(exc_info[1], Interrupted)
        if self._interrupted:
            return
        self._verdict = verdict = judge(exc_info[1], job, self._secret)
        attempts = job.meta.get("attempts", 0)
        if verdict.final or (not verdict.expected and attempts >= DEFECT_RETRIES):
            job.retries_left = 0
        if verdict.doubtful:
            job.meta["doubts"] = job.meta.get("doubts", 0) + 1
        if job.should_retry:
            job.meta["attempts"] = attempts + 1
            seconds = delay(attempts, verdict.retry_after)
            job.retry_intervals = [seconds]
            log.warning("job %s: %s Trying again in %d s.", job.id, verdict.sentence, seconds)
        else:
            log.error("job %s: %s", job.id, verdict.sentence)
        if not verdict.expected:
            log.error("%s", "".join(traceback.format_exception(*exc_info)))
        job.meta["error"] = verdict.sentence
        job.save_meta()

    def handle_job_failure(
        self, job: Job, queue: Queue, started_job_registry: Any = None, exc_string: str = ""
    ) -> None:
        if self._interrupted:
            return
        expected = self._verdict is not None and self._verdict.expected
        reason = job.meta.get("error", "") if expected else redact(exc_string, self._secret)
        super().handle_job_failure(job, queue, started_job_registry, reason)
        if job.retry_intervals:
            # RQ counts from this machine's clock, which may be an hour ahead of the others'; Redis's is one for all.
            due = redis_time(self.connection) + job.retry_intervals[0]
            self.connection.zadd(queue.scheduled_job_registry.key, {job.id: due}, xx=True)


def _main(
    channel: "Connection[Any, Any]",
    parent: int,
    settings: Settings,
    worker_name: str,
    queue: str,
    set_up: str,
    files: Path,
) -> None:
    _end_with(parent)
    tempfile.tempdir = str(files)
    # Ctrl-C and a supervisor's SIGTERM reach the whole group: the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log_to_stderr(settings)
    module, _, function = set_up.partition(":")
    try:
        gpu: str | None = getattr(import_module(module), function)(settings)
    except AV2TError as error:
        channel.send(("refused", told(error)))
        return
    connection = connect(settings.redis_url, timeout=REDIS_TIMEOUT)
    runner = _JobRunner(open_queue(connection, queue), worker_name, settings.secret)
    channel.send(("ready", gpu or ""))
    heartbeat.listen(channel)
    while True:
        try:
            message = channel.recv()
        except EOFError:
            return
        if message == heartbeat.STOP:
            return
        channel.send((runner.run(*message), ""))


def _end_with(parent: int) -> None:
    """End when the parent does, by whatever signal."""
    if sys.platform == "linux":
        # The kernel's own way, which also ends a process that hangs in a CUDA call. 1 is PR_SET_PDEATHSIG.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        return
    process = multiprocessing.parent_process()
    assert process is not None
    threading.Thread(target=lambda: (wait([process.sentinel]), os._exit(1)), daemon=True).start()
