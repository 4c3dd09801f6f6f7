"""Everything that pre-annotates, each part of which can be made to fail: a real Redis, real workers, and a real Label
Studio behind `Between`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from redis import Redis
from redis.exceptions import RedisError

from av2t.stack.process import Process
from av2t.stack.redis_server import redis_url, start_redis
from tests.conftest import COMPOSED_CLIPS, EMBEDDED, ROOT, LabelStudioServer
from tests.faults.between import Between, Mode
from tests.ports import free_port
from worker.queue.connection import connect
from worker.queue.job import open_queue
from worker.queue.queue import enqueue_preannotation
from worker.queue.views import failed_jobs, overview

CLIPS = sorted(COMPOSED_CLIPS.glob("*.mp4"))
HANG_SECONDS = 10
CONFIG = """<View><Video name="clip" value="$video" framerate="$rate"/>
<BrushLabels name="what" toName="pages"><Label value="dog"/></BrushLabels>
<Image name="pages" valueList="$stills"/></View>"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the tasks. `lost` have neither a prediction nor a failure; `twice` more than one prediction."""

    predicted: int
    failed: dict[str, int]  # how many by their reason
    lost: tuple[int, ...]
    twice: tuple[int, ...]
    orphans: tuple[str, ...]  # processes of workers that are left
    files: tuple[str, ...]  # that are left where the workers put theirs


class Plant:
    """Use as a context manager. Workers that end are started again, as compose or systemd would."""

    def __init__(self, studio: LabelStudioServer, folder: Path, *, workers: int) -> None:
        self.studio = studio
        self.folder = folder
        self.temporary = folder / "tmp"
        self._port = free_port()
        self._names = [f"worker{number}" for number in range(workers)]
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._keeping = threading.Event()
        self._lock = threading.Lock()
        self.started = 0

    def __enter__(self) -> Plant:
        self.temporary.mkdir(parents=True, exist_ok=True)
        self._redis = self._start_redis()
        self._between = Between(self.studio.url)
        self._open = self._between.running()
        self._open.__enter__()
        self._keeping.set()
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_workers()
        self._open.__exit__(None, None, None)
        self._redis.stop()

    @property
    def between(self) -> Between:
        return self._between

    @property
    def redis(self) -> Redis:
        return connect(redis_url(self.folder / "redis", self._port), timeout=5)

    def add_tasks(self, clips: Sequence[Path]) -> tuple[int, list[int]]:
        """A new project with a task for each clip; its id and theirs. Nothing is queued."""
        project = int(self.studio.make_project(CONFIG, "faults").id)
        for start in range(0, len(clips), 50):
            files = [
                (f"file{n}", (f"{start + n}-{clip.name}", clip.read_bytes()))
                for n, clip in enumerate(clips[start : start + 50])
            ]
            self.studio.request("POST", f"/api/projects/{project}/import", files=files)
        return project, sorted(int(task.id) for task in self.studio.sdk.tasks.list(project=project))

    def enqueue(self, project: int, tasks: Sequence[int]) -> None:
        with self.redis as redis:
            enqueue_preannotation(redis, project, tasks, EMBEDDED)

    def is_done(self, project: int) -> bool:
        """Nothing waits or runs; False while that cannot be told."""
        try:
            with self.redis as redis:
                seen = overview(redis, project)
        except Exception:  # Redis is one of the things that fail here
            return False
        return not (seen.queued or seen.running)

    def outcome(self, project: int, tasks: Sequence[int]) -> Outcome:
        """After `stop_workers`."""
        found = {
            int(task.id): task.total_predictions
            for task in self.studio.sdk.tasks.list(project=project, fields="all", include="id,total_predictions")
        }
        with self.redis as redis:
            failures = {job.task: job.error for job in failed_jobs(redis, project)}
        return Outcome(
            predicted=sum(found[task] == 1 for task in tasks),
            failed=dict(Counter(failures.values())),
            lost=tuple(task for task in tasks if not found[task] and task not in failures),
            twice=tuple(task for task in tasks if found[task] > 1),
            orphans=tuple(" ".join(process.cmdline()) for process in self._processes()),
            files=tuple(str(path.relative_to(self.temporary)) for path in self.temporary.rglob("*")),
        )

    def stop_workers(self) -> None:
        """As a deployment does, with SIGTERM."""
        self._keeping.clear()
        self._keeper.join()
        for worker in self._running.values():
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
        for worker in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                worker.wait(30)
        # A model's process that was stopped before it could ask to end with its worker ends as soon as it goes on.
        left = list(self._processes())
        for process in left:
            with suppress(psutil.Error):
                if process.status() == psutil.STATUS_STOPPED:
                    process.resume()
                    psutil.wait_procs(left, timeout=10)

    def workers(self) -> list[psutil.Process]:
        with self._lock:
            return [psutil.Process(worker.pid) for worker in self._running.values() if worker.poll() is None]

    def kill_redis(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._redis.pid, signal.SIGKILL)
        self._redis.wait()

    def start_redis_again(self) -> None:
        self._redis = self._start_redis()

    def _start_redis(self) -> Process:
        return start_redis(self.folder / "redis", self._port, self.folder / "redis.log")

    def _keep(self) -> None:
        while self._keeping.is_set():
            for name in self._names:
                running = self._running.get(name)
                if running is None or running.poll() is not None:
                    with self._lock:
                        self._running[name] = self._start(name)
            time.sleep(0.2)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        self.started += 1
        environment = {
            **os.environ,
            "LABEL_STUDIO_URL": self._between.url,
            "LABEL_STUDIO_API_KEY": self.studio.api_key,
            "REDIS_URL": redis_url(self.folder / "redis", self._port),
            "AV2T_DEVICE": "cpu",
            "AV2T_DATA_DIR": str(self.folder / "data"),
            "AV2T_HANG_SECONDS": str(HANG_SECONDS),
            "AV2T_RECONCILE_MINUTES": "0",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.temporary),
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "av2t", "worker", "--queues", "preannotate", "--name", name],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("TMPDIR") == str(self.temporary):
                    yield process


def model_of(worker: psutil.Process) -> psutil.Process | None:
    """The process that holds the worker's model."""
    with suppress(psutil.Error):
        for child in worker.children():
            if "spawn_main" in " ".join(child.cmdline()):
                return child
    return None


Fault = Callable[[Plant, random.Random], None]


def kill_model(plant: Plant, rng: random.Random) -> None:
    if model := model_of(rng.choice(plant.workers())):
        model.kill()


def kill_worker(plant: Plant, rng: random.Random) -> None:
    rng.choice(plant.workers()).kill()


def kill_both(plant: Plant, rng: random.Random) -> None:
    worker = rng.choice(plant.workers())
    model = model_of(worker)
    worker.suspend()  # so that it does not see the other's death first
    if model is not None:
        model.kill()
    worker.kill()


def stop_model(plant: Plant, rng: random.Random) -> None:
    """It hangs, as in a CUDA call that never returns."""
    if model := model_of(rng.choice(plant.workers())):
        model.suspend()


def deploy(plant: Plant, rng: random.Random) -> None:
    rng.choice(plant.workers()).terminate()


def restart_redis(plant: Plant, rng: random.Random) -> None:
    plant.kill_redis()
    time.sleep(rng.uniform(0, 2))
    plant.start_redis_again()


def seem(mode: Mode) -> Fault:
    def fault(plant: Plant, rng: random.Random) -> None:
        plant.between.mode = mode
        time.sleep(rng.uniform(1, 4))
        plant.between.mode = "well"

    return fault


def fill_disk(plant: Plant, rng: random.Random) -> None:
    """Where `temporary` is a disk of its own; else there is nothing to fill."""
    if not os.path.ismount(plant.temporary):
        return
    filler = plant.temporary / "filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 20))
    time.sleep(rng.uniform(1, 4))
    filler.unlink()


def deliver_twice(plant: Plant, rng: random.Random) -> None:
    """A job that is running, or done, comes a second time."""
    with plant.redis as redis, suppress(RedisError):
        queue = open_queue(redis)
        known = [*queue.started_job_registry.get_job_ids(cleanup=False), *queue.finished_job_registry.get_job_ids()]
        if known:
            redis.rpush(queue.key, rng.choice(known).split(":")[0])


FAULTS: dict[str, Fault] = {
    "SIGKILL of the model's process": kill_model,
    "SIGKILL of the worker": kill_worker,
    "SIGKILL of both": kill_both,
    "SIGSTOP of the model's process": stop_model,
    "SIGTERM of the worker": deploy,
    "SIGKILL of Redis, and a restart": restart_redis,
    "Label Studio answers 500": seem("500"),
    "Label Studio answers 429": seem("429"),
    "Label Studio answers garbage": seem("garbage"),
    "Label Studio does not answer": seem("nothing"),
    "Label Studio hangs up": seem("cut"),
    "a proxy answers 404": seem("404"),
    "a proxy answers 409": seem("409"),
    "a proxy answers 423": seem("423"),
    "a proxy answers 507": seem("507"),
    "a proxy answers 520 to what was done": seem("520"),
    "a proxy answers 530": seem("530"),
    "a proxy answers 200 with a page": seem("page"),
    "a proxy hands on byte by byte": seem("slow"),
    "the disk is full": fill_disk,
    "a job is delivered twice": deliver_twice,
}


@contextmanager
def small_disk(folder: Path, megabytes: int = 64) -> Iterator[bool]:
    """A disk of its own at `folder`; False where there is no right to mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def told(outcome: Outcome) -> str:
    return json.dumps(outcome.__dict__, indent=2)
