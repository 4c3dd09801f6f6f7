"""RQ's jobs and queues, of which only what is ours is read and run.

What RQ would call by its name (another function, callbacks, webhooks, jobs that depend on a job) is never looked at,
and what is of another type than it must be makes its job none of ours, which is said in one sentence.
"""

import json
import logging
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, Json, ValidationError
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.utils import import_attribute

from av2t_core.limits import JOB_DATA, JOB_META, JOB_SECONDS, JOB_TRIES
from worker.queue.kinds import KINDS, Arguments

log = logging.getLogger("av2t.worker")

AT_ONCE = 500
"""Jobs that are asked of Redis, or sent to it, together."""

PROTOCOL = 1
"""What a job's arguments mean, and what workers keep of it in Redis. A worker of another one leaves the job alone."""


class Told(BaseModel):
    """What a job's meta may hold: what the worker notes of it, and what the job tells while it runs."""

    model_config = ConfigDict(strict=True)

    protocol: int | None = None
    error: str | None = None
    attempts: Annotated[int, Field(ge=0, le=JOB_TRIES)] | None = None
    doubts: Annotated[int, Field(ge=0, le=JOB_TRIES)] | None = None
    deaths: Annotated[int, Field(ge=0, le=JOB_TRIES)] | None = None
    uploading: bool | None = None
    stage: str | None = None
    done: Annotated[int, Field(ge=0)] | None = None
    total: Annotated[int, Field(ge=0)] | None = None
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    eta: Annotated[float, Field(allow_inf_nan=False)] | None = None
    version: str | None = None
    clips: int | None = None
    held_out: int | None = None


Seconds = Annotated[int, Field(ge=1, le=JOB_SECONDS)]


class _Stored(BaseModel):
    """What is read of RQ's hash of a job, beside its data and its meta."""

    origin: str = ""
    status: JobStatus = JobStatus.CREATED
    description: str | None = None
    worker_name: str | None = None
    created_at: AwareDatetime | None = None
    enqueued_at: AwareDatetime | None = None
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    last_heartbeat: AwareDatetime | None = None
    timeout: Seconds | None = None
    result_ttl: Seconds | None = None
    failure_ttl: Seconds | None = None
    retries_left: Annotated[int, Field(ge=0, le=JOB_TRIES)] | None = None
    retry_intervals: Json[list[Annotated[int, Field(ge=0, le=JOB_SECONDS)]]] | None = None


_FIELDS = ("data", "meta", *_Stored.model_fields)
RESULT, EXCEPTION = "av2t_result", "av2t_exception"
"""Fields of ours in a job's hash: what its function returned, as JSON, or what it raised, with the traceback."""


class KnownJob(Job):  # type: ignore[misc]  # rq has no types
    """`refusal`: a sentence why it is no job of ours, or "". `arguments`: those of its function, None if it is none."""

    refusal: str = ""
    arguments: Arguments | None = None

    def refresh(self) -> None:
        """Only the fields that are read. NoSuchJobError: there is no such hash, or it is no job's."""
        try:
            values = self.connection.hmget(self.key, _FIELDS)
        except ResponseError as error:
            if not _is_no_hash(error):
                raise
            raise NoSuchJobError(f"{self.key} is no hash") from None
        self.restore(_present(values))

    @classmethod
    def fetch_many(cls, job_ids: Iterable[str], connection: Redis, serializer: Any = None) -> list["KnownJob | None"]:
        """RQ's own, of which an id that is none is no reason to fetch nothing."""
        ids, found = list(job_ids), []
        for start in range(0, len(ids), AT_ONCE):
            with connection.pipeline(transaction=False) as pipe:
                for id in ids[start : start + AT_ONCE]:
                    pipe.hmget(cls.key_for(id), _FIELDS)
                found += pipe.execute(raise_on_error=False)
        jobs: list[KnownJob | None] = []
        for id, values in zip(ids, found, strict=True):
            if isinstance(values, RedisError) and not _is_no_hash(values):
                raise values
            try:
                job = cls(id, connection=connection, serializer=serializer)
                job.restore({} if isinstance(values, RedisError) else _present(values))
            except (ValueError, NoSuchJobError):
                jobs.append(None)
            else:
                jobs.append(job)
        return jobs

    def restore(self, raw_data: Mapping[Any, bytes]) -> None:
        """RQ's own takes whatever is there. NoSuchJobError: the fields are no job's."""
        raw = {name.decode() if isinstance(name, bytes) else name: value for name, value in raw_data.items()}
        if not raw.get("data"):
            raise NoSuchJobError(f"{self.key} has no data")
        texts = {name: raw[name].decode(errors="replace") for name in _Stored.model_fields if raw.get(name)}
        stored, wrong = checked(_Stored, texts)
        for name, value in stored:
            setattr(self, "_status" if name == "status" else name, value)
        self.created_at = stored.created_at or datetime.now(UTC)
        self.meta = _meta(raw.get("meta", b""))
        data, whole = inflated(raw["data"])
        self.data = data
        self.arguments, unknown = _arguments(data if whole else b"", self.origin)
        why = wrong or unknown
        self.refusal = f"This is no job of ours: {why}." if why else ""

    def save_meta(self) -> None:
        """What `Told` does not have would be gone when it is read again."""
        assert self.meta.keys() <= Told.model_fields.keys(), self.meta
        super().save_meta()

    def _handle_success(self, result_ttl: int, pipeline: Pipeline, *_: Any, **__: Any) -> None:
        """RQ's own keeps what the function returned in a stream of its own, which takes 4 KB of Redis's memory."""
        self.set_status(JobStatus.FINISHED, pipeline=pipeline)
        self.save(pipeline=pipeline, include_meta=False, include_result=False)
        pipeline.hset(self.key, RESULT, json.dumps(self._result))
        self.finished_job_registry.add(self, result_ttl, pipeline)

    def _handle_failure(self, exc_string: str, pipeline: Pipeline, *_: Any, **__: Any) -> None:
        """As above."""
        self.failed_job_registry.add(self, ttl=self.failure_ttl, exc_string=exc_string, pipeline=pipeline)
        pipeline.hset(self.key, EXCEPTION, exc_string[-JOB_META:].encode(errors="replace"))

    def _execute(self) -> Any:
        """RQ's own imports whatever the data names."""
        assert self.arguments is not None, self.refusal
        return import_attribute(KINDS[self.func_name].function)(**self.arguments.model_dump())


class KnownQueue(Queue):  # type: ignore[misc]  # rq has no types
    job_class = KnownJob

    @classmethod
    def dequeue_any(
        cls, queues: Iterable[Queue], timeout: int | None, connection: Redis, **_: Any
    ) -> tuple[KnownJob, Queue] | None:
        """RQ's own ends its worker over an id that is none, and leaves one without a job where it is."""
        [queue] = queues
        while (popped := cls.lmove(connection, queue.key, timeout)) is not None:
            job = queue.look_up(popped[1])
            if job is not None:
                return job, queue
            log.warning("%s held %.100r, which is no job; it was dropped", queue.name, popped[1])
            connection.lrem(queue.intermediate_queue_key, 0, popped[1])
        return None

    def look_up(self, entry: bytes | str) -> KnownJob | None:
        """The job of an entry of a list or registry of this queue, None if there is none. RedisError."""
        id = entry.decode(errors="replace") if isinstance(entry, bytes) else entry
        return KnownJob.fetch_many([id], self.connection, self.serializer)[0]

    def enqueue_dependents(self, *_: Any, **__: Any) -> None:
        """No job of ours waits for another."""


def _present(values: Iterable[bytes | None]) -> dict[str, bytes]:
    return {name: value for name, value in zip(_FIELDS, values, strict=True) if value is not None}


def _is_no_hash(error: RedisError) -> bool:
    return str(error).startswith("WRONGTYPE")


Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], values: Mapping[str, Any]) -> tuple[Model, str]:
    """What of `values` is as the model has it, and of the first that is not a sentence's half, or ""."""
    try:
        return model.model_validate(values), ""
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
    bad = {fault["loc"][0] for fault in faults}
    name, value = faults[0]["loc"][0], f"{faults[0]['input']!r:.60}"
    left = {name: value for name, value in values.items() if name not in bad}
    return model.model_validate(left), f"its {name} is {value} ({faults[0]['msg']})"


def _meta(packed: bytes) -> dict[str, Any]:
    """What in it is as it must be."""
    if len(packed) > JOB_META:
        return {}
    try:
        said = json.loads(packed or b"{}")
    except (ValueError, RecursionError):
        return {}
    return checked(Told, said)[0].model_dump(exclude_unset=True) if isinstance(said, dict) else {}


def inflated(packed: bytes) -> tuple[bytes, bool]:
    """What is packed, and whether that is all of it: a thousandfold may be packed into it."""
    unpacker = zlib.decompressobj()
    try:
        return unpacker.decompress(packed, JOB_DATA), not unpacker.unconsumed_tail
    except zlib.error:
        return b"", True


def _arguments(data: bytes, queue: str) -> tuple[Arguments | None, str]:
    """Those of a job's function, or None and why it has none that may be run."""
    if not data:
        return None, f"its data cannot be read, or has more than {JOB_DATA} bytes"
    try:
        function, instance, arguments, named = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        return None, "its data is not a function and its arguments"
    kind = KINDS.get(function) if isinstance(function, str) else None
    if kind is None or kind.queue != queue:
        return None, f"it names the function {function!r:.60}"
    if instance is not None or arguments != [] or not isinstance(named, dict):
        return None, f"{function} takes named arguments alone"
    try:
        return kind.arguments.model_validate(named), ""
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(map(str, fault["loc"]))
        return None, f"its {name} is {fault['input']!r:.60} ({fault['msg']})"
