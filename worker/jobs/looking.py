"""A clip through the model, to what is pushed: in one pass, and in memory that hardly grows with its length.

What is predicted is kept from time to time, so that a job which is cut off, or told to stop, goes on where it was.
"""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from av2t_core.labelstudio.config import Targets
from av2t_core.labelstudio.regions import Region, clip_regions, keyframe_regions
from av2t_core.labelstudio.tracks import Clock, Sighting
from av2t_core.media.clip import Clip, ClipInfo, Keyframe, Window
from av2t_core.prediction.drawing import ContactSheet
from av2t_core.prediction.objects import Detection, Tracker
from av2t_core.prediction.predictor import KeyframePrediction, Predictor
from worker.failures import Interrupted
from worker.jobs.progress import Progress
from worker.queue import heartbeat
from worker.queue.kept import Kept, Part

log = logging.getLogger("av2t.worker")

JPEG_QUALITY = 90  # of frames
RATE_DIGITS = 3  # of the frame rate that a task is given
KEEP_INTERVAL = 10.0  # seconds of work that a worker which is killed may lose


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A clip that has been looked at."""

    info: ClipInfo
    frames: list[Path]  # JPEG of every keyframe, if they are wanted
    result: list[str]  # the prediction's regions: JSON lists without their brackets
    sheet: ContactSheet | None  # of the keyframes of this try; None if it had none to look at
    score: float  # mean over the keyframes: low where the model is unsure, so that those tasks can come first


@dataclass
class _Growing:
    """A part that is not kept yet."""

    first: int
    scores: list[float] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


def look(
    clip: Clip,
    predictor: Predictor,
    targets: Targets,
    task: int,
    progress: Progress,
    kept: Kept,
    *,
    folder: Path | None,
    rate: object,
) -> Seen:
    """Decode and predict, from where an earlier try of the job stopped; the frames go into `folder`, if there is one.

    `rate`: by which the page counts frames; the clip's own if it is none. Interrupted: the worker has to stop.
    """
    parts = kept.parts()
    done = parts[-1].end if parts else 0
    if done:
        log.info("task %d: the first %d keyframes are kept from an earlier try", task, done)
    frames: list[Path] = []
    sheet, tracker = ContactSheet(), Tracker(parts[-1].known if parts else None)

    def close(part: _Growing) -> None:
        result = _json(part.regions)
        known = tracker.known
        parts.append(Part(first=part.first, scores=part.scores, result=result, sightings=part.sightings, known=known))
        kept.keep(parts[-1])

    growing, count = _Growing(first=done), done
    progress.show(done, clip.expected_windows)
    # What is there already is decoded once more, for its frames; beside predicting that is little.
    windows = _passed(clip.windows(), done, task, folder, frames)
    for seen in predictor.predict_clip(sheet.listen(windows), targets.names, tracker):
        sheet.add(seen)
        growing.scores.append(seen.score)
        growing.regions += keyframe_regions(
            targets,
            task=task,
            model_version=predictor.model_version,
            page=count,
            time=seen.keyframe.time,
            objects=seen.objects,
        )
        growing.sightings += [_sighting(seen, each) for each in seen.objects]
        count += 1
        progress.show(count, max(clip.expected_windows or 0, count))
        stop = heartbeat.cancelled()
        if stop or time.monotonic() - growing.since >= KEEP_INTERVAL:
            close(growing)
            growing = _Growing(first=count)
        if stop:
            raise Interrupted
    if growing.scores:
        close(growing)
    progress.show(count, count, now=True)
    info = clip.info
    for remark in info.remarks:
        log.info("task %d: %s", task, remark)
    scores = [score for part in parts for score in part.scores]
    counted = float(rate) if isinstance(rate, int | float) and rate > 0 else round(info.fps, RATE_DIGITS)
    whole = clip_regions(
        targets,
        task=task,
        model_version=predictor.model_version,
        clock=Clock(rate=counted, duration=info.duration, step=info.step),
        size=(info.height, info.width),
        sightings=[sighting for part in parts for sighting in part.sightings],
    )
    results = [part.result for part in parts] + [_json(whole)]
    return Seen(
        info=info,
        frames=frames,
        result=[result for result in results if result],
        sheet=sheet if count > done else None,
        score=round(sum(scores) / len(scores), 4),
    )


def _passed(
    windows: Iterator[Window], done: int, task: int, folder: Path | None, frames: list[Path]
) -> Iterator[Window]:
    """The windows after the first `done`; the frames of all of them are written."""
    for page, window in enumerate(windows):
        heartbeat.beat()  # nobody decodes ahead of a model that hangs
        if folder is not None:
            frames.append(_write(window.image, window.keyframe, task, folder))
        if page >= done:
            yield window


def _write(image: NDArray[np.uint8], keyframe: Keyframe, task: int, folder: Path) -> Path:
    path = folder / f"av2t-task{task}-k{keyframe.index:03d}-f{keyframe.frame:05d}.jpg"
    Image.fromarray(image).save(path, "JPEG", quality=JPEG_QUALITY)
    return path


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
