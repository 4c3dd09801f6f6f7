"""One task, one worker, and a fault at a certain moment of its job. `make test-faults` prints a table of them."""

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rq.job import Job

from av2t_core.media.clip import Clip
from tests.conftest import EMBEDDED, LabelStudioServer, wait_until
from tests.core.clips import SOUND_RATE, Sound, at_rate, write_clip
from tests.faults.between import Gate, When
from tests.faults.plant import CLIPS, FAULTS, Plant
from worker.queue.preannotation import job_id

pytestmark = pytest.mark.faults

SECONDS = 40
# What Label Studio is asked at the moment; of inference it hears nothing, but the job's meta does.
MOMENTS: dict[str, tuple[str, str, When] | None] = {
    "before the pop": None,
    "after the pop": ("GET", r"/api/tasks/\d+", "before"),
    "while the clip is fetched": ("GET", r"/data/upload/", "after"),
    "in decode and inference": None,
    "while frames are uploaded": ("POST", r"/import", "after"),
    "before the write-back": ("POST", r"/api/predictions", "before"),
    "after the write-back": ("POST", r"/api/predictions", "after"),
}
KILLS = [
    "SIGKILL of the model's process",
    "SIGKILL of the worker",
    "SIGKILL of both",
    "SIGSTOP of the model's process",
    "SIGTERM of the worker",
    "SIGKILL of Redis, and a restart",
]
ANSWERS = [name for name in FAULTS if name.startswith(("Label Studio", "a proxy"))]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo clip's pictures and sounds, again and again."""
    with Clip(CLIPS[0]) as opened:
        windows = list(opened.windows())
    sound = np.concatenate([window.sound.second[:1] for window in windows], axis=1)[0]
    rate = windows[0].sound.rate
    again = np.interp(np.arange(SOUND_RATE * len(windows)) * rate / SOUND_RATE, np.arange(len(sound)), sound)
    images = [windows[(frame // 2) % len(windows)].image for frame in range(2 * SECONDS)]
    path = tmp_path_factory.mktemp("clip") / "long.mp4"
    samples = np.resize(again.astype(np.float32), SOUND_RATE * SECONDS)[None]
    return write_clip(path, at_rate(2, SECONDS), images=images, sounds=[Sound(samples=samples)], sound_codec="aac")


@pytest.fixture(scope="module")
def rows() -> Iterator[list[str]]:
    found: list[str] = []
    yield found
    print("\n| fault | moment | lost | twice | seconds to recover |\n|---|---|---:|---:|---:|")
    print("\n".join(found))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("fault", [*KILLS, "a job is delivered twice"])
def test_a_fault_at_a_moment(
    label_studio: LabelStudioServer, clip: Path, tmp_path: Path, rows: list[str], fault: str, moment: str
) -> None:
    with Plant(label_studio, tmp_path, workers=1) as plant:
        project, task = _ready(plant, clip)
        asked = MOMENTS[moment]
        gate = None
        if asked is not None:
            method, path, when = asked
            gate = plant.between.gate = Gate(method=method, path=re.compile(path), when=when)
        if moment != "before the pop":
            plant.enqueue(project, [task])
        if gate is not None:
            assert gate.reached.wait(120)
        elif moment != "before the pop":
            wait_until(lambda: _progress(plant, project, task), what="the first keyframe")
        began = time.monotonic()
        FAULTS[fault](plant, random.Random(0))
        if moment == "before the pop":
            plant.enqueue(project, [task])
        if gate is not None:
            gate.open.set()
        wait_until(lambda: plant.is_done(project), 300, "the end of the task")
        seconds = time.monotonic() - began
        plant.stop_workers()
        outcome = plant.outcome(project, [task])
        rows.append(f"| {fault} | {moment} | {len(outcome.lost)} | {len(outcome.twice)} | {seconds:.0f} |")
        assert (outcome.predicted, outcome.failed) == (1, {})
        assert outcome.orphans == outcome.files == ()


@pytest.mark.parametrize("fault", ANSWERS)
def test_a_label_studio_that_fails(
    label_studio: LabelStudioServer, clip: Path, tmp_path: Path, rows: list[str], fault: str
) -> None:
    """From before the first request on, for some seconds."""
    with Plant(label_studio, tmp_path, workers=1) as plant:
        project, task = _ready(plant, clip)
        gate = plant.between.gate = Gate(method="GET", path=re.compile(r"/api/tasks/\d+"), when="before")
        plant.enqueue(project, [task])
        assert gate.reached.wait(120)
        began = time.monotonic()
        gate.open.set()
        FAULTS[fault](plant, random.Random(0))
        wait_until(lambda: plant.is_done(project), 300, "the end of the task")
        seconds = time.monotonic() - began
        plant.stop_workers()
        outcome = plant.outcome(project, [task])
        rows.append(f"| {fault} | after the pop | {len(outcome.lost)} | {len(outcome.twice)} | {seconds:.0f} |")
        assert (outcome.predicted, outcome.failed) == (1, {})


def _ready(plant: Plant, clip: Path) -> tuple[int, int]:
    """A project and its one task, not queued yet, and a worker that waits."""
    project, [task] = plant.add_tasks([clip])
    log = plant.folder / "worker0.log"
    wait_until(lambda: log.exists() and "waits for jobs" in log.read_text(), 300, "the worker")
    return project, task


def _progress(plant: Plant, project: int, task: int) -> bool:
    with plant.redis as redis:
        meta = Job.fetch(job_id(project, task, EMBEDDED), connection=redis, serializer="json").meta
    return bool(meta.get("done"))
