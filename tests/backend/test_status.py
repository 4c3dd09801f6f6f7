"""The status page, `av2t status` and `av2t retry`."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from rq import SimpleWorker
from rq.job import Job, JobStatus

from av2t_core.versions.saving import save_version
from av2t_core.versions.version import resolve
from backend.status import _address
from tests.backend.conftest import CONFIG, Backend, running
from tests.conftest import EMBEDDED, fail, work
from worker.queue.connection import memory, redis_time
from worker.queue.job import open_queue
from worker.queue.preannotation import job_id
from worker.queue.projects import RECONCILED, REPREDICT
from worker.queue.queue import enqueue_preannotation, enqueue_training
from worker.queue.results import MOST_SHEETS, count_task, having_sheets, keep_sheet
from worker.queue.training import TRAIN

SENTENCE = '<script>alert("clip.mp4")</script> has no video stream'


@pytest.fixture
def _one_failed_two_waiting(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1], "tiny-1")
    work(redis, fail)
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
        self.buttons: list[str | None] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])
        if tag == "button":
            self.buttons.append(dict(attrs)["value"])

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
    assert page.links == [f"https://studio.example.org/projects/3/data{rest}" for rest in ("?task=1", "")]
    assert "No worker listens" in page.text


@pytest.mark.usefixtures("_one_failed_two_waiting")
def test_link_never_leaves_http(backend: Backend) -> None:
    backend.post("/setup", project="3.17", schema=CONFIG, hostname="javascript:alert(1)//")
    [failure] = backend.http.get("/status.json").json()["failures"]
    assert failure["link"].startswith("http://")


@pytest.mark.parametrize(
    ("told", "known", "address"),
    [
        ("http://localhost:8080", "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:8080", "http://label-studio:8080", "http://localhost:8080"),
        ("http://localhost:8081", "http://127.0.0.1:8080", "http://localhost:8081"),
        ("https://studio.example.com", "http://127.0.0.1:8080", "https://studio.example.com"),
        ("javascript:alert(1)", "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)
def test_links_lead_where_people_are_logged_in(told: str, known: str, address: str) -> None:
    assert _address(told, known) == address


@pytest.mark.usefixtures("_one_failed_two_waiting")
def test_json(backend: Backend) -> None:
    state = backend.http.get("/status.json").json()
    assert (state["queued"], state["failed"], state["running"], state["workers"]) == (2, 1, [], [])
    [failure] = state["failures"]
    assert (failure["project"], failure["task"], failure["error"]) == (3, 1, SENTENCE)


def press(backend: Backend, button: str, id: str, **headers: str) -> int:
    said = {"Sec-Fetch-Site": "same-origin", **headers}
    return backend.http.post(f"/{button}", data={"id": id}, headers=said).status_code


@pytest.mark.usefixtures("_one_failed_two_waiting")
def test_buttons(backend: Backend, redis: Redis) -> None:
    failed, waiting, last = (job_id(3, task, "tiny-1") for task in (1, 2, 3))
    page = Page(backend.http.get("/").text)
    assert page.buttons == ["all", failed]

    assert press(backend, "retry", failed) == 303
    assert open_queue(redis).get_job_ids() == [waiting, last, failed]
    assert press(backend, "stop", waiting) == 303
    assert open_queue(redis).get_job_ids() == [last, failed]
    [stopped] = backend.http.get("/status.json").json()["failures"]
    assert (stopped["task"], stopped["error"]) == (2, "Stopped by a person.")
    assert press(backend, "retry-all", "all") == 303
    assert open_queue(redis).get_job_ids() == [last, failed, waiting]
    # What has gone meanwhile is no error: the page shows what there is.
    assert press(backend, "stop", "preannotate-9-9-none") == 303
    assert press(backend, "retry", waiting) == 303


@pytest.mark.usefixtures("_one_failed_two_waiting")
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "", "Origin": "https://elsewhere.example"},
        {"Sec-Fetch-Site": ""},
    ],
)
def test_another_site_cannot_press_them(backend: Backend, redis: Redis, headers: dict[str, str]) -> None:
    assert press(backend, "stop", job_id(3, 2, "tiny-1"), **headers) == 403
    assert press(backend, "retry", job_id(3, 1, "tiny-1"), **headers) == 403
    assert len(open_queue(redis)) == 2


def test_an_older_browser_can_press_them(backend: Backend) -> None:
    assert press(backend, "stop", "none", **{"Sec-Fetch-Site": "", "Origin": backend.url}) == 303


def test_which_version_a_project_uses(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    models_dir = tmp_path / "data" / "models"
    for number in (1, 2):
        save_version(models_dir / f"{EMBEDDED}-p3-{number}", tuned(number), {})
    environment = {"AV2T_DATA_DIR": str(tmp_path / "data"), "AV2T_REPREDICT": "ask"}
    with running(redis_url, tmp_path / "backend.log", **environment) as backend:
        backend.set_up(3)

        def uses() -> str:
            [project] = backend.http.get("/status.json").json()["projects"]
            assert backend.post("/setup", project="3.1", schema=CONFIG).json() == {
                "model_version": project["model_version"]
            }
            return str(project["model_version"])

        assert uses() == EMBEDDED
        page = Page(backend.http.get("/").text)
        assert page.buttons == [f"3/{EMBEDDED}-p3-2", f"3/{EMBEDDED}-p3-1"]
        assert "It is better <2>" in page.text

        redis.set(RECONCILED, "")
        assert press(backend, "use", f"3/{EMBEDDED}-p3-1") == 303
        assert uses() == f"{EMBEDDED}-p3-1"
        assert not redis.exists(RECONCILED)  # so that a worker sees to the rest at once
        assert Page(backend.http.get("/").text).buttons == ["3", "3", f"3/{EMBEDDED}-p3-2"]
        assert press(backend, "predict-anew", "3") == 303
        assert redis.smembers(REPREDICT) == {b"3"}
        assert press(backend, "take-back", "3") == 303
        assert uses() == EMBEDDED

        assert press(backend, "take-back", "3") == 422
        assert press(backend, "use", "3/none") == 422
        assert press(backend, "use", "../x/tiny") == 400
        assert press(backend, "use", f"3/{EMBEDDED}-p3-1", **{"Sec-Fetch-Site": "cross-site"}) == 403
        assert uses() == EMBEDDED


def tuned(number: int) -> dict[str, Any]:
    """The card of a version that a training of project 3 has made."""
    card = resolve(EMBEDDED).card.as_json()
    return {
        **{name: card[name] for name in ("preset", "labels")},
        **{"parent": EMBEDDED, "onto_parent": True, "project": 3, "created": f"2026-01-0{number}T00:00:00+00:00"},
        "verdict": {"better": True, "sentence": f"It is better <{number}>"},
    }


def test_what_was_done_last_and_what_is_to_be_said_of_it(backend: Backend, redis: Redis) -> None:
    said = {"outcome": "predicted", "keyframes": 100, "remarks": ["It is long."]}
    enqueue_preannotation(redis, 3, [1], "tiny-1")
    work(redis, predicted)
    [done] = backend.http.get("/status.json").json()["done"]
    assert {name: done[name] for name in said} == said
    assert done["finished_at"]
    assert "predicted, 100 keyframes. It is long." in " ".join(Page(backend.http.get("/").text).text.split())


def test_the_contact_sheets_of_the_last_tasks(backend: Backend, redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1, 2], "tiny-1")
    work(redis, predicted)
    keep_sheet(redis, job_id(3, 1, "tiny-1"), b"a picture")
    page = Page(backend.http.get("/").text)
    [look] = [link for link in page.links if (link or "").startswith("sheet")]
    answer = backend.http.get(f"/{look}")
    assert (answer.headers["content-type"], answer.content) == ("image/jpeg", b"a picture")
    missing = backend.http.get("/sheet", params={"id": job_id(3, 2, "tiny-1")})
    assert missing.status_code == 404
    assert "no contact sheet is kept" in missing.json()["error"]
    for number in range(MOST_SHEETS):
        keep_sheet(redis, str(number), b"another")
    keep_sheet(redis, "5", b"the same again")
    assert having_sheets(redis, [job_id(3, 1, "tiny-1"), "0", "5"]) == {"0", "5"}
    assert len(redis.keys("av2t:sheet:*")) == MOST_SHEETS


def predicted(**_: object) -> dict[str, object]:
    """A job that was done, to SimpleWorker."""
    return {"outcome": "predicted", "keyframes": 100, "remarks": ["It is long."]}


def training(redis: Redis, project: int, **meta: object) -> Job:
    """One that runs and has told this of itself."""
    id, _ = enqueue_training(redis, project)
    job = Job.fetch(id, connection=redis, serializer="json")
    queue = open_queue(redis, TRAIN)
    worker = SimpleWorker([queue], name=f"trainer-{project}", connection=redis, serializer="json")
    worker.register_birth()
    redis.lrem(queue.key, 1, id)
    worker.prepare_execution(job)
    worker.prepare_job_execution(job)
    job.meta |= meta
    job.save_meta()
    return job


@pytest.fixture
def _trainings(redis: Redis) -> None:
    """One of project 3 has ended well, one of project 4 badly, one of project 5 runs and one of project 3 waits."""
    for project, function in ((3, learnt), (4, refused)):
        enqueue_training(redis, project)
        work(redis, function, TRAIN)
    job = Job.fetch("train-4-2", connection=redis, serializer="json")
    job.meta["error"] = SENTENCE
    job.save_meta()
    training(redis, 5, stage="training", done=40, total=100, epoch=2, epochs=5, loss=0.1234, eta=75.0, version="v-5")
    enqueue_training(redis, 3)


def learnt(**_: object) -> dict[str, object]:
    return {"version": "tiny-1-p3-1", "promoted": False, "sentence": "It is kept, but not better.", "metrics": {}}


def refused(**_: object) -> None:
    raise ValueError


@pytest.mark.usefixtures("_trainings")
def test_trainings(backend: Backend, redis: Redis) -> None:
    state = backend.http.get("/status.json").json()
    rows = {row["job"]: (row["state"], row["told"]) for row in state["trainings"]}
    assert rows == {
        "train-3-4": ("waiting", "waiting"),
        "train-5-3": ("running", "training, 40 of 100, epoch 2 of 5, loss 0.123, 1 min left"),
        "train-4-2": ("failed", SENTENCE),
        "train-3-1": ("done", "It is kept, but not better."),
    }
    assert [worker["name"] for worker in state["trainers"]] == ["trainer-5"]
    assert (state["workers"], state["queued"], state["failed"]) == ([], 0, 0)

    page = Page(backend.http.get("/").text)
    assert "script" not in page.tags
    for sentence in (said for _, said in rows.values()):
        assert sentence in " ".join(page.text.split())
    assert page.buttons == ["train-3-4", "train-5-3"]
    assert press(backend, "stop", "train-3-4") == 303
    assert backend.http.get("/train/train-3-4").json()["error"] == "Stopped by a person."
    assert Page(backend.http.get("/").text).buttons == ["train-5-3"]

    ended = backend.http.get("/train/train-3-1").json()
    assert (ended["state"], ended["result"]["promoted"]) == ("done", False)


def test_a_training_that_nobody_works_on(backend: Backend, redis: Redis) -> None:
    enqueue_training(redis, 3)
    assert "No worker listens for trainings" in Page(backend.http.get("/").text).text


@pytest.mark.usefixtures("_trainings")
def test_command_with_trainings(redis_url: str) -> None:
    said = av2t(redis_url, "status").stdout
    assert "training, 40 of 100, epoch 2 of 5, loss 0.123, 1 min left" in said
    assert "trainer-5" in said
    assert "It is kept, but not better." not in av2t(redis_url, "status", "--project", "4").stdout
    data = json.loads(av2t(redis_url, "status", "--json").stdout)
    assert [row["job"] for row in data["trainings"]] == ["train-3-4", "train-5-3", "train-4-2", "train-3-1"]


@pytest.mark.usefixtures("_one_failed_two_waiting", "_trainings")
def test_metrics(backend: Backend, redis: Redis) -> None:
    count_task(redis, "predicted", 5, {"fetch": 0.5, "predict": 2.0})
    count_task(redis, "predicted", 7, {"predict": 1.0})
    answer = backend.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["av2t_tasks", "waiting"] == 2
    assert samples["av2t_tasks", "failed"] == 1
    assert [samples["av2t_trainings", state] for state in ("waiting", "running", "done", "failed")] == [1, 1, 1, 1]
    assert (samples["av2t_trainers",], samples["av2t_workers",]) == (1, 0)
    assert samples["av2t_oldest_waiting_seconds",] >= 0
    assert samples["av2t_model_info", backend.http.get("/health").json()["model_version"]] == 1
    assert samples["av2t_ended_tasks_total", "predicted"] == 2
    assert samples["av2t_keyframes_total",] == 12
    assert samples["av2t_stage_seconds_total", "predict"] == 3
    assert samples["av2t_stage_seconds_total", "push"] == 0


@pytest.mark.usefixtures("_one_failed_two_waiting")
def test_what_is_tried_again_is_said_and_why(backend: Backend, redis: Redis, redis_url: str) -> None:
    queue, id = open_queue(redis), job_id(3, 2, "tiny-1")
    redis.lrem(queue.key, 1, id)
    redis.zadd(queue.scheduled_job_registry.key, {id: redis_time(redis) + 169})
    job = Job.fetch(id, connection=redis, serializer="json")
    job.meta["error"] = "Label Studio answers 502."
    job.save_meta()
    job.set_status(JobStatus.SCHEDULED)

    [retried] = backend.http.get("/status.json").json()["retried"]
    assert (retried["task"], retried["error"]) == (2, "Label Studio answers 502.")
    assert 0 < retried["seconds"] <= 169
    page = Page(backend.http.get("/").text)
    assert "Tried again later" in page.text
    assert id in page.buttons
    said = av2t(redis_url, "status", "--project", "3").stdout
    assert re.search(r"project 3  task 2  tiny-1  in \d+ s: Label Studio answers 502\.$", said, re.MULTILINE)
    assert press(backend, "stop", id) == 303
    assert "Tried again later" not in av2t(redis_url, "status").stdout


@pytest.mark.usefixtures("_one_failed_two_waiting")
def test_command_for_people(redis_url: str) -> None:
    done = av2t(redis_url, "status")
    assert done.returncode == 0
    assert done.stdout.startswith("2 waiting, 0 running, 0 done in 24 hours, 1 failed\n")
    assert SENTENCE in done.stdout


def test_command_for_a_project_of_which_nothing_is_known(backend: Backend, redis: Redis, redis_url: str) -> None:
    enqueue_training(redis, 5)
    enqueue_preannotation(redis, 6, [1], "tiny-1")
    backend.set_up(7)
    for arguments in ([], ["--json"]):
        unknown = av2t(redis_url, "status", "--project", "99", *arguments)
        assert (unknown.returncode, unknown.stdout) == (2, "")
        assert unknown.stderr.startswith(
            "av2t: error: Nothing is known of project 99: Label Studio has not connected it"
        )
        assert unknown.stderr.count("\n") == 1
        for known in "567":
            assert av2t(redis_url, "status", "--project", known, *arguments).returncode == 0


@pytest.mark.usefixtures("_one_failed_two_waiting")
def test_what_a_clip_is_called_steers_no_terminal(redis_url: str, redis: Redis) -> None:
    job = Job.fetch(job_id(3, 1, "tiny-1"), connection=redis, serializer="json")
    job.meta["error"] = "\x1b[2J\x9bclip\nForged  project 9  task 9\u2028\ud800"
    job.save_meta()
    for arguments in (["status"], ["status", "--json"]):
        said = av2t(redis_url, *arguments).stdout
        assert "clip" in said
        assert not [line for line in said.splitlines() if line.startswith("Forged")]
        assert not set("\x1b\x9b\u2028") & set(said)


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


def test_what_is_no_job_of_ours_is_shown_as_such(backend: Backend, redis: Redis, redis_url: str) -> None:
    foreign = open_queue(redis).enqueue("os.getenv", args=("<b>",))
    redis.zadd(open_queue(redis).failed_job_registry.key, {foreign.id: 9e9})
    redis.hset(foreign.key, "meta", json.dumps({"error": SENTENCE}))
    [row] = backend.http.get("/status.json").json()["failures"]
    assert (row["id"], row["task"], row["link"], row["error"]) == (foreign.id, None, None, SENTENCE)
    page = Page(backend.http.get("/").text)
    assert foreign.id in page.text
    assert "os.getenv" not in page.text
    assert not any(foreign.id in (link or "") for link in page.links)
    redis.hset(foreign.key, "meta", "{")
    backend.set_up(3)
    for arguments in ([], ["--json"], ["--project", "3"]):
        assert av2t(redis_url, "status", *arguments).returncode == 0


def test_a_full_redis_is_said_where_people_look(backend: Backend, redis: Redis, redis_url: str) -> None:
    backend.set_up(3)
    assert backend.http.get("/status.json").json()["redis"]["full"] is False
    assert "Redis is full" not in backend.http.get("/").text
    try:
        redis.config_set("maxmemory", memory(redis).used * 100 // 95)
        for answer in (
            backend.http.get("/health"),
            backend.post("/predict", project="3.17", tasks=[{"id": 1}], label_config=CONFIG),
        ):
            assert answer.status_code == 503
            assert "is full (more than 90 % of its maxmemory)" in answer.json()["error"]
        assert backend.http.get("/status.json").json()["redis"]["full"] is True
        assert "Redis is full" in backend.http.get("/").text
        assert "is full (more than 90 % of its maxmemory)" in av2t(redis_url, "doctor").stdout
    finally:
        redis.config_set("maxmemory", 0)
    assert backend.http.get("/health").status_code == 200
