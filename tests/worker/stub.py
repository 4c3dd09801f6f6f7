"""A stand-in for the model and its jobs, for tests of the processes alone: quick to start, and it does as it is told.

`python -m tests.worker.stub REDIS_URL [--train] [--burst] [--one] [--repair] [--behind | --ahead]` is a worker with
it. With --repair it looks at once for jobs that no list knows; with the last two, RQ's registries see a clock that is
an hour behind or ahead. What the real model does in the same worker is
tested in test_pipeline.py.
"""

import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import psutil
import rq.job
import rq.registry
from redis import Redis
from rq import get_current_job
from rq.utils import current_timestamp, now

from av2t_core.errors import AV2TError
from worker.failures import Interrupted, TransientError
from worker.process.devices import room
from worker.process.worker import DUTIES, run_worker
from worker.queue import heartbeat, repair
from worker.queue.kinds import KINDS, PREANNOTATE, TRAIN, Arguments, Kind, ToPreannotate, ToTrain
from worker.settings import Settings

SECRET = "a-token-that-nobody-may-read"


class _Told(Arguments):
    """Of the stand-ins' functions, each of which takes some of these."""


class _Named(_Told):
    name: str


class _OfFile(_Told):
    path: str


class _Crashes(_Told):
    project: int | None = None
    task: int | None = None


_ARGUMENTS: dict[str, type[Arguments]] = {
    "note": _Named,
    "hold": _Named,
    "work": _Named,
    "wait_for": _OfFile,
    "die": _Told,
    "refuse": _Told,
    "crash": _Crashes,
    "pass_later": _Told,
}
KINDS |= {
    name: Kind(function=name, queue=PREANNOTATE, arguments=kind)
    for name, kind in ((f"tests.worker.stub.{name}", kind) for name, kind in _ARGUMENTS.items())
}
KINDS["tests.worker.stub.predict"] = Kind(
    function="tests.worker.stub.predict", queue=PREANNOTATE, arguments=ToPreannotate
)
KINDS |= {
    name: Kind(function=name, queue=TRAIN, arguments=ToTrain)
    for name in (
        f"tests.worker.stub.{each}" for each in ("train", "train_on_gpu", "refuse_to_train", "crash_while_training")
    )
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


def note(name: str) -> None:
    _redis().rpush("done", f"{name} {os.getpid()}")


def hold(name: str) -> None:
    """Be in the middle until the key `release` is there."""
    connection = _redis()
    connection.rpush("begun", f"{name} {os.getpid()}")
    while not connection.exists("release"):
        time.sleep(0.02)
    connection.rpush("done", f"{name} {os.getpid()}")


def work(name: str) -> None:
    """As `hold`, but a job that sends heartbeats and can be asked to stop."""
    connection = _redis()
    connection.rpush("begun", f"{name} {os.getpid()}")
    (Path(tempfile.gettempdir()) / "clip").touch()
    while not connection.exists("release"):
        heartbeat.beat()
        if heartbeat.cancelled():
            connection.rpush("stopped", name)
            raise Interrupted
        time.sleep(0.02)
    connection.rpush("done", f"{name} {os.getpid()}")


def train(*, project: int, **_: object) -> dict[str, object]:
    """As `work`, and it tells how far it is, as a training does."""
    job = get_current_job()
    assert job is not None
    job.meta |= {"stage": "training", "done": 3, "total": 10, "epoch": 1, "epochs": 5, "loss": 0.25, "eta": 40.0}
    job.save_meta()
    work(str(project))
    return {"version": "tiny-1-p3-1", "promoted": True, "sentence": "It is better.", "metrics": {"iou": 0.5}}


@dataclass(frozen=True)
class FullGpu:
    """One with room for one model: it is free once no process of the list `loaded` but this one runs."""

    uuid: str

    def free(self) -> int:
        loaded = [int(pid) for pid in _redis().lrange("loaded", 0, -1)]
        return 0 if any(pid != os.getpid() and psutil.pid_exists(pid) for pid in loaded) else 100


def train_on_gpu(*, project: int, **_: object) -> None:
    """As `train`, on a GPU that cannot hold it beside another model."""
    connection = _redis()
    gpu = connection.get("gpu")
    assert isinstance(gpu, bytes)
    with room(connection, FullGpu(gpu.decode()), needed=50):
        work(str(project))


def refuse_to_train(*, project: int, **_: object) -> None:
    raise AV2TError(f"Project {project} has 3 annotated clips, and 2 more are needed.")


def wait_for(path: str) -> None:
    """Until there is such a file, whatever becomes of Redis."""
    _redis().rpush("begun", path)
    while not Path(path).exists():
        time.sleep(0.02)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise AV2TError("There is no sound in clip.mp4, and there is nothing to find.")


def crash(**_: object) -> None:
    raise RuntimeError(f"not foreseen, with {SECRET} in it")


def called(_job: object, connection: "Redis", *_: object) -> None:
    """What no job of ours has: a function that is called when it has ended."""
    connection.rpush("called", 1)


def predict(*, project: int, task: int, model_version: str) -> dict[str, object]:
    """As a task that is done at once."""
    return {"outcome": "predicted", "keyframes": 5, "remarks": []}


def pass_later() -> None:
    if _redis().incr("tries") < 2:
        raise TransientError("Label Studio answers 502.", retry_after=1)


def main() -> None:
    url, *options = sys.argv[1:]
    if wrong := ("--ahead" in options) - ("--behind" in options):
        rq.registry.current_timestamp = lambda: current_timestamp() + 3600 * wrong
    if "--repair" in options:
        repair.LOOK = 0
    settings = Settings.load(redis_url=url, label_studio_api_key=SECRET)
    try:
        run_worker(
            settings,
            replace(DUTIES["train" if "--train" in options else "preannotate"], set_up="tests.worker.stub:set_up"),
            name="stub",
            burst="--burst" in options,
            max_jobs=1 if "--one" in options else None,
        )
    except AV2TError as error:
        sys.exit(f"av2t: error: {error}")


if __name__ == "__main__":
    main()
