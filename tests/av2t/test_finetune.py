"""`av2t finetune` against a real Label Studio, a real Redis and a real worker; the training itself is a stand-in."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.av2t.test_cli import assert_refused
from tests.conftest import EMBEDDED, ROOT, LabelStudioServer, wait_until
from tests.worker.stub_worker import Process, done
from worker.queue.job import fetch, open_queue
from worker.queue.training import TRAIN
from worker.queue.views import trainings

CONFIG = """<View><Video name="video" value="$video"/>
<BrushLabels name="mask" toName="frames"><Label value="dog"/></BrushLabels>
<Image name="frames" valueList="$frames"/></View>"""

# As `av2t` does, but that the training is the stand-in's. A shell may have started the tests with Ctrl-C switched off,
# which a process inherits.
PROGRAM = """import signal, sys
from tests.worker import stub
from worker.queue import KINDS, queue
queue.TRAINING = KINDS["tests.worker.stub." + sys.argv.pop(1)]
signal.signal(signal.SIGINT, signal.default_int_handler)
from av2t.__main__ import main
sys.exit(main())"""


@pytest.fixture
def environment(label_studio: LabelStudioServer, redis_url: str, tmp_path: Path) -> dict[str, str]:
    return {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.api_key,
        "REDIS_URL": redis_url,
        "AV2T_DATA_DIR": str(tmp_path / "data"),
    }


@pytest.fixture
def project(label_studio: LabelStudioServer) -> int:
    return int(label_studio.make_project(CONFIG).id)


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[Process]:
    process = Process(redis_url, tmp_path / "worker.log", "--train", TMPDIR=str(tmp_path))
    yield process
    process.popen.kill()
    process.popen.wait()


def begin(environment: dict[str, str], *options: object, function: str = "train") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, function, "finetune", *map(str, options)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finetune(
    environment: dict[str, str], *options: object, function: str = "train"
) -> "subprocess.CompletedProcess[str]":
    process = begin(environment, *options, function=function)
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_it_is_queued_once(environment: dict[str, str], project: int, redis: Redis) -> None:
    options = ["--base-version", "tiny", "--epochs", 3, "--also", "mask-decoder", "--no-wait"]
    first = finetune(environment, "--project", project, *options)
    assert (first.returncode, first.stdout) == (0, f"Training queued: train-{project}-1\n")
    assert first.stderr == ("av2t: no worker listens for trainings, so nothing is done: start one with `av2t worker`\n")
    [job] = fetch(redis, open_queue(redis, TRAIN).get_job_ids())
    assert job.kwargs == {"project": project, "base_version": EMBEDDED, "epochs": 3, "also": ["mask-decoder"]}
    again = finetune(environment, "--project", project, "--no-wait")
    assert again.stdout == f"Training queued earlier: train-{project}-1\n"


@pytest.mark.usefixtures("worker")
def test_it_watches_until_the_model_is_better(environment: dict[str, str], project: int, redis: Redis) -> None:
    redis.set("release", 1)
    ended = finetune(environment, "--project", project)
    assert ended.returncode == 0
    assert ended.stdout == f"Training queued: train-{project}-1\nIt is better.\n"


@pytest.mark.usefixtures("worker")
def test_a_training_that_fails(environment: dict[str, str], project: int) -> None:
    ended = finetune(environment, "--project", project, function="refuse_to_train")
    assert ended.returncode == 1
    assert "The training failed: Project" in ended.stderr
    assert "has 3 annotated clips" in ended.stderr


@pytest.mark.usefixtures("worker")
def test_ctrl_c_leaves_it_running(environment: dict[str, str], project: int, redis: Redis) -> None:
    process = begin(environment, "--project", project)
    wait_until(lambda: done(redis, "begun"), what="the training")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"the training goes on, see `av2t status --project {project}`" in stderr
    assert f"`av2t cancel --training {project}` stops it" in stderr
    assert [each.state for each in trainings(redis)] == ["running"]
    # A second one is told what it waits for, and hears that somebody has stopped it.
    second = begin(environment, "--project", project)
    wait_until(lambda: len(trainings(redis)) == 2, what="the second one")
    stop = [sys.executable, "-c", PROGRAM, "train", "cancel", "--training", str(project)]
    stopped = subprocess.run(stop, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True)
    assert stopped.stdout == "Trainings stopped: 2\n"
    _, stderr = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"it begins when train-{project}-1 has ended" in stderr
    assert "The training failed: Stopped by a person." in stderr
    wait_until(lambda: {each.state for each in trainings(redis)} == {"failed"}, what="the end of the first one")


def test_what_cannot_be_trained(environment: dict[str, str], project: int, label_studio: LabelStudioServer) -> None:
    assert_refused(finetune(environment, "--project", 10**6), "project 1000000")
    bare = label_studio.make_project('<View><Video name="video" value="$video"/></View>').id
    assert_refused(finetune(environment, "--project", bare), "The label config has none of")
    assert_refused(finetune(environment, "--project", project, "--base-version", "mine-7"), "'mine-7'")
    assert_refused(finetune(environment, "--project", project, "--epochs", 5000), "'5000' must be 1 to 1000")
    away = {**environment, "REDIS_URL": "redis://127.0.0.1:9/0"}
    assert_refused(finetune(away, "--project", project), "Redis at 127.0.0.1:9/0 cannot be used")
