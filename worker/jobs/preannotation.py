"""The jobs: what the worker does for a task. They run in the process that holds the model.

Whatever a job does can be done again: it looks for its own result first, and a step that was done is found done.
"""

import hashlib
import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rq import get_current_job

from av2t_core.errors import AV2TError, MediaError
from av2t_core.labelstudio.label_config import Targets, parse_label_config
from av2t_core.labelstudio.task_data import frame_rate, look_up, variable
from av2t_core.media.clip import Clip, ClipInfo
from av2t_core.prediction.predictor import Predictor
from av2t_core.versions.store import fetch
from av2t_core.versions.version import find, resolve
from worker.client.connection import awaited, connected, through_outages
from worker.client.label_studio import LabelStudioClient
from worker.failures import GoneError
from worker.jobs.prediction_pass import RATE_DIGITS, Checkpoint, delete_checkpoint, predict
from worker.process.memory import gpu_of
from worker.queue import heartbeat
from worker.queue.connection import best_effort
from worker.queue.heartbeat import Progress
from worker.queue.job import KnownJob
from worker.queue.preannotation import Preannotated, ToPreannotate
from worker.queue.results import count_task, keep_sheet, note_score
from worker.queue.views import note_gpu_memory
from worker.settings import Settings

log = logging.getLogger("av2t.worker")

SHEET_QUALITY = 75
REMARKS = "av2t_remarks"
"""The task's value, a column in Label Studio, that tells an annotator what was left out or guessed of the clip."""


@dataclass
class Context:
    """What stays warm from job to job."""

    settings: Settings
    client: LabelStudioClient
    predictor: Predictor

    def predictor_of(self, model_version: str) -> Predictor:
        """The model of the job's version; another one than the last job's is loaded in its place."""
        if self.predictor.model_version != model_version:
            if find(model_version, self.settings.models_dir) is None:
                self.settings.mirror().refresh()
            self.predictor = load_predictor(model_version, self.settings)
        return self.predictor


_context: Context | None = None


def set_up(settings: Settings) -> str | None:
    """Reach Label Studio and load the model, however long that takes; the UUID of its GPU, None on a CPU. AV2TError:
    the key or the model cannot be used.
    """
    global _context
    client = connected(settings)
    predictor = awaited(lambda: load_predictor(settings.model, settings))
    _context = Context(settings=settings, client=client, predictor=predictor)
    gpu = gpu_of(settings.device)
    return gpu.uuid if gpu else None


def load_predictor(name: str, settings: Settings) -> Predictor:
    """A model version as the settings have it. WeightsError, StoreAwayError, ConfigError as for `Predictor.load`."""
    started = time.monotonic()
    version = resolve(name, settings.models_dir)
    if remark := version.caution:
        log.warning("%s", remark)
    fetch(version, heartbeat.progress)
    predictor = Predictor.load(
        name,
        settings.device,
        models_dir=settings.models_dir,
        precision=settings.precision,
        silence_dbfs=settings.silence_dbfs,
        least_score=settings.least_score,
    )
    log.info("model %s loaded in %.1f s", predictor.model_version, time.monotonic() - started)
    return predictor


@contextmanager
def _stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    """One of a task, counted only if it ends well."""
    started = time.monotonic()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started


def preannotate(asked: ToPreannotate) -> Preannotated:
    """Give the task its prediction of this model version, unless it has one."""
    job = get_current_job()
    assert _context is not None, "set_up comes first"
    assert isinstance(job, KnownJob)
    started, project, task = time.monotonic(), asked.project, asked.task
    log.info("task %d of project %d: started", task, project)
    context, progress = _context, Progress(job)
    seconds: dict[str, float] = {}
    try:
        outcome, info = through_outages(context.client, lambda: _preannotate(context, progress, seconds, asked))
    except GoneError:
        outcome, info = "the task is gone", None
    keyframes = len(info.keyframes) if info else 0
    log.info(
        "task %d of project %d: %s, %d keyframes, %.1f s", task, project, outcome, keyframes, time.monotonic() - started
    )
    delete_checkpoint(job)
    with best_effort(f"{job.id} was not counted"):
        count_task(job.connection, outcome, keyframes, seconds)
        if job.worker_name and (memory := context.predictor.gpu_memory) is not None:
            note_gpu_memory(job.connection, job.worker_name, memory)
    return Preannotated(outcome=outcome, keyframes=keyframes, remarks=tuple(info.remarks) if info else ())


def _preannotate(
    context: Context, progress: Progress, seconds: dict[str, float], asked: ToPreannotate
) -> tuple[str, ClipInfo | None]:
    client, project, task, model_version = context.client, asked.project, asked.task, asked.model_version
    found = client.task(task)
    if found.project != project:
        raise AV2TError(
            f"Task {task} belongs to project {found.project} and not to {project}: nothing was done. Whoever queued it"
            " named the wrong project."
        )
    if client.prediction(task, model_version) is not None:
        return "predicted already", None
    config = client.label_config(project)
    targets = parse_label_config(config)
    url, pages = found.clip_url(targets.video), {name: found.frames(name) for name in targets.frame_variables}
    with TemporaryDirectory(prefix="av2t-") as name:
        # Apart, for a clip may be called as one of its frames.
        folder = Path(name) / "frames"
        folder.mkdir()
        clip = Path(name) / file_name(url)
        with _stage(seconds, "fetch"):
            client.fetch(url, task, clip)
        filled = {name: frames for name, frames in pages.items() if frames}
        present = next(iter(filled.values()), [])
        wanted = folder if targets.frame_variables and not present else None
        rate = None if _lacks_rate(targets, found.data) else frame_rate(found.data, targets.video.framerate)
        settings, predictor = context.settings, context.predictor_of(model_version)
        # What decides, beside the model version, which masks the clip gets.
        chosen = (settings.keyframes_per_second, settings.max_keyframes, settings.silence_dbfs, settings.least_score)
        identity = hashlib.sha256(repr((chosen, config, url, clip.stat().st_size)).encode()).hexdigest()
        checkpoint = Checkpoint(progress.job, identity)
        with _stage(seconds, "predict"), opened_clip(clip, settings) as video:
            predicted = predict(video, predictor, targets, task, progress, checkpoint, folder=wanted, rate=rate)
        count = len(predicted.info.keyframes)
        for name, frames in filled.items():
            if len(frames) != count:
                raise AV2TError(
                    f'Task {task} has {len(frames)} frames in "{name}", and its clip has {count} keyframes;'
                    f' empty "{name}" in the task\'s data to get those.'
                )
        with _stage(seconds, "upload"):
            # Looking for the frames of an earlier try takes Label Studio long in a large project: only where there was
            # one.
            frames = (
                client.upload_frames(project, predicted.frames, reuse=progress.begin_upload()) if wanted else present
            )
        client.set_task_data(task, _additions(targets, frames, predicted.info))
    with _stage(seconds, "push"):
        client.create_prediction(task, model_version, predicted.score, predicted.result)
    connection = progress.job.connection
    with best_effort(f"the score and the contact sheet of {progress.job.id} were not stored"):
        note_score(connection, project, task, predicted.score)
        if predicted.sheet is not None:
            jpeg = io.BytesIO()
            predicted.sheet.image().save(jpeg, "JPEG", quality=SHEET_QUALITY)
            keep_sheet(connection, progress.job.id, jpeg.getvalue())
    return "predicted", predicted.info


def _additions(targets: Targets, frames: list[str], info: ClipInfo) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """What the task's data lacks, each by its variable's name, which goes before a path. A value that somebody put
    there meanwhile is theirs."""

    def lacking(data: Mapping[str, Any]) -> Mapping[str, Any]:
        found: dict[str, Any] = {name: frames for name in targets.frame_variables if frames and not look_up(data, name)}
        if (name := variable(targets.video.framerate)) and _lacks_rate(targets, data):
            found[name] = round(info.fps, RATE_DIGITS)
        if info.remarks or REMARKS in data:
            found[REMARKS] = " ".join(info.remarks)
        return found

    return lacking


def _lacks_rate(targets: Targets, data: Mapping[str, Any]) -> bool:
    """Whether the page looks for the clip's frame rate in the data and it is not there: then the clip's own goes in."""
    name = variable(targets.video.framerate)
    return name is not None and not look_up(data, name)


@contextmanager
def opened_clip(path: Path, settings: Settings) -> Iterator[Clip]:
    """A clip with the keyframes that the settings want. A MediaError within it names the file without its place on this
    machine, which says nothing to who reads it."""
    try:
        with Clip(path, per_second=settings.keyframes_per_second, most=settings.max_keyframes) as clip:
            yield clip
    except MediaError as error:
        raise MediaError(str(error).replace(str(path), path.name)) from None


def file_name(url: str) -> str:
    """What the file of the clip at `url` is called in a folder of ours: as people know it."""
    try:
        parts = urlsplit(url)
    except ValueError:  # it is no URL, which whoever fetches it says
        return "clip"
    path = parse_qs(parts.query).get("d", [parts.path])[0]  # /data/local-files/?d=folder/clip.mp4
    # At most 255 bytes, and a character has up to four; neither NUL nor half a character.
    name = "".join(each if each.isprintable() else "_" for each in Path(path).name[-60:])
    return name if name.strip(".") and name != "frames" else "clip"
