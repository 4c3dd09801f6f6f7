"""A clip through the model, to what is pushed: in one pass, and in memory that hardly grows with its length.

What is predicted is stored from time to time, so that a job that is cut off, or told to stop, goes on where it was.
"""

import json
import logging
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from pydantic import TypeAdapter

from av2t_core.labelstudio.label_config import Targets
from av2t_core.labelstudio.regions import Region, clip_regions, keyframe_regions
from av2t_core.labelstudio.task_data import frame_rate
from av2t_core.labelstudio.tracks import Clock, Sighting
from av2t_core.limits import KEPT_PART
from av2t_core.media.clip import Clip, ClipInfo, Window
from av2t_core.prediction.drawing import ContactSheet
from av2t_core.prediction.objects import Detection, Known, Tracker
from av2t_core.prediction.predictor import KeyframePrediction, Predictor
from worker.queue import heartbeat
from worker.queue.connection import best_effort, memory
from worker.queue.heartbeat import Interrupted, Progress
from worker.queue.job import CHECKPOINT, KnownJob, inflated

log = logging.getLogger("av2t.worker")

JPEG_QUALITY = 90  # of frames
RATE_DIGITS = 3  # of the frame rate that a task is given
CHECKPOINT_INTERVAL = 10.0  # seconds of work that a worker which is killed may lose
_CHECKPOINT_SECONDS = 24 * 3600  # seconds

# KEYS: a job's list. ARGV: its identity, a part, and in how many seconds it ends.
_APPEND = """
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


class Checkpoint:
    """The parts of one job that are predicted; where Redis is away, they are predicted again."""

    def __init__(self, job: KnownJob, identity: str) -> None:
        """`identity`: all that the parts depend on; those of another one are dropped."""
        self._job, self._identity = job, identity.encode()
        self._key = f"{CHECKPOINT}{job.id}"

    def parts(self) -> list[Part]:
        """Of earlier tries, from the first keyframe on, as far as they follow one another."""
        packed: list[bytes] = []
        with best_effort(f"{self._job.id} begins anew, for its checkpoint cannot be read"):
            identity, *packed = self._job.connection.lrange(self._key, 0, -1) or [self._identity]
            if identity != self._identity:
                packed = []
                self._job.connection.delete(self._key)
        parts: list[Part] = []
        try:
            for part in (_PART.validate_json(inflated(each, KEPT_PART)) for each in packed):
                # Another may begin earlier, where two workers had the job for a while.
                if part.first == (parts[-1].end if parts else 0):
                    parts.append(part)
        except ValueError as error:
            log.warning("%s begins anew after %d parts, for the next is none: %.200s", self._job.id, len(parts), error)
        return parts

    def add(self, part: Part) -> None:
        with best_effort(f"{len(part.scores)} keyframes of {self._job.id} were not stored"):
            if not memory(self._job.connection).full:
                packed = zlib.compress(_PART.dump_json(part), level=1)
                append = self._job.connection.register_script(_APPEND)
                append(keys=[self._key], args=[self._identity, packed, _CHECKPOINT_SECONDS])


def delete_checkpoint(job: KnownJob) -> None:
    """Delete its checkpoint."""
    with best_effort(f"the checkpoint of {job.id} stays for a day"):
        job.connection.delete(f"{CHECKPOINT}{job.id}")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a clip's pass through the model has found."""

    info: ClipInfo
    frames: list[Path]  # JPEG of every keyframe, if they are wanted
    result: list[str]  # the prediction's regions: JSON lists without their brackets
    sheet: ContactSheet | None  # of the keyframes of this try; None if it had none to look at
    score: float  # low where the model is unsure, so that those tasks can come first; see _score


@dataclass
class _Open:
    """A part that is not in the checkpoint yet."""

    first: int
    scores: list[float] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


def predict(
    clip: Clip,
    predictor: Predictor,
    targets: Targets,
    task: int,
    progress: Progress,
    checkpoint: Checkpoint,
    *,
    folder: Path | None,
    rate: float | None,
) -> Prediction:
    """Decode and predict, from where an earlier try of the job stopped; the frames go into `folder`, if there is one.

    `rate`: by which the page counts frames; None: by the clip's own, which the task is given. Interrupted: the worker
    has to stop.
    """
    parts = checkpoint.parts()
    done = parts[-1].end if parts else 0
    if done:
        log.info("task %d: the first %d keyframes are there from an earlier try", task, done)
    frames: list[Path] = []
    sheet, tracker = ContactSheet(), Tracker(parts[-1].known if parts else None)

    def close(part: _Open) -> None:
        result = _json(part.regions)
        known = tracker.known
        parts.append(Part(first=part.first, scores=part.scores, result=result, sightings=part.sightings, known=known))
        checkpoint.add(parts[-1])

    open_part, count = _Open(first=done), done
    progress.show(done, clip.expected_windows)
    # What is there already is decoded once more, for its frames; beside predicting that is little. The last of it is
    # heard once more, for a sound may go on.
    context = min(done, 1)
    windows = _from(clip.windows(), done - context, task, folder, frames)
    for seen in predictor.predict_clip(sheet.listen(windows), targets.names, tracker, context=context):
        sheet.add(seen)
        open_part.scores.append(seen.score)
        open_part.regions += keyframe_regions(
            targets,
            task=task,
            model_version=predictor.model_version,
            page=count,
            time=seen.keyframe.time,
            objects=seen.objects,
        )
        open_part.sightings += [_sighting(seen, each) for each in seen.objects]
        count += 1
        progress.show(count, max(clip.expected_windows or 0, count))
        stop = heartbeat.cancelled()
        if stop or time.monotonic() - open_part.since >= CHECKPOINT_INTERVAL:
            close(open_part)
            open_part = _Open(first=count)
        if stop:
            raise Interrupted
    if open_part.scores:
        close(open_part)
    progress.show(count, count, now=True)
    info = clip.info
    for remark in info.remarks:
        log.info("task %d: %s", task, remark)
    counted = frame_rate({}, str(round(info.fps, RATE_DIGITS))) if rate is None else rate
    whole = clip_regions(
        targets,
        task=task,
        model_version=predictor.model_version,
        clock=Clock.of_clip(info, counted),
        size=(info.height, info.width),
        sightings=[sighting for part in parts for sighting in part.sightings],
    )
    results = [part.result for part in parts] + [_json(whole)]
    return Prediction(
        info=info,
        frames=frames,
        result=[result for result in results if result],
        sheet=sheet if count > done else None,
        score=_score(info, [score for part in parts for score in part.scores]),
    )


def _score(info: ClipInfo, scores: Sequence[float]) -> float:
    """The mean over the keyframes. A clip in which nothing can be heard was not judged, and comes first."""
    return round(sum(scores) / len(scores), 4) if info.audible else 0.0


def _from(
    windows: Iterator[Window], skipped: int, task: int, folder: Path | None, frames: list[Path]
) -> Iterator[Window]:
    """The windows after the first `skipped`; the frames of all of them are written."""
    for page, window in enumerate(windows):
        heartbeat.beat()  # nobody decodes ahead of a model that hangs
        if folder is not None:
            at = window.keyframe
            frames.append(folder / f"av2t-task{task}-k{at.index:03d}-f{at.frame:05d}.jpg")
            Image.fromarray(window.image).save(frames[-1], "JPEG", quality=JPEG_QUALITY)
        if page >= skipped:
            yield window


def _json(regions: Sequence[Region]) -> str:
    """As a list without its brackets."""
    return json.dumps(regions, separators=(",", ":"))[1:-1]


def _sighting(seen: KeyframePrediction, thing: Detection) -> Sighting:
    return Sighting(
        number=thing.number,
        names=tuple(thing.names),
        window=seen.keyframe.index,
        time=seen.keyframe.time,
        box=thing.box,
        score=thing.score,
    )
