"""The ML-backend protocol, as Label Studio and as anything else speaks it."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from av2t_core import limits
from av2t_core.versions.version import resolve
from tests.backend.conftest import CONFIG, Backend, running
from tests.conftest import EMBEDDED, SHIPPED, queued_tasks
from worker.queue.job import open_queue
from worker.queue.kind import State
from worker.queue.projects import KEY
from worker.queue.queue import stop_jobs
from worker.queue.training import TRAIN
from worker.queue.views import overview, states

PROJECT = {"id": 3, "label_config": CONFIG}


def tasks(count: int) -> list[dict[str, Any]]:
    return [{"id": task, "data": {"video": "/data/upload/3/clip.mp4"}} for task in range(1, count + 1)]


def test_health_and_versions(backend: Backend) -> None:
    health = backend.http.get("/health")
    assert health.status_code == 200
    assert health.json()["status"] == "UP"
    version = health.json()["model_version"]
    assert backend.http.get("/versions").json() == {"versions": [version, SHIPPED[0]]}
    assert backend.post("/versions", project="3.17").json()["versions"] == [version, SHIPPED[0]]


def test_setup_names_the_current_version(backend: Backend) -> None:
    answer = backend.post("/setup", project="3.17", schema=CONFIG, access_token="t", extra_params=None)
    assert answer.status_code == 200
    assert answer.json() == {"model_version": backend.http.get("/health").json()["model_version"]}


def test_setup_refuses_a_config_without_targets(backend: Backend) -> None:
    answer = backend.post("/setup", project="3.17", schema='<View><Video name="v" value="$video"/></View>')
    assert answer.status_code == 422
    assert "BrushLabels" in answer.json()["error"]
    # Label Studio shows only this.
    assert answer.reason_phrase == answer.json()["error"]


def test_reason_survives_what_a_status_line_cannot_hold(backend: Backend) -> None:
    config = CONFIG.replace('toName="frames"', 'toName="кадры&#10;X-Injected: 1"')
    answer = backend.post("/setup", project="3.17", schema=config)
    assert answer.status_code == 422
    assert "кадры" in answer.json()["error"]
    assert "X-Injected" not in answer.headers


def test_predict_is_answered_at_once_and_enqueues_once(backend: Backend, redis: Redis) -> None:
    for _ in range(2):
        answer = backend.post("/predict", project="3.17", tasks=tasks(500), label_config=CONFIG, params={})
        assert answer.status_code == 200
        assert answer.json()["results"] == [[]] * 500
        assert answer.json()["model_version"] == backend.http.get("/health").json()["model_version"]
        assert overview(redis).queued == 500


def test_a_single_task_is_a_person_s_and_comes_first(backend: Backend, redis: Redis) -> None:
    for ids in ([1, 2], [3], [2]):
        wanted = [{"id": task, "data": {"video": f"/data/upload/3/{task}.mp4"}} for task in ids]
        assert backend.post("/predict", project="3.17", tasks=wanted, label_config=CONFIG).status_code == 200
    assert queued_tasks(redis) == [2, 3, 1]


def test_predict_after_setup_needs_no_config(backend: Backend, redis: Redis) -> None:
    unknown = backend.post("/predict", project="11.17", tasks=tasks(1))
    assert unknown.status_code == 404
    assert unknown.json()["error"].startswith("Project 11 is not set up")
    backend.set_up(project=11)
    # Whatever names the parameters have.
    params = {"login": None, "context": None, "tasks": 1, "project": 2, "self": 3}
    assert backend.post("/predict", project="11.17", tasks=tasks(1), params=params).json()["results"] == [[]]
    assert overview(redis).queued == 1


def test_projects_do_not_mix(backend: Backend) -> None:
    backend.set_up(project=12)
    assert backend.post("/setup", project="13.17", schema="<View/>").status_code == 422
    assert backend.post("/predict", project="12.17", tasks=tasks(1)).status_code == 200
    assert backend.post("/predict", project="13.17", tasks=tasks(1)).status_code == 404


def test_a_project_is_known_after_a_restart(redis_url: str, redis: Redis, tmp_path: Path) -> None:
    with running(redis_url, tmp_path / "first.log") as backend:
        backend.set_up(project=12)
    with running(redis_url, tmp_path / "second.log") as backend:
        assert backend.post("/predict", project="12.17", tasks=tasks(1)).json()["results"] == [[]]
    assert overview(redis).queued == 1


def test_each_project_has_the_version_that_it_chose(redis_url: str, redis: Redis, tmp_path: Path) -> None:
    """By its settings in Label Studio, of which the events tell. What is none of ours there is the backend's title."""
    models = tmp_path / "data/models"
    shutil.copytree(resolve(EMBEDDED).directory, models / "mine-1")
    with running(
        redis_url, tmp_path / "backend.log", AV2T_MODEL=EMBEDDED, AV2T_DATA_DIR=str(tmp_path / "data")
    ) as backend:
        for project, chosen in ((3, "mine-1"), (4, "AV2T-SAM"), (5, "")):
            backend.post(
                "/webhook", action="PROJECT_UPDATED", project=PROJECT | {"id": project, "model_version": chosen}
            )
        for project, version in ((3, "mine-1"), (4, EMBEDDED), (5, EMBEDDED)):
            setup = backend.post("/setup", project=f"{project}.17", schema=CONFIG)
            assert setup.json() == {"model_version": version}
            backend.post("/predict", project=f"{project}.17", tasks=tasks(1))
            assert states(redis, project, [1], version) == {1: State.WAITING}
        assert backend.http.get("/versions").json() == {"versions": [EMBEDDED, "mine-1", SHIPPED[0]]}
        rows = backend.http.get("/status.json").json()["projects"]
        assert [(row["id"], row["model_version"]) for row in rows] == [(3, "mine-1"), (4, EMBEDDED), (5, EMBEDDED)]
        # A version that is gone is not predicted with.
        shutil.rmtree(models / "mine-1")
        assert backend.post("/setup", project="3.17", schema=CONFIG).json() == {"model_version": EMBEDDED}


def test_a_caller_cannot_make_up_projects_without_end(backend: Backend, redis: Redis) -> None:
    redis.hset(KEY, mapping={str(project): "{}" for project in range(1001, 1001 + limits.PROJECTS)})
    answer = backend.post("/setup", project="3.17", schema=CONFIG)
    assert answer.status_code == 422
    assert "Project 3 is one too many: 1000 are known already" in answer.json()["error"]


def test_created_tasks_are_enqueued(backend: Backend, redis: Redis) -> None:
    event = {"action": "TASKS_CREATED", "tasks": tasks(2), "project": PROJECT}
    assert backend.post("/webhook", **event).json() == {"status": "queued", "new": 2, "already": 0}
    assert backend.post("/webhook", **event).json() == {"status": "queued", "new": 0, "already": 2}
    version = backend.http.get("/health").json()["model_version"].replace(".", "_")
    assert open_queue(redis).get_job_ids() == [f"preannotate-3-1-{version}", f"preannotate-3-2-{version}"]


def test_deleted_tasks_are_dropped(backend: Backend, redis: Redis) -> None:
    backend.post("/webhook", action="TASKS_CREATED", tasks=tasks(2), project=PROJECT)
    # Where many are deleted at once, Label Studio names no project.
    assert backend.post("/webhook", action="TASKS_DELETED", tasks=[{"id": 1}]).json() == {
        "status": "dropped",
        "jobs": 1,
    }
    assert overview(redis).queued == 1


def test_changed_config_replaces_the_context(backend: Backend) -> None:
    backend.set_up(project=3)
    answer = backend.post("/webhook", action="PROJECT_UPDATED", project={"id": 3, "label_config": "<View/>"})
    assert answer.status_code == 422
    # Nobody sees a webhook's answer, so it is on the status page.
    assert "PROJECT_UPDATED" in backend.http.get("/status.json").json()["remarks"][0]["sentence"]


@pytest.mark.parametrize("action", ["ANNOTATION_CREATED", "ANNOTATIONS_DELETED", "PROJECT_CREATED", "SOMETHING_NEW"])
def test_other_events_are_acknowledged(backend: Backend, action: str) -> None:
    answer = backend.post("/webhook", action=action, annotation={"id": 1}, project=PROJECT)
    assert answer.is_success
    assert answer.json() == {"status": "ignored"}


def test_a_training_is_asked_for_once(backend: Backend, redis: Redis) -> None:
    backend.set_up(project=3)
    asked = backend.post("/train", project=3, base_version="tiny", epochs=4, also=["mask-decoder"])
    assert (asked.status_code, asked.json()) == (202, {"job": "train-3-1", "status": "queued"})
    again = backend.post("/train", project=3)
    assert (again.status_code, again.json()) == (200, {"job": "train-3-1", "status": "queued"})

    answer = backend.http.get("/train/train-3-1")
    assert answer.status_code == 200
    known = answer.json()
    assert known["enqueued_at"].endswith("+00:00")
    assert {name: known[name] for name in ("job", "project", "state", "base_version", "epochs", "also")} == {
        "job": "train-3-1",
        "project": 3,
        "state": "waiting",
        "base_version": EMBEDDED,
        "epochs": 4,
        "also": ["mask-decoder"],
    }
    for name in ("stage", "done", "total", "epoch", "loss", "eta", "version", "result", "error", "ended_at"):
        assert known[name] is None


def test_the_button_in_label_studio_asks_for_one_too(backend: Backend, redis: Redis) -> None:
    # A project of which nothing was heard before is told with it.
    event = {"action": "START_TRAINING", "project": PROJECT}
    for new in (True, False):
        assert backend.post("/webhook", **event).json() == {"status": "queued", "job": "train-3-1", "new": new}
    assert open_queue(redis, TRAIN).get_job_ids() == ["train-3-1"]
    assert backend.post("/predict", project="3.17", tasks=tasks(1)).is_success


def test_is_training(backend: Backend, redis: Redis) -> None:
    def says(**project: str) -> bool:
        answer: dict[str, bool] = backend.http.get("/is_training", params=project).json()
        return answer["is_training"]

    backend.set_up(project=3)
    assert not says(project="3.17")
    backend.post("/train", project=3).raise_for_status()
    assert says(project="3.17")
    assert says()
    assert not says(project="33.17")
    stop_jobs(redis, queue=TRAIN)
    assert not says()
    refused = backend.http.get("/is_training", params={"project": "x"})
    assert (refused.status_code, refused.json()["field"]) == (400, "project")


def test_a_training_of_what_there_is_not(backend: Backend, redis: Redis) -> None:
    unknown = backend.post("/train", project=3)
    assert unknown.status_code == 404
    assert unknown.json()["error"].startswith("Project 3 is not set up")
    assert backend.post("/webhook", action="START_TRAINING", project={"id": 3}).status_code == 404
    # Nobody sees what a webhook answers.
    assert "START_TRAINING was refused: Project 3" in backend.http.get("/status.json").json()["remarks"][0]["sentence"]
    backend.set_up(project=3)
    version = backend.post("/train", project=3, base_version="mine-7")
    assert version.status_code == 422
    assert "'mine-7'" in version.json()["error"]
    assert len(open_queue(redis, TRAIN)) == 0
    nothing = backend.http.get("/train/train-3-1")
    assert nothing.status_code == 404
    assert "there is no training train-3-1" in nothing.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/setup", {"schema": CONFIG}, "project"),
        ("/setup", {"project": "3.17"}, "schema"),
        ("/setup", {"project": "3.17", "schema": 5}, "schema"),
        ("/setup", {"project": "../3", "schema": CONFIG}, "project"),
        ("/setup", {"project": "0.17", "schema": CONFIG}, "project"),
        ("/setup", {"project": 3, "schema": CONFIG}, "project"),
        ("/setup", {"project": "3.17", "schema": CONFIG, "hostname": {}}, "hostname"),
        ("/predict", {"project": "3.17"}, "tasks"),
        ("/predict", {"project": "3.17", "tasks": {"id": 1}}, "tasks"),
        ("/predict", {"project": "3.17", "tasks": [{"id": 1}, {"data": {}}]}, "tasks[1].id"),
        ("/predict", {"project": "3.17", "tasks": [{"id": "1"}]}, "tasks[0].id"),
        ("/predict", {"project": "3.17", "tasks": [{"id": True}]}, "tasks[0].id"),
        ("/predict", {"project": "3.17", "tasks": [{"id": 2**63}]}, "tasks[0].id"),
        ("/predict", {"project": "3.17", "tasks": [5]}, "tasks[0]"),
        ("/predict", {"project": "3.17", "tasks": [], "params": "x"}, "params"),
        ("/predict", {"project": "3.17", "tasks": [], "label_config": []}, "label_config"),
        ("/webhook", {"tasks": []}, "action"),
        ("/webhook", {"action": ["TASKS_CREATED"]}, "action"),
        ("/webhook", {"action": "TASKS_CREATED", "project": PROJECT}, "tasks"),
        ("/webhook", {"action": "TASKS_CREATED", "tasks": []}, "project"),
        ("/webhook", {"action": "TASKS_CREATED", "tasks": [], "project": {"id": 3}}, "project.label_config"),
        (
            "/webhook",
            {"action": "PROJECT_UPDATED", "project": PROJECT | {"model_version": {}}},
            "project.model_version",
        ),
        ("/webhook", {"action": "TASKS_DELETED"}, "tasks"),
        ("/webhook", {"action": "START_TRAINING", "project": 3}, "project"),
        ("/versions", {}, "project"),
        ("/webhook", {"action": "START_TRAINING", "project": {"id": 3, "label_config": 1}}, "project.label_config"),
        ("/train", {}, "project"),
        ("/train", {"project": "3.17"}, "project"),
        ("/train", {"project": 3, "base_version": 7}, "base_version"),
        ("/train", {"project": 3, "epochs": 0}, "epochs"),
        ("/train", {"project": 3, "epochs": "5"}, "epochs"),
        ("/train", {"project": 3, "epochs": 10**6}, "epochs"),
        ("/train", {"project": 3, "also": "mask-decoder"}, "also"),
        ("/train", {"project": 3, "also": ["mask-decoder", "encoder"]}, "also[1]"),
        ("/train", {"project": 3, "epoch": 5}, "epoch"),
    ],
)
def test_malformed_body_names_the_field(backend: Backend, path: str, body: dict[str, Any], field: str) -> None:
    answer = backend.post(path, **body)
    assert answer.status_code == 400
    assert answer.json()["field"] == field
    assert answer.json()["error"].startswith(f"{field}: ")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"null", b"\xff", b"[" * 60_000])
@pytest.mark.parametrize("path", ["/setup", "/predict", "/webhook", "/train"])
def test_body_that_is_no_object(backend: Backend, path: str, body: bytes) -> None:
    answer = backend.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["field"] == "body"


def test_what_is_no_json_call(backend: Backend) -> None:
    http = backend.http
    assert http.post("/predict", data={"project": "3.17"}).status_code == 415
    assert http.get("/predict").status_code == 405
    assert http.get("/nowhere").status_code == 404
    assert all("error" in answer.json() for answer in (http.get("/predict"), http.get("/nowhere")))


def test_body_beyond_the_limit(backend: Backend) -> None:
    body = b'{"project": "' + b"3" * (100 * 1024 * 1024) + b'"}'
    answer = backend.http.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "100 MB" in answer.json()["error"]


def test_a_thousand_tasks_at_once_are_a_thousand_jobs(backend: Backend, redis: Redis) -> None:
    """From eight callers, in one event or in many, told once or twice, in any order."""
    events = [[task] for task in tasks(1000)] + [tasks(1000)]
    events += events[::3]
    with ThreadPoolExecutor(8) as callers:
        answers = callers.map(
            lambda some: backend.post("/webhook", action="TASKS_CREATED", tasks=some, project=PROJECT).json(), events
        )
        assert sum(answer["new"] for answer in answers) == 1000
    ids = open_queue(redis).get_job_ids()
    assert (len(ids), len(set(ids))) == (1000, 1000)
