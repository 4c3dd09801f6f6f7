"""`av2t up`: Redis, the backend, a worker for tasks, one for trainings and Label Studio under one supervisor."""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import SecretStr

from av2t.options import DEMO_CLIPS, Port, load_settings
from av2t.signature import Arg
from av2t.stack import label_studio_server
from av2t.stack.demo import Demo
from av2t.stack.process import Process, Supervisor, Terminated, answers, check_port, signals_raise
from av2t.stack.redis_server import redis_url, start_redis
from av2t_core.errors import AV2TError
from av2t_core.files import locked, read_plain
from av2t_core.versions.version import resolve
from worker.client.label_studio import LabelStudioClient
from worker.queue.connection import connect
from worker.queue.preannotation import PREANNOTATE
from worker.queue.training import TRAIN
from worker.queue.views import overview, workers
from worker.settings import Settings

# Label Studio's database, the uploads and the queue need this much at least; its environment takes 800 MB once.
DISK_SPACE_MB = 1500

_REDIS_PORT = "the embedded Redis's port (default: 6379); with REDIS_URL set, that server is used and none started"


def up(
    *,
    demo: Annotated[bool, Arg("make a project, upload the demo clips, wait for their masks")] = False,
    exit: Annotated[bool, Arg("end when all is ready; with --demo, with 0 only if every clip has its masks")] = False,
    data_dir: Annotated[str | None, Arg("where everything is kept (default: AV2T_DATA_DIR, or .av2t)", "DIR")] = None,
    label_studio_port: Annotated[Port, Arg("Label Studio's port", "PORT")] = 8080,
    backend_port: Annotated[Port | None, Arg("the backend's (default: AV2T_BACKEND_PORT, or 9090)", "PORT")] = None,
    redis_port: Annotated[Port, Arg(_REDIS_PORT, "PORT")] = 6379,
    no_label_studio: Annotated[bool, Arg("start none: LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY name yours")] = False,
    demo_clips: Annotated[
        Path | None,
        Arg("other clips for the demo: *.mp4, and in labels.txt what can be heard in them, one on a line", "DIR"),
    ] = None,
) -> int:
    """Start everything: queue, backend, worker and, if wanted, Label Studio with a demo."""
    if demo and no_label_studio:
        raise AV2TError("--demo fills the Label Studio that it starts; leave out one of --demo and --no-label-studio")
    settings = load_settings(Settings, data_dir=data_dir, backend_port=backend_port, backend_host="127.0.0.1")
    resolve(settings.model, settings.models_dir).check()
    ready = False
    try:
        with signals_raise(), _owned(settings.data_dir), Supervisor() as supervisor:
            stack = Stack(settings, supervisor, redis_port, None if no_label_studio else label_studio_port)
            stack.start()
            missing = stack.demo(demo_clips or DEMO_CLIPS) if demo else []
            if exit:
                return 1 if missing else 0
            print(f"\n{stack.welcome()}\n\nCtrl-C stops all of it; the data stays in {settings.data_dir}.", flush=True)
            ready = True
            while True:
                supervisor.check()
                time.sleep(0.5)
    except Terminated:
        return 0 if ready else 128 + signal.SIGTERM
    except KeyboardInterrupt:
        # For what runs until it is told to end, being told so is success.
        if ready:
            return 0
        raise


class Stack:
    """The programs of one `av2t up`, and what they are told of each other. `studio_port`: None starts no Label
    Studio."""

    def __init__(self, settings: Settings, supervisor: Supervisor, redis_port: int, studio_port: int | None) -> None:
        self.settings, self.supervisor = settings, supervisor
        self.redis_port, self.studio_port = redis_port, studio_port
        self.began = time.monotonic()
        self.logs = settings.data_dir / "logs"
        self.redis_dir = settings.data_dir / "redis"
        # What `settings` have may be the address of an `av2t up` that was killed.
        self.own_redis = "redis_url" not in Settings().model_fields_set
        self.redis_url = redis_url(self.redis_dir, redis_port) if self.own_redis else settings.redis_url
        self.backend_url = f"http://127.0.0.1:{settings.backend_port}"
        self.studio_url = f"http://127.0.0.1:{studio_port}" if studio_port else settings.label_studio_url
        self.account: label_studio_server.Account | None = None
        self.api_key = ""

    def say(self, line: str) -> None:
        """One line for every stage, with the time since the start."""
        print(f"[{time.monotonic() - self.began:4.0f} s] {line}", flush=True)

    def start(self) -> None:
        """Returns when all of it is ready. AV2TError otherwise."""
        if self.own_redis:
            check_port(self.redis_port, purpose="Redis", option="--redis-port (or set REDIS_URL to use that Redis)")
        check_port(self.settings.backend_port, purpose="the backend", option="--backend-port")
        if self.studio_port:
            # Label Studio would silently take the next one.
            check_port(self.studio_port, purpose="Label Studio", option="--label-studio-port")
            self.account = label_studio_server.account(self.settings.data_dir / "label-studio-account.json")
        self.api_key = self.account.api_key if self.account else self.settings.require_api_key()
        environment = {
            "LABEL_STUDIO_URL": self.studio_url,
            "LABEL_STUDIO_API_KEY": self.api_key,
            "REDIS_URL": self.redis_url,
            "AV2T_DATA_DIR": str(self.settings.data_dir.absolute()),
            "AV2T_BACKEND_HOST": self.settings.backend_host,
            "AV2T_BACKEND_PORT": str(self.settings.backend_port),
        }
        previous = self.logs / "previous"  # the logs of the run before this one
        previous.mkdir(parents=True, exist_ok=True)
        for log in self.logs.glob("*.log"):
            log.replace(previous / log.name)
        self.say(f"data in {self.settings.data_dir}, logs in {self.logs}")
        self._start_redis()
        studio = self._start_label_studio()
        backend = self._start_own("backend", environment)
        worker = self._start_own("worker", environment, "--queues", "preannotate")
        trainer = self._start_own("worker", environment, "--queues", "train", name="trainer")
        self._wait(backend, lambda: answers(f"{self.backend_url}/health"), f"ready at {self.backend_url}")
        if studio:
            self._wait(studio, lambda: answers(f"{self.studio_url}/health"), f"ready at {self.studio_url}")
        with connect(self.redis_url) as redis:
            self._wait(trainer, lambda: trainer.pid in {each.pid for each in workers(redis, TRAIN)}, "ready")
            self._wait(worker, lambda: worker.pid in {each.pid for each in workers(redis, PREANNOTATE)}, "ready")

    def demo(self, clips: Path) -> list[str]:
        """The names of the clips that got no masks."""
        own = {"label_studio_url": self.studio_url, "label_studio_api_key": SecretStr(self.api_key)}
        settings = self.settings.model_copy(update=own)
        with LabelStudioClient(settings) as client:
            demo = Demo(
                client=client, backend_url=self.backend_url, redis_url=self.redis_url, clips=clips, say=self.say
            )
            return demo.run(self.supervisor.check)

    def welcome(self) -> str:
        if self.account is None:
            return f"The backend is ready: connect {self.backend_url} in the Model settings of your project."
        return (
            f"Label Studio is ready at {self.studio_url}\n"
            f"  user      {self.account.email}\n  password  {self.account.password}\n"
            f"  {self.backend_url}/status shows what waits, runs and failed"
        )

    def _start_redis(self) -> None:
        if not self.own_redis:
            with connect(self.redis_url) as redis:
                overview(redis)
            self.say("Redis: the one of REDIS_URL answers")
            return
        server = self.supervisor.add(start_redis(self.redis_dir, self.redis_port, self.logs / "redis.log"))
        where = f"127.0.0.1:{self.redis_port}, its password in {self.redis_dir}"
        self.say(f"Redis: ready at {where} ({server.age:.1f} s)")

    def _start_label_studio(self) -> Process | None:
        if self.studio_port is None or self.account is None:
            return None
        environment = label_studio_server.environment_in(self.settings.data_dir)
        if not label_studio_server.is_installed(environment):
            self.say(f"Label Studio: installing {label_studio_server.VERSION} into {environment} (once, 800 MB)")
            began = time.monotonic()
            label_studio_server.install(environment, self.logs / "label-studio-install.log")
            self.say(f"Label Studio: installed ({time.monotonic() - began:.1f} s)")
        data_dir, log = self.settings.data_dir / "label-studio-data", self.logs / "label-studio.log"
        if not data_dir.exists():
            self.say("Label Studio: making its database (once, about a minute)")
        studio = label_studio_server.start(environment, data_dir, self.studio_port, self.account, log)
        return self.supervisor.add(studio)

    def _start_own(self, command: str, environment: dict[str, str], *options: str, name: str | None = None) -> Process:
        name = name or command
        # -P: a folder of the same name where this was started is not what is meant.
        line = [sys.executable, "-P", "-m", "av2t", command, *options]
        return self.supervisor.add(Process(f"The {name}", line, log=self.logs / f"{name}.log", environment=environment))

    def _wait(self, process: Process, ready: Callable[[], bool], state: str) -> None:
        self.supervisor.wait_until(process, ready, timeout=300)
        self.say(f"{process.name}: {state} ({process.age:.1f} s)")


@contextlib.contextmanager
def _owned(data_dir: Path) -> Iterator[None]:
    """Make `data_dir` and keep every other `av2t up` out of it; AV2TError if one is in it or it cannot be used."""
    another = "choose another with --data-dir"
    try:
        str(data_dir.absolute()).encode()
    except UnicodeEncodeError:  # Redis and Label Studio read it from text
        raise AV2TError(f"{data_dir}: its path is no UTF-8; {another}") from None
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = shutil.disk_usage(data_dir).free // 1_000_000
        try:
            lock = locked(data_dir / "up.lock", wait=False)
        except BlockingIOError:
            holder = read_plain(data_dir / "up.lock", 20).decode(errors="replace")
            raise AV2TError(f"another av2t up (process {holder}) uses {data_dir}; stop it, or {another}") from None
    except OSError as error:
        raise AV2TError(f"the folder {data_dir} cannot be used ({error.strerror}); {another}") from None
    if free < DISK_SPACE_MB:
        raise AV2TError(f"{data_dir} has {free} MB of space left; free {DISK_SPACE_MB} MB, or {another}")
    with lock:
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        lock.flush()
        yield
