"""RQ's jobs and queues, of which only the known kinds are read and run.

What RQ would call by its name (another function, callbacks, webhooks, jobs that depend on a job) is never looked at,
and a job with a value of a wrong type is refused, in one sentence.
"""

import json
import logging
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, Field, Json, TypeAdapter, ValidationError
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.utils import utcformat

from av2t_core.limits import JOB_DATA, JOB_META, JOB_SECONDS, JOB_TRIES, SENTENCE
from worker.queue import KINDS
from worker.queue.connection import read_hashes
from worker.queue.kind import Kind, Meta, Payload, Subject
from worker.queue.preannotation import PREANNOTATE

log = logging.getLogger("av2t.worker")

PROTOCOL = 1
"""What a job's arguments mean, and what workers keep of it in Redis. A worker of another one leaves the job alone."""

FAILURE_TTL = 30 * 24 * 3600
JOB = Job.key_for("")
"""What the keys of jobs begin with."""

OLD_RESULTS = "rq:results:"
"""What the keys begin with under which earlier releases stored what a job returned."""

CHECKPOINT = "av2t:kept:"
"""What the keys of jobs' checkpoints begin with."""

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
    """`refusal`: a sentence why the job is not run, or "". `kind` and `payload` are None where they are not known."""

    refusal: str = ""
    kind: Kind[Any, Any] | None = None
    payload: Payload | None = None
    told = Meta()

    @property
    def meta(self) -> dict[str, Any]:
        """For RQ, which stores it; here `told` is read, and `note` writes."""
        return self.told.model_dump(exclude_defaults=True)

    @meta.setter
    def meta(self, values: Mapping[str, Any]) -> None:
        self.told = checked(Meta, values)[0]

    def note(self, **values: Any) -> None:
        """Change fields of `Meta`, here and in Redis. RedisError."""
        self.told = Meta.model_validate({**self.told.model_dump(), **values}, extra="forbid")
        self.save_meta()

    @property
    def subject(self) -> Subject:
        return (self.payload or Payload()).subject

    def failed_fields(self, sentence: str) -> dict[str, str]:
        """What the hash of the job has once it has failed, and says why."""
        meta = json.dumps(self.meta | {"error": sentence})
        return {"status": JobStatus.FAILED.value, "meta": meta, "ended_at": utcformat(datetime.now(UTC))}

    def refresh(self) -> None:
        """Only the fields that are read. NoSuchJobError: there is no such hash, or it is no job's."""
        self.restore(read_hashes(self.connection, [self.key], _FIELDS)[0] or {})

    @classmethod
    def fetch_many(cls, job_ids: Iterable[str], connection: Redis, serializer: Any = None) -> list["KnownJob | None"]:
        """RQ's own, of which an id that is none is no reason to fetch nothing."""
        ids = list(job_ids)
        jobs: list[KnownJob | None] = []
        for id, values in zip(ids, read_hashes(connection, map(cls.key_for, ids), _FIELDS), strict=True):
            try:
                job = cls(id, connection=connection, serializer=serializer)
                job.restore(values or {})
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
        self.data = inflated(raw["data"], JOB_DATA)
        self.kind, self.payload, unknown = _asked(self.data, self.origin)
        why = wrong or unknown
        self.refusal = f"This is not a job of AV2T: {why}." if why else ""

    def _handle_success(self, result_ttl: int, pipeline: Pipeline, *_: Any, **__: Any) -> None:
        """RQ's own keeps what the function returned in a stream of its own, which takes 4 KB of Redis's memory."""
        self.set_status(JobStatus.FINISHED, pipeline=pipeline)
        self.save(pipeline=pipeline, include_meta=False, include_result=False)
        pipeline.hset(self.key, RESULT, self._result.model_dump_json())
        self.finished_job_registry.add(self, result_ttl, pipeline)

    def _handle_failure(self, exc_string: str, pipeline: Pipeline, *_: Any, **__: Any) -> None:
        """As above."""
        self.failed_job_registry.add(self, ttl=self.failure_ttl, exc_string=exc_string, pipeline=pipeline)
        pipeline.hset(self.key, EXCEPTION, exc_string[-JOB_META:].encode(errors="replace"))

    def _execute(self) -> Any:
        """RQ's own imports whatever the data names."""
        assert self.kind is not None, self.refusal
        return imported(self.kind.function)(self.payload)


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
        """No known kind of job waits for another."""


def open_queue(connection: Redis, name: str = PREANNOTATE) -> KnownQueue:
    """The queue, with JSON for its serializer: a job is data, and reading one never runs code as a pickle would."""
    return KnownQueue(name, connection=connection, serializer="json")


def fetch(connection: Redis, ids: Iterable[str]) -> list[KnownJob]:
    """Those of these jobs that there are, in this order. RedisError."""
    # A registry may name a job twice (one entry for each execution) or one that has expired since.
    jobs = KnownJob.fetch_many(dict.fromkeys(ids), connection=connection, serializer="json")
    return [job for job in jobs if job is not None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was recorded of a job's last end: what its function returned, or its exception with the traceback."""

    value: Any = None
    exception: str = ""


NOTHING = Outcome()


def outcomes(connection: Redis, jobs: Sequence[KnownJob]) -> dict[str, Outcome]:
    """Of each of these jobs, NOTHING where nothing is recorded that can be read. RedisError."""
    with connection.pipeline(transaction=False) as pipe:
        for job in jobs:
            pipe.hmget(job.key, RESULT, EXCEPTION)
            pipe.xrevrange(OLD_RESULTS + job.id, count=1)
        found = pipe.execute(raise_on_error=False)
    ends = map(_outcome, found[::2], found[1::2])
    return {job.id: outcome for job, outcome in zip(jobs, ends, strict=True)}


def _outcome(fields: Any, entries: Any) -> Outcome:
    """`entries`: where earlier releases stored it."""
    try:
        if not isinstance(fields, RedisError) and any(fields):
            value, exception = fields
            return Outcome(value=json.loads(value or b"null"), exception=(exception or b"").decode(errors="replace"))
        if not entries or isinstance(entries, RedisError):
            return NOTHING
        [(_, recorded)] = entries
        exception = inflated(b64decode(recorded.get(b"exc_string", b"")), JOB_DATA)
        return Outcome(
            value=json.loads(b64decode(recorded.get(b"return_value", b"")) or b"null"),
            exception=exception.decode(errors="replace"),
        )
    except (ValueError, RecursionError):
        return NOTHING


def reason(job: KnownJob, outcome: Outcome) -> str:
    """Why it failed: the sentence that the worker left, or the last line of what was recorded."""
    if job.told.error:
        return job.told.error[:SENTENCE]
    if "AbandonedJobError" in outcome.exception:
        return "The worker died each time this was tried"
    last = outcome.exception.strip().rpartition("\n")[2]
    return last[:SENTENCE] or "Unknown: the worker left no reason"


def id_in(entry: Any) -> str:
    """The job's id in an entry (bytes) of a list or a registry; behind those of jobs that run, an execution's is."""
    return str(entry, errors="replace").partition(":")[0]


def imported(name: str) -> Any:
    """What "module:name" names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


Model = TypeVar("Model")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def checked(model: type[Model], values: Mapping[str, Any]) -> tuple[Model, str]:
    """What of `values` is as the model has it, and of the first that is not a sentence's half, or ""."""
    adapter: TypeAdapter[Model] = _adapter(model)
    try:
        return adapter.validate_python(values), ""
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False)
    bad = {fault["loc"][0] for fault in faults}
    left = {name: value for name, value in values.items() if name not in bad}
    return adapter.validate_python(left), _told(faults[0], faults[0]["loc"][:1])


def _told(fault: Any, place: Iterable[Any]) -> str:
    return f"its {'.'.join(map(str, place))} is {fault['input']!r:.60} ({fault['msg']})"


def _meta(packed: bytes) -> dict[str, Any]:
    """{} if it is none."""
    with suppress(ValueError, RecursionError):
        if len(packed) <= JOB_META and isinstance(said := json.loads(packed), dict):
            return said
    return {}


def inflated(packed: bytes, most: int) -> bytes:
    """What is packed, b"" if that is none or more than `most` bytes: a thousandfold may be packed into it."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, most)
    except zlib.error:
        return b""
    return b"" if unpacker.unconsumed_tail else data


def _asked(data: bytes, queue: str) -> tuple[Kind[Any, Any] | None, Payload | None, str]:
    """The kind of a job and its payload, or why it may not be run."""
    if not data:
        return None, None, f"its data cannot be read, or has more than {JOB_DATA} bytes"
    try:
        function, instance, arguments, named = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        return None, None, "its data is not a function and its arguments"
    kind = KINDS.get(function) if isinstance(function, str) else None
    if kind is None or kind.queue.name != queue:
        return None, None, f"it names the function {function!r:.60}"
    if instance is not None or arguments != [] or not isinstance(named, dict):
        return None, None, f"{function} takes named arguments alone"
    try:
        return kind, kind.payload.model_validate(named), ""
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        return None, None, _told(fault, fault["loc"])
