"""The status page, `av2t status` and `av2t retry`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from redis import Redis
from rq import SimpleWorker
from rq.job import Job

from tests.backend.conftest import CONFIG, Backend
from worker import queue
from worker.queue import connect, enqueue_preannotation, job_id, open_queue

SENTENCE = '<script>alert("clip.mp4")</script> has no video stream'


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with connect(redis_url, timeout=5) as client:
        yield client


@pytest.fixture
def _one_failed_two_waiting(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "FUNCTION", "builtins.int")
    enqueue_preannotation(redis, 3, [1], "tiny-1")
    SimpleWorker([open_queue(redis)], connection=redis, serializer="json").work(burst=True, logging_level="ERROR")
    job = Job.fetch(job_id(3, 1, "tiny-1"), connection=redis, serializer="json")
    job.meta["error"] = SENTENCE
    job.save_meta()
    enqueue_preannotation(redis, 3, [2, 3], "tiny-1")


class Page(HTMLParser):
    """The tags, the links and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str | None] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_data(self, data: str) -> None:
        self.text += data


def av2t(redis_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "av2t", *arguments]
    return subprocess.run(command, env={"REDIS_URL": redis_url}, capture_output=True, text=True)


@pytest.mark.usefixtures("_one_failed_two_waiting")
def test_page_says_what_failed_and_runs_nothing(backend: Backend) -> None:
    backend.post("/setup", project="3.17", schema=CONFIG, hostname="https://studio.example.org/")
    page = Page(backend.http.get("/status").text)
    assert "script" not in page.tags
    assert SENTENCE in page.text
    assert page.links == ["https://studio.example.org/projects/3/data?task=1"]
    assert "No worker listens" in page.text


@pytest.mark.usefixtures("_one_failed_two_waiting")
def test_link_never_leaves_http(backend: Backend) -> None:
    backend.post("/setup", project="3.17", schema=CONFIG, hostname="javascript:alert(1)//")
    [failure] = backend.http.get("/status.json").json()["failures"]
    assert failure["link"].startswith("http://")


@pytest.mark.usefixtures("_one_failed_two_waiting")
def test_json(backend: Backend) -> None:
    state = backend.http.get("/status.json").json()
    assert (state["queued"], state["failed"], state["running"], state["workers"]) == (2, 1, [], [])
    [failure] = state["failures"]
    assert (failure["project"], failure["task"], failure["error"]) == (3, 1, SENTENCE)


@pytest.mark.usefixtures("_one_failed_two_waiting")
def test_command_for_people(redis_url: str) -> None:
    done = av2t(redis_url, "status")
    assert done.returncode == 0
    assert done.stdout.startswith("2 waiting, 0 running, 0 done in 24 hours, 1 failed\n")
    assert SENTENCE in done.stdout


@pytest.mark.usefixtures("_one_failed_two_waiting")
def test_command_for_scripts(redis_url: str) -> None:
    state = json.loads(av2t(redis_url, "status", "--json").stdout)
    assert (state["queued"], state["failed"]) == (2, 1)
    assert state["failures"][0]["error"] == SENTENCE


@pytest.mark.usefixtures("_one_failed_two_waiting")
def test_retry(redis_url: str, redis: Redis) -> None:
    assert av2t(redis_url, "retry", "--project", "4").stdout == "Failed tasks of project 4 queued again: 0\n"
    assert av2t(redis_url, "retry").stdout == "Failed tasks queued again: 1\n"
    assert open_queue(redis).get_job_ids()[-1] == job_id(3, 1, "tiny-1")


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["retry"]])
def test_redis_down_is_one_line(arguments: list[str]) -> None:
    done = av2t("redis://127.0.0.1:1/0", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("av2t: error: Redis at 127.0.0.1:1/0 cannot be used")
