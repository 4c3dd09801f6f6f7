"""What a job has predicted so far, for its next try: in Redis, for that may run on another machine."""

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from av2t_core.labelstudio.tracks import Sighting
from av2t_core.limits import KEPT_PART
from av2t_core.prediction.objects import Known
from worker.queue.connection import best_effort, memory
from worker.queue.job import CHECKPOINT, KnownJob

log = logging.getLogger("av2t.worker")

_LIVES = 24 * 3600  # seconds

# KEYS: a job's list. ARGV: its identity, a part, and in how many seconds it ends.
_KEEP = """
if redis.call("EXISTS", KEYS[1]) == 0 then
    redis.call("RPUSH", KEYS[1], ARGV[1])
end
redis.call("RPUSH", KEYS[1], ARGV[2])
redis.call("EXPIRE", KEYS[1], ARGV[3])
"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Keyframes that follow one another, from the `first` of the clip (0-based) on."""

    first: int
    scores: Sequence[float]  # one for each keyframe
    result: str  # their regions, as a JSON list without its brackets: as objects they take 3.5 times as much memory
    sightings: Sequence[Sighting]
    known: Known = field(default_factory=dict)  # the things of the clip, after these keyframes

    @property
    def end(self) -> int:
        return self.first + len(self.scores)


_PART = TypeAdapter(Part)


class Kept:
    """The parts of one job. A Redis that is away costs no more than what they would have saved."""

    def __init__(self, job: KnownJob | None, identity: str) -> None:
        """`identity`: all that the parts depend on; those of another one are dropped."""
        self._job, self._identity = job, identity.encode()
        self._key = _key(job) if job is not None else ""

    def parts(self) -> list[Part]:
        """Of earlier tries, from the first keyframe on, as far as they follow one another."""
        if self._job is None:
            return []
        packed: list[bytes] = []
        with best_effort(f"{self._job.id} begins anew, for what was kept of it cannot be read"):
            identity, *packed = self._job.connection.lrange(self._key, 0, -1) or [self._identity]
            if identity != self._identity:
                packed = []
                self._job.connection.delete(self._key)
        parts: list[Part] = []
        try:
            for part in map(_unpacked, packed):
                # Another may begin earlier, where two workers had the job for a while.
                if part.first == (parts[-1].end if parts else 0):
                    parts.append(part)
        except ValueError as error:
            log.warning("%s begins anew after %d parts, for the next is none: %.200s", self._job.id, len(parts), error)
        return parts

    def keep(self, part: Part) -> None:
        if self._job is None:
            return
        with best_effort(f"{len(part.scores)} keyframes of {self._job.id} were not kept"):
            if not memory(self._job.connection).full:
                keep = self._job.connection.register_script(_KEEP)
                keep(keys=[self._key], args=[self._identity, _packed(part), _LIVES])


def forget(job: KnownJob) -> None:
    """All that was kept of it."""
    with best_effort(f"what was kept of {job.id} stays for a day"):
        job.connection.delete(_key(job))


def _key(job: KnownJob) -> str:
    return f"{CHECKPOINT}{job.id}"


def _packed(part: Part) -> bytes:
    return zlib.compress(_PART.dump_json(part), level=1)


def _unpacked(data: bytes) -> Part:
    """ValueError: it is none, or a larger one than any that was kept."""
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, KEPT_PART)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return _PART.validate_json(unpacked)
