"""A stand-in for the model and its jobs, for tests of the processes alone: quick to start, and it does as it is told.

`python -m tests.worker.stub REDIS_URL [--train] [--burst] [--one] [--repair] [--as-today] [--behind | --ahead]` is a
worker with it. With --repair it looks at once for jobs that no list knows; with --as-today it also runs jobs of the
real kinds; with the last two, RQ's registries see a clock that is an hour behind or ahead. What the real model does in
the same worker is tested in test_pipeline.py.
"""

import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import rq.job
import rq.registry
from redis import Redis
from rq import get_current_job
from rq.utils import current_timestamp, now

from av2t_core.errors import AV2TError
from worker.failures import TransientError
from worker.process.memory import Gpu, gpu_lease
from worker.process.worker import run_worker
from worker.queue import KINDS, heartbeat
from worker.queue.heartbeat import Interrupted
from worker.queue.job import KnownJob
from worker.queue.kind import Kind, Payload, Result, Subject
from worker.queue.preannotation import PREANNOTATION, Preannotated, ToPreannotate
from worker.queue.training import TRAINING, ToTrain, Trained
from worker.settings import Settings

SECRET = "a-token-that-nobody-may-read"


class Nothing(Payload):
    """The arguments of a function that takes none."""


class Named(Payload):
    name: str


class OfFile(Payload):
    path: str


class OfTask(Payload):
    project: int | None = None
    task: int | None = None

    @property
    def subject(self) -> Subject:
        return Subject(project=self.project, task=self.task)


def _kind(function: str, payload: type[Payload]) -> Kind[Any, Any]:
    """In the queue of the tasks."""
    return Kind(
        name=f"tests.worker.stub.{function}",
        function=f"tests.worker.stub:{function}",
        payload=payload,
        result=Result,
        queue=PREANNOTATION.queue,
        prefix=function,
        identity=None,
        describe=str,
        outcome=str,
        timeout=3600,
    )


def _instead(kind: Kind[Any, Any], function: str) -> Kind[Any, Any]:
    """As the kind, with a function of the stand-in."""
    return replace(kind, name=f"tests.worker.stub.{function}", function=f"tests.worker.stub:{function}")


_STUBS = [
    *(_kind(function, Named) for function in ("note", "hold", "work")),
    *(_kind(function, Nothing) for function in ("die", "refuse", "pass_later")),
    _kind("wait_for", OfFile),
    _kind("crash", OfTask),
    _instead(PREANNOTATION, "predict"),
    *(_instead(TRAINING, name) for name in ("train", "train_on_gpu", "refuse_to_train")),
]
KINDS |= {kind.name: kind for kind in _STUBS}
if "--as-today" in sys.argv:
    KINDS |= {
        PREANNOTATION.name: replace(PREANNOTATION, function="tests.worker.stub:predict"),
        TRAINING.name: replace(TRAINING, function="tests.worker.stub:train"),
    }


def _redis() -> "Redis":
    job = get_current_job()
    assert job is not None
    connection: Redis = job.connection
    return connection


def set_up(settings: Settings) -> str | None:
    connection = Redis.from_url(settings.redis_url)
    connection.rpush("loaded", os.getpid())
    if connection.exists("refuse"):
        raise AV2TError("The model is not there.")
    while connection.exists("slow"):
        time.sleep(0.02)
    if connection.exists("ahead"):
        rq.job.now = lambda: now() + timedelta(hours=1)
    gpu = connection.get("gpu")
    connection.close()
    return gpu.decode() if isinstance(gpu, bytes) else None


def note(asked: Named) -> Result:
    _redis().rpush("done", f"{asked.name} {os.getpid()}")
    return Result()


def hold(asked: Named) -> Result:
    """Be in the middle until the key `release` is there."""
    connection = _redis()
    connection.rpush("begun", f"{asked.name} {os.getpid()}")
    while not connection.exists("release"):
        time.sleep(0.02)
    connection.rpush("done", f"{asked.name} {os.getpid()}")
    return Result()


def work(asked: Named) -> Result:
    """As `hold`, but a job that sends heartbeats and can be asked to stop."""
    connection = _redis()
    connection.rpush("begun", f"{asked.name} {os.getpid()}")
    (Path(tempfile.gettempdir()) / "clip").touch()
    while not connection.exists("release"):
        heartbeat.beat()
        if heartbeat.cancelled():
            connection.rpush("stopped", asked.name)
            raise Interrupted
        time.sleep(0.02)
    connection.rpush("done", f"{asked.name} {os.getpid()}")
    return Result()


def train(asked: ToTrain) -> Trained:
    """As `work`, and it tells how far it is, as a training does."""
    job = get_current_job()
    assert isinstance(job, KnownJob)
    job.note(stage="training", done=3, total=10, epoch=1, epochs=5, loss=0.25, eta=40.0)
    work(Named(name=str(asked.project)))
    return Trained(version="tiny-1-p3-1", promoted=True, sentence="It is better.", metrics={"iou": 0.5})


class FullGpu(Gpu):
    """One with room for one model: it is free once no process of the list `loaded` but this one runs."""

    def free(self) -> int:
        loaded = [int(pid) for pid in _redis().lrange("loaded", 0, -1)]
        return 0 if any(pid != os.getpid() and psutil.pid_exists(pid) for pid in loaded) else 100


def train_on_gpu(asked: ToTrain) -> Trained:
    """As `train`, on a GPU that cannot hold it beside another model."""
    connection = _redis()
    gpu = connection.get("gpu")
    assert isinstance(gpu, bytes)
    with gpu_lease(connection, FullGpu(gpu.decode(), index=0), needed=50):
        work(Named(name=str(asked.project)))
    return Trained()


def refuse_to_train(asked: ToTrain) -> Trained:
    raise AV2TError(f"Project {asked.project} has 3 annotated clips, and 2 more are needed.")


def wait_for(asked: OfFile) -> Result:
    """Until there is such a file, whatever becomes of Redis."""
    _redis().rpush("begun", asked.path)
    while not Path(asked.path).exists():
        time.sleep(0.02)
    return Result()


def die(_: Nothing) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(_: Nothing) -> None:
    raise AV2TError("There is no sound in clip.mp4, and there is nothing to find.")


def crash(_: OfTask) -> None:
    raise RuntimeError(f"not foreseen, with {SECRET} in it")


def called(_job: object, connection: "Redis", *_: object) -> None:
    """A function that is called when a job has ended, which no known kind has."""
    connection.rpush("called", 1)


def predict(_: ToPreannotate) -> Preannotated:
    """As a task that is done at once."""
    return Preannotated(outcome="predicted", keyframes=5)


def pass_later(_: Nothing) -> Result:
    if _redis().incr("tries") < 2:
        raise TransientError("Label Studio answers 502.", retry_after=1)
    return Result()


def main() -> None:
    url, *options = sys.argv[1:]
    if wrong := ("--ahead" in options) - ("--behind" in options):
        rq.registry.current_timestamp = lambda: current_timestamp() + 3600 * wrong
    settings = Settings.load(redis_url=url, label_studio_api_key=SECRET)
    try:
        run_worker(
            settings,
            replace((TRAINING if "--train" in options else PREANNOTATION).queue, set_up="tests.worker.stub:set_up"),
            name="stub",
            burst="--burst" in options,
            max_jobs=1 if "--one" in options else None,
        )
    except AV2TError as error:
        sys.exit(f"av2t: error: {error}")


if __name__ == "__main__":
    main()
