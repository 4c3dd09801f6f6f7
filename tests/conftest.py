"""What several rooms' tests need: a real Redis, a real Label Studio, real media."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from label_studio_sdk import LabelStudio
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import SimpleWorker
from rq.job import Job

from av2t.stack import label_studio_server
from av2t.stack.process import answers
from av2t.stack.redis_server import redis_url as url_of_redis
from av2t.stack.redis_server import start_redis
from av2t_core.versions.version import resolve
from tests.ports import free_port
from worker.queue.connection import connect
from worker.queue.job import open_queue
from worker.queue.preannotation import PREANNOTATE

ROOT = Path(__file__).parents[1]
os.environ["AV2T_MODEL"] = "tiny"  # for all that the tests start: it is quick
EMBEDDED = resolve("tiny").name
SHIPPED = [resolve("small").name, EMBEDDED]  # all in `av2t_core/weights`, sorted
COMPOSED_CLIPS = ROOT / "tests" / "data" / "composed_clips"  # in which tiny finds what sounds


@pytest.fixture(scope="session")
def shared_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("redis")
    port = free_port()
    server = start_redis(folder / "data", port, folder / "redis.log")
    yield url_of_redis(folder / "data", port)
    server.stop()


@pytest.fixture
def redis_url(shared_redis_url: str) -> str:
    """The address of a real server of Redis's protocol, empty at the start of the test."""
    with Redis.from_url(shared_redis_url) as client:
        client.flushall()
    return shared_redis_url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url, timeout=5) as client:
        yield client


def queued_tasks(redis: Redis) -> list[int]:
    """The tasks that wait, in their order."""
    return [Job.fetch(each, redis, serializer="json").kwargs["task"] for each in open_queue(redis).get_job_ids()]


class CutOff(Redis):
    """A connection that breaks after so many commands."""

    left = 0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if self.left == 0:
            raise RedisConnectionError("cut off")
        self.left -= 1
        return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, *args: Any, **options: Any) -> Any:
        if self.left == 0:
            raise RedisConnectionError("cut off")
        self.left -= 1
        return super().pipeline(*args, **options)


def work(redis: Redis, function: Callable[..., object], queue: str = PREANNOTATE) -> None:
    """Run all that waits in this process, with a function of the test's in place of the jobs' own."""

    class Stand(Job):  # type: ignore[misc]  # rq has no types
        def _execute(self) -> object:
            return function(**self.kwargs)

    worker = SimpleWorker([open_queue(redis, queue)], connection=redis, serializer="json", job_class=Stand)
    worker.work(burst=True, logging_level="CRITICAL")


def fail(**_: object) -> None:
    """In place of a job's own function."""
    raise TypeError("as it is told to")


@dataclass(frozen=True, kw_only=True)
class LabelStudioServer:
    """A real Label Studio on 127.0.0.1 with its data in `folder`. The account's legacy token is `api_key`; projects of
    other tests may exist.
    """

    folder: Path
    url: str
    api_key: str
    email: str
    password: str
    sdk: LabelStudio

    def make_project(self, config: str, title: str = "test") -> Any:
        """A new project with `config`, as the SDK returns it (`.id`, `.title`, …)."""
        return self.sdk.projects.create(title=title, label_config=config)

    def upload(self, project: int, path: Path) -> Any:
        """Upload one file as a person does on the import page; the one task that it becomes, as the SDK returns it."""
        before = {task.id for task in self.sdk.tasks.list(project=project)}
        with path.open("rb") as file:
            self.request("POST", f"/api/projects/{project}/import", files={path.name: file})
        [task] = [task for task in self.sdk.tasks.list(project=project, fields="all") if task.id not in before]
        return task

    def add_tasks(self, project: int, count: int) -> list[int]:
        """So many tasks whose clips nobody can fetch."""
        data = [{"video": f"http://127.0.0.1:9/{number}.mp4"} for number in range(count)]
        self.request("POST", f"/api/projects/{project}/import", json=data)
        return sorted(int(task.id) for task in self.sdk.tasks.list(project=project))

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """A call that the SDK does not have, with the account's key; raises for what is not 2xx."""
        headers = {"Authorization": f"Token {self.api_key}"}
        response = httpx.request(method, self.url + path, headers=headers, timeout=60, **kwargs)
        response.raise_for_status()
        return response


@contextmanager
def running_label_studio(folder: Path, **environment: str) -> Iterator[LabelStudioServer]:
    """Label Studio as `av2t up` runs it, with its data in `folder`: those that are there, or new ones."""
    if not (folder / "data").exists():
        shutil.copytree(_new_label_studio(), folder, dirs_exist_ok=True)
    with (
        _serving_label_studio(folder, environment) as (url, account),
        # The SDK closes no client of its own, and an open socket at the end is a warning, which is an error here.
        httpx.Client(timeout=60, follow_redirects=True) as client,
    ):
        yield LabelStudioServer(
            folder=folder,
            url=url,
            api_key=account.api_key,
            email=account.email,
            password=account.password,
            sdk=LabelStudio(base_url=url, api_key=account.api_key, httpx_client=client),
        )


def _new_label_studio() -> Path:
    """The folder of one that nobody has used; it takes a minute to make its database, so one is kept to be copied."""
    kept = ROOT / ".av2t" / f"label-studio-{label_studio_server.VERSION}-new"
    kept.parent.mkdir(exist_ok=True)
    with kept.with_name(f"{kept.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.is_dir():
            partial = kept.with_name(f"{kept.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            with _serving_label_studio(partial, {}):
                pass
            partial.rename(kept)
    return kept


@contextmanager
def _serving_label_studio(
    folder: Path, environment: Mapping[str, str]
) -> Iterator[tuple[str, label_studio_server.Account]]:
    """Its address, once it answers. Its installation is the one that `av2t up` uses."""
    installation = label_studio_server.environment_in(ROOT / ".av2t")
    label_studio_server.install(installation, folder / "install.log")
    account = label_studio_server.account(folder / "account.json")
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        server = label_studio_server.start(installation, folder / "data", port, account, folder / "label-studio.log")
    try:
        url = f"http://127.0.0.1:{port}"
        server.wait_until(lambda: answers(url + "/health"), timeout=300)
        yield url, account
    finally:
        server.stop()


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """With an empty database, and no files of this machine in it."""
    with running_label_studio(tmp_path_factory.mktemp("label-studio")) as server:
        yield server


@pytest.fixture(scope="session")
def shared() -> Path:
    """The wide collection of media and goldens that a checkout may have beside it; skips where there is none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared beside the checkout")
    return folder


def wait_until(condition: Callable[[], object], timeout: float = 60, what: str = "the condition") -> Any:
    """Ask `condition` until it gives something true, and return that; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {timeout:.0f} s"
        time.sleep(0.1)
    return result
