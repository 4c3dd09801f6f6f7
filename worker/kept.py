"""What a job has predicted so far, for its next try: in Redis, for that may run on another machine."""

import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from redis.exceptions import RedisError
from rq.job import Job

from av2t_core.labelstudio.tracks import Sighting
from av2t_core.objects import Known

log = logging.getLogger("av2t.worker")

_LIVES = 24 * 3600  # seconds


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


class Kept:
    """The parts of one job. A Redis that is away costs no more than what they would have saved."""

    def __init__(self, job: Job | None, identity: str) -> None:
        """`identity`: all that the parts depend on; those of another one are dropped."""
        self._job, self._identity = job, identity.encode()
        self._key = f"av2t:kept:{job.id}" if job is not None else ""

    def parts(self) -> list[Part]:
        """Of earlier tries, from the first keyframe on, as far as they follow one another."""
        if self._job is None:
            return []
        try:
            identity, *packed = self._job.connection.lrange(self._key, 0, -1) or [self._identity]
            if identity != self._identity:
                self._job.connection.delete(self._key)
                return []
        except RedisError as error:
            log.warning("what was kept of %s cannot be read (%s): it begins anew", self._job.id, error)
            return []
        parts: list[Part] = []
        for part in map(_unpacked, packed):
            # Another may begin earlier, where two workers had the job for a while.
            if part.first == (parts[-1].end if parts else 0):
                parts.append(part)
        return parts

    def keep(self, part: Part) -> None:
        if self._job is None:
            return
        try:
            if not self._job.connection.exists(self._key):
                self._job.connection.rpush(self._key, self._identity)
            with self._job.connection.pipeline() as pipe:
                pipe.rpush(self._key, _packed(part))
                pipe.expire(self._key, _LIVES)
                pipe.execute()
        except RedisError as error:
            log.warning("%d keyframes of %s were not kept: %s", len(part.scores), self._job.id, error)

    def forget(self) -> None:
        if self._job is None:
            return
        try:
            self._job.connection.delete(self._key)
        except RedisError as error:
            log.warning("what was kept of %s stays for a day: %s", self._job.id, error)


def _packed(part: Part) -> bytes:
    return zlib.compress(json.dumps(asdict(part)).encode(), level=1)


def _unpacked(data: bytes) -> Part:
    fields: dict[str, Any] = json.loads(zlib.decompress(data))
    sightings = [
        Sighting(**{**each, "names": tuple(each["names"]), "box": tuple(each["box"])}) for each in fields["sightings"]
    ]
    known = {int(number): (label, tuple(box)) for number, (label, box) in fields["known"].items()}
    return Part(**{**fields, "sightings": sightings, "known": known})
