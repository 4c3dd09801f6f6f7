"""`av2t submit` against a real Label Studio and a real Redis; the worker is the real one, too."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from redis import Redis

from av2t.stack.process import Process
from av2t_core.versions.pointers import promote
from av2t_core.versions.version import resolve
from tests.av2t.test_cli import assert_refused
from tests.conftest import EMBEDDED, ROOT, LabelStudioServer, queued_tasks
from tests.core.clips import SOUND_RATE, Sound, at_rate, write_clip
from worker.queue.kind import State
from worker.queue.results import STAGES, scores_of, totals
from worker.queue.views import states

CONFIG = """<View><Video name="video" value="$video"/>
<BrushLabels name="mask" toName="frames"><Label value="dog"/></BrushLabels>
<Image name="frames" valueList="$frames"/></View>"""


@pytest.fixture
def environment(label_studio: LabelStudioServer, redis_url: str, tmp_path: Path) -> dict[str, str]:
    return {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.api_key,
        "REDIS_URL": redis_url,
        "AV2T_DATA_DIR": str(tmp_path / "data"),
        "AV2T_DEVICE": "cpu",
    }


@pytest.fixture
def project(label_studio: LabelStudioServer) -> int:
    return int(label_studio.make_project(CONFIG).id)


def submit(environment: dict[str, str], *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "av2t", "submit", *map(str, options)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_what_is_missing_is_queued_once(
    label_studio: LabelStudioServer, environment: dict[str, str], project: int, redis: "Redis"
) -> None:
    tasks = label_studio.add_tasks(project, 5)
    label_studio.sdk.predictions.create(task=tasks[0], result=[], score=0.5, model_version=EMBEDDED)
    label_studio.sdk.predictions.create(task=tasks[1], result=[], score=0.5, model_version="another")
    label_studio.sdk.annotations.create(id=tasks[2], result=[])

    first = submit(environment, "--project", project, "--only-unlabeled", "--limit", 2, "--detach")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == f"Tasks left out: 1 predicted already, 1 labelled\nTasks queued for {EMBEDDED}: 2\n"
    assert queued_tasks(redis) == [tasks[1], tasks[3]]

    second = submit(environment, "--project", project, "--detach")
    assert second.stdout.endswith(f"Tasks queued for {EMBEDDED}: 2; queued earlier: 2\n")
    assert queued_tasks(redis) == [tasks[1], tasks[3], tasks[2], tasks[4]]


def test_the_version_that_the_project_chose(
    label_studio: LabelStudioServer, environment: dict[str, str], project: int, redis: "Redis"
) -> None:
    [task] = label_studio.add_tasks(project, 1)
    shutil.copytree(resolve(EMBEDDED).directory, Path(environment["AV2T_DATA_DIR"]) / "models" / "mine-1")
    label_studio.sdk.predictions.create(task=task, result=[], score=0.5, model_version="mine-1")
    label_studio.request("PATCH", f"/api/projects/{project}/", json={"model_version": "mine-1"})
    done = submit(environment, "--project", project, "--detach")
    assert done.stdout == "Tasks left out: 1 predicted already\nTasks queued for mine-1: 0\n"
    other = submit(environment, "--project", project, "--detach", "--model", EMBEDDED)
    assert other.stdout == f"Tasks queued for {EMBEDDED}: 1\n"


def test_the_version_that_was_promoted_for_the_project(
    label_studio: LabelStudioServer, environment: dict[str, str], project: int, redis: "Redis"
) -> None:
    label_studio.add_tasks(project, 1)
    models_dir = Path(environment["AV2T_DATA_DIR"]) / "models"
    shutil.copytree(resolve(EMBEDDED).directory, models_dir / "mine-1")
    promote(models_dir, project, "mine-1")
    assert submit(environment, "--project", project, "--detach").stdout == "Tasks queued for mine-1: 1\n"


def test_it_watches_until_the_worker_has_done_all(
    label_studio: LabelStudioServer, environment: dict[str, str], project: int, redis: "Redis", tmp_path: Path
) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1, SOUND_RATE)).astype(np.float32)
    clip = write_clip(tmp_path / "clip.mp4", at_rate(4, 1), sounds=[Sound(samples=sound)], sound_codec="aac")
    (tmp_path / "broken.mp4").write_text("no clip")
    good, bad = (int(label_studio.upload(project, path).id) for path in (clip, tmp_path / "broken.mp4"))
    command = [sys.executable, "-m", "av2t", "worker", "--queues", "preannotate"]
    worker = Process("worker", command, log=tmp_path / "log", environment=environment)
    try:
        done = submit(environment, "--project", project)
    finally:
        worker.stop()
    assert done.returncode == 1
    assert done.stdout == f"Tasks queued for {EMBEDDED}: 2\n1 done, 1 failed\n"
    assert f"task {bad}: " in done.stderr
    assert "is not a video" in done.stderr
    assert f"av2t retry --project {project}" in done.stderr
    assert states(redis, project, [good, bad, 10**9], EMBEDDED) == {
        good: State.DONE,
        bad: State.FAILED,
        10**9: State.GONE,
    }
    assert list(scores_of(redis, project, [good, bad])) == [good]
    counted = totals(redis)
    assert (counted.outcomes, counted.keyframes) == ({"predicted": 1}, 1)
    assert all(counted.seconds[stage] > 0 for stage in STAGES)


def test_a_project_that_is_none_and_one_without_a_place_for_masks(
    label_studio: LabelStudioServer, environment: dict[str, str]
) -> None:
    assert_refused(submit(environment, "--project", 10**6), "project 1000000")
    bare = label_studio.make_project('<View><Video name="video" value="$video"/></View>').id
    assert_refused(submit(environment, "--project", bare), "The label config has none of")


def test_a_redis_that_is_away_is_one_line(environment: dict[str, str]) -> None:
    refused = submit({**environment, "REDIS_URL": "redis://127.0.0.1:9/0"}, "--project", 1)
    assert_refused(refused, "Redis at 127.0.0.1:9/0 cannot be used")
