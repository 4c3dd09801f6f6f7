"""`av2t up`: Redis, the backend, a worker for tasks, one for trainings and Label Studio under one supervisor."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from redis import Redis

from av2t.options import DEMO_CLIPS
from av2t.stack import label_studio_server
from av2t.stack.demo import Demo
from av2t.stack.process import Process, Terminated, answers, check_port, signals_raise
from av2t.stack.redis_server import redis_url, start_redis
from av2t.stack.supervisor import Supervisor
from av2t_core.errors import AV2TError
from av2t_core.files import locked, read_plain
from av2t_core.versions.version import resolve
from worker.queue.connection import connect
from worker.queue.queue import PREANNOTATE, TRAIN
from worker.queue.views import overview, workers
from worker.settings import Settings

# Label Studio's database, the uploads and the queue need this much at least; its environment takes 800 MB once.
DISK_SPACE_MB = 1500


class Progress:
    """One line for every stage, with the time since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, line: str) -> None:
        print(f"[{time.monotonic() - self._started:4.0f} s] {line}", flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--demo", action="store_true", help="make a project, upload the demo clips, wait for their masks"
    )
    parser.add_argument(
        "--exit",
        action="store_true",
        help="end when all is ready; with --demo, with 0 only if every clip has its masks",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where everything is kept (default: AV2T_DATA_DIR, or .av2t)")
    parser.add_argument(
        "--label-studio-port", type=_port, default=8080, metavar="PORT", help="Label Studio's port (default: 8080)"
    )
    parser.add_argument(
        "--backend-port", type=_port, metavar="PORT", help="the backend's port (default: AV2T_BACKEND_PORT, or 9090)"
    )
    parser.add_argument(
        "--redis-port",
        type=_port,
        default=6379,
        metavar="PORT",
        help="the embedded Redis's port (default: 6379); with REDIS_URL set, that server is used and none started",
    )
    parser.add_argument(
        "--no-label-studio",
        action="store_true",
        help="start none: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY name one that already runs",
    )
    parser.add_argument(
        "--demo-clips",
        type=Path,
        default=DEMO_CLIPS,
        metavar="DIR",
        help="other clips for the demo: *.mp4, and in labels.txt what can be heard in them, one on a line",
    )


def run(args: argparse.Namespace) -> int:
    if args.demo and args.no_label_studio:
        raise AV2TError("--demo fills the Label Studio that it starts; leave out one of --demo and --no-label-studio")
    settings = Settings.load(data_dir=args.data_dir, backend_port=args.backend_port, backend_host="127.0.0.1")
    resolve(settings.model, settings.models_dir).check()
    ready = False
    try:
        with signals_raise(), _owned(Path(settings.data_dir)), Supervisor() as supervisor:
            stack = Stack(args, settings, supervisor, Progress())
            stack.start()
            missing = stack.demo().run(supervisor.check) if args.demo else []
            if args.exit:
                return 1 if missing else 0
            print(f"\n{stack.welcome()}\n\nCtrl-C stops all of it; the data stays in {settings.data_dir}.", flush=True)
            ready = True
            while True:
                supervisor.check()
                time.sleep(0.5)
    except (KeyboardInterrupt, Terminated) as error:
        # For what runs until it is told to end, being told so is success.
        if ready:
            return 0
        if isinstance(error, Terminated):
            return 128 + signal.SIGTERM
        raise


class Stack:
    """The programs of one `av2t up`, and what they are told of each other."""

    def __init__(
        self, args: argparse.Namespace, settings: Settings, supervisor: Supervisor, progress: Progress
    ) -> None:
        self._args = args
        self._settings = settings
        self._supervisor = supervisor
        self._progress = progress
        self._data_dir = Path(settings.data_dir)
        self._logs = self._data_dir / "logs"
        # What `settings` have may be the address of an `av2t up` that was killed.
        self._own_redis = "redis_url" not in Settings().model_fields_set
        self._redis_dir = self._data_dir / "redis"
        self._redis_url = redis_url(self._redis_dir, args.redis_port) if self._own_redis else settings.redis_url
        self._backend_url = f"http://127.0.0.1:{settings.backend_port}"
        self._studio_url = (
            settings.label_studio_url if args.no_label_studio else label_studio_server.url(args.label_studio_port)
        )

    def start(self) -> None:
        """Returns when all of it is ready. AV2TError otherwise."""
        self._check_ports()
        if self._args.no_label_studio:
            api_key = self._settings.require_api_key()
        else:
            self._account = label_studio_server.account(self._data_dir / "label-studio-account.json")
            api_key = self._account.api_key
        _keep_previous(self._logs)
        self._progress(f"data in {self._data_dir}, logs in {self._logs}")
        self._start_redis()
        if not self._args.no_label_studio:
            studio = self._start_label_studio()
        environment = {
            "LABEL_STUDIO_URL": self._studio_url,
            "LABEL_STUDIO_API_KEY": api_key,
            "REDIS_URL": self._redis_url,
            "AV2T_DATA_DIR": str(self._data_dir.absolute()),
            "AV2T_BACKEND_HOST": self._settings.backend_host,
            "AV2T_BACKEND_PORT": str(self._settings.backend_port),
        }
        backend = self._start_own("backend", environment)
        worker = self._start_own("worker", environment, "--queues", "preannotate")
        trainer = self._start_own("worker", environment, "--queues", "train", name="trainer")
        self._wait(backend, lambda: answers(f"{self._backend_url}/health"), f"ready at {self._backend_url}")
        if not self._args.no_label_studio:
            self._wait(studio, lambda: answers(f"{self._studio_url}/health"), f"ready at {self._studio_url}")
        with connect(self._redis_url) as redis:
            self._wait(trainer, lambda: _listens(redis, TRAIN, trainer), "ready")
            self._wait(worker, lambda: _listens(redis, PREANNOTATE, worker), "ready")

    def demo(self) -> Demo:
        return Demo(
            studio_url=self._studio_url,
            api_key=self._account.api_key,
            backend_url=self._backend_url,
            redis_url=self._redis_url,
            clips=self._args.demo_clips,
            say=self._progress,
        )

    def welcome(self) -> str:
        """How to get in."""
        if self._args.no_label_studio:
            return f"The backend is ready: connect {self._backend_url} in the Model settings of your project."
        return (
            f"Label Studio is ready at {self._studio_url}\n"
            f"  user      {self._account.email}\n  password  {self._account.password}\n"
            f"  {self._backend_url}/status shows what waits, runs and failed"
        )

    def _check_ports(self) -> None:
        if self._own_redis:
            check_port(
                self._args.redis_port, purpose="Redis", option="--redis-port (or set REDIS_URL to use that Redis)"
            )
        check_port(self._settings.backend_port, purpose="the backend", option="--backend-port")
        if not self._args.no_label_studio:
            # Label Studio would silently take the next one.
            check_port(self._args.label_studio_port, purpose="Label Studio", option="--label-studio-port")

    def _start_redis(self) -> None:
        if self._own_redis:
            port = self._args.redis_port
            server = start_redis(self._redis_dir, port, self._logs / "redis.log")
            self._supervisor.add(server)
            self._progress(f"Redis: ready at 127.0.0.1:{port}, its password in {self._redis_dir} ({server.age:.1f} s)")
        else:
            with connect(self._redis_url) as redis:
                overview(redis)
            self._progress("Redis: the one of REDIS_URL answers")

    def _start_label_studio(self) -> Process:
        environment = label_studio_server.environment_in(self._data_dir)
        began = time.monotonic()
        if not label_studio_server.is_installed(environment):
            self._progress(f"Label Studio: installing {label_studio_server.VERSION} into {environment} (once, 800 MB)")
            label_studio_server.install(environment, self._logs / "label-studio-install.log")
            self._progress(f"Label Studio: installed ({time.monotonic() - began:.1f} s)")
        data_dir = self._data_dir / "label-studio-data"
        if not data_dir.exists():
            self._progress("Label Studio: making its database (once, about a minute)")
        log = self._logs / "label-studio.log"
        port = self._args.label_studio_port
        return self._supervisor.add(label_studio_server.start(environment, data_dir, port, self._account, log))

    def _start_own(self, command: str, environment: dict[str, str], *options: str, name: str | None = None) -> Process:
        name = name or command
        # -P: a folder of the same name where this was started is not what is meant.
        line = [sys.executable, "-P", "-m", "av2t", command, *options]
        return self._supervisor.add(
            Process(f"The {name}", line, log=self._logs / f"{name}.log", environment=environment)
        )

    def _wait(self, process: Process, ready: Callable[[], bool], state: str) -> None:
        self._supervisor.wait_until(process, ready, timeout=300)
        self._progress(f"{process.name}: {state} ({process.age:.1f} s)")


def _listens(redis: Redis, queue: str, worker: Process) -> bool:
    return any(each.pid == worker.pid for each in workers(redis, queue))


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port: it must be between 1 and 65535")
    return port


def _keep_previous(logs: Path) -> None:
    """Each run writes new logs; those of the run before it are kept in `logs`/previous."""
    previous = logs / "previous"
    previous.mkdir(parents=True, exist_ok=True)
    for log in logs.glob("*.log"):
        log.replace(previous / log.name)


@contextlib.contextmanager
def _owned(data_dir: Path) -> Iterator[None]:
    """Make `data_dir` and keep every other `av2t up` out of it; AV2TError if one is in it or it cannot be used."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = shutil.disk_usage(data_dir).free // 1_000_000
        try:
            lock = locked(data_dir / "up.lock", wait=False)
        except BlockingIOError:
            holder = read_plain(data_dir / "up.lock", 20).decode(errors="replace")
            raise AV2TError(
                f"another av2t up (process {holder}) uses {data_dir}; stop it, or choose another with --data-dir"
            ) from None
    except OSError as error:
        raise AV2TError(
            f"the folder {data_dir} cannot be used ({error.strerror}); choose another with --data-dir"
        ) from None
    if free < DISK_SPACE_MB:
        raise AV2TError(
            f"{data_dir} has {free} MB of space left; free {DISK_SPACE_MB} MB, or choose another with --data-dir"
        )
    with lock:
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        lock.flush()
        yield
