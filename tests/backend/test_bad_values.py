"""Values that no page, no log line and no later call must suffer from: refused where they enter, or shown as bad."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from av2t_core import limits
from av2t_core.versions.version import resolve
from tests.backend.conftest import CONFIG, Backend, running
from tests.conftest import EMBEDDED
from worker.queue.projects import KEY

SURROGATE = "\ud800"
IS_JSON = {"Content-Type": "application/json"}


def post(backend: Backend, path: str, body: dict[str, Any]) -> int:
    """As JSON in ASCII, which holds what UTF-8 cannot."""
    return backend.http.post(path, content=json.dumps(body), headers=IS_JSON).status_code


def looks_well(backend: Backend) -> dict[str, Any]:
    """What the page's JSON says, once the page itself and the other views have been seen to work."""
    for path in ("/", "/status", "/versions", "/metrics", "/health"):
        assert backend.http.get(path).status_code == 200, path
    answer = backend.http.get("/status.json")
    assert answer.status_code == 200
    state: dict[str, Any] = json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return state


@pytest.mark.parametrize(
    "hostname",
    [
        "http://[",
        "http://",
        "javascript:alert(1)//",
        "studio:8080",
        "http://studio:port",
        "http://studio\n.example",
        f"http://studio{SURROGATE}",
        "http://studio/" + "x" * limits.ADDRESS,
    ],
)
def test_an_address_that_is_none_is_ignored_with_a_remark(backend: Backend, hostname: str) -> None:
    """Label Studio must not be disconnected by how its own address is set."""
    for _ in range(2):
        assert post(backend, "/setup", {"project": "3.17", "schema": CONFIG, "hostname": hostname}) == 200
    state = looks_well(backend)
    assert state["projects"][0]["link"] == "http://127.0.0.1:8080/projects/3/data"
    told = [row["sentence"] for row in state["remarks"] if "no http address" in row["sentence"]]
    assert len(told) == len(set(told))
    assert all(len(sentence) < 1000 for sentence in told)
    assert told


def test_the_address_is_not_kept_with_a_password(backend: Backend, redis: Redis) -> None:
    body = {"project": "3.17", "schema": CONFIG, "hostname": "http://admin:hunter2@studio.example"}
    assert post(backend, "/setup", body) == 200
    assert "hunter2" not in json.dumps(looks_well(backend)) + str(redis.hgetall(KEY)) + backend.process.log.read_text()


def test_an_address_is_kept_until_there_is_another(backend: Backend) -> None:
    for hostname in ("https://studio.example.org/", "http://[", ""):
        post(backend, "/setup", {"project": "3.17", "schema": CONFIG, "hostname": hostname})
    assert looks_well(backend)["projects"][0]["link"] == "https://studio.example.org/projects/3/data"


PROJECT = {"id": 3, "label_config": CONFIG}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/setup", {"project": "3.17", "schema": CONFIG.replace("dog", SURROGATE)}),
        ("/setup", {"project": "9999999999999999999.17", "schema": CONFIG}),
        ("/predict", {"project": "3.17", "tasks": [], "label_config": CONFIG.replace("dog", SURROGATE)}),
        ("/webhook", {"action": f"TASKS_CREATED{SURROGATE}"}),
        ("/webhook", {"action": "x" * 1000}),
        ("/webhook", {"action": "PROJECT_UPDATED", "project": {**PROJECT, "model_version": SURROGATE}}),
        ("/webhook", {"action": "PROJECT_UPDATED", "project": {"id": 3, "label_config": SURROGATE}}),
        ("/train", {"project": 3, "base_version": SURROGATE}),
        ("/train", {"project": 3, f"epochs{SURROGATE}": 1}),
        ("/versions", {"project": SURROGATE}),
    ],
)
def test_what_cannot_be_written_down_is_refused(backend: Backend, path: str, body: dict[str, Any]) -> None:
    assert post(backend, path, body) == 400
    looks_well(backend)


@pytest.mark.parametrize("number", ["1" * 5000, "1e400", "NaN", "-0", "1.0", "3" * 20])
def test_a_number_that_is_none_is_refused(backend: Backend, number: str) -> None:
    for path, body in (
        ("/predict", f'{{"project": "3.17", "label_config": "", "tasks": [{{"id": {number}}}]}}'),
        ("/train", f'{{"project": {number}}}'),
    ):
        assert backend.http.post(path, content=body, headers=IS_JSON).status_code == 400
    form = {"id": number}
    pressed = {"Sec-Fetch-Site": "same-origin"}
    assert backend.http.post("/predict-anew", data=form, headers=pressed).status_code == 400
    refused = backend.http.get("/is_training", params={"project": "3" * 20 if number == "1.0" else number})
    assert refused.status_code == 400


def test_the_title_of_a_backend_may_be_long(backend: Backend, redis: Redis) -> None:
    """Label Studio puts it where a project's model version stands."""
    updated = {"action": "PROJECT_UPDATED", "project": {**PROJECT, "model_version": "t" * 100_000}}
    assert post(backend, "/webhook", updated) == 201
    assert len(redis.hget(KEY, "3") or b"") < 2000
    looks_well(backend)


def test_a_bad_row_of_a_project_is_shown_as_bad_and_made_good_again(backend: Backend, redis: Redis) -> None:
    good = {"label_config": CONFIG, "hostname": "", "chosen": ""}
    rows: dict[str, str | bytes] = {
        "3": "not JSON",
        "4": json.dumps([1]),
        "5": json.dumps({**good, "hostname": 7}),
        "6": json.dumps({**good, "label_config": SURROGATE}),
        "7": json.dumps({**good, "hostname": "http://["}),
        "8": json.dumps({**good, "later": "a field that a newer release has"}),
        "9": b"\xff",
        "10": json.dumps(good),
        "10" * 20: json.dumps(good),
        "x\x1b[2J\n": json.dumps(good),
    }
    for key, value in rows.items():
        redis.hset(KEY, key, value)
    state = looks_well(backend)
    assert [row["id"] for row in state["projects"]] == [7, 8, 10]
    assert state["projects"][0]["link"] == "http://127.0.0.1:8080/projects/7/data"
    assert state["damaged_projects"] == sorted(["10" * 20, "3", "4", "5", "6", "9", r"x\x1b[2J\n"])
    page = backend.http.get("/").text
    assert "Redis holds something unreadable for projects" in page
    assert "\x1b" not in page
    assert post(backend, "/predict", {"project": "3.17", "tasks": [{"id": 1}]}) == 404
    for project in (3, 4, 5, 6, 9):
        backend.set_up(project)
    assert [row["id"] for row in looks_well(backend)["projects"]] == [3, 4, 5, 6, 7, 8, 9, 10]


def test_a_card_that_is_wrong_is_shown_as_wrong(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    models = tmp_path / "data" / "models"
    card = resolve(EMBEDDED).card.as_json()
    for name, verdict in {
        "good-1": {"better": True, "sentence": "It is better."},
        "text-1": "It is better.",
        "number-1": {"better": True, "sentence": 5},
        "surrogate-1": {"better": True, "sentence": f"It is {SURROGATE}"},
    }.items():
        shutil.copytree(resolve(EMBEDDED).directory, models / name)
        changed = {**card, "project": 3, "parent": EMBEDDED, "verdict": verdict}
        (models / name / "card.json").write_text(json.dumps(changed))
    (models / "damaged-1").mkdir()
    (models / "damaged-1/card.json").write_text("{")
    with running(redis_url, tmp_path / "backend.log", AV2T_DATA_DIR=str(tmp_path / "data")) as backend:
        backend.set_up(3)
        state = looks_well(backend)
        rows = {row["name"]: row["sentence"] for row in state["projects"][0]["versions"]}
        assert rows == {"good-1": "It is better."}
        assert len(state["damaged_versions"]) == 4
        for name in ("damaged-1", "number-1", "surrogate-1", "text-1"):
            assert any(f"{name}/card.json" in sentence for sentence in state["damaged_versions"]), name
        assert backend.http.get("/versions").json()["versions"][0] == EMBEDDED
        assert "damaged-1" in backend.http.get("/").text


def test_a_project_whose_version_is_gone_does_not_take_the_page_with_it(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    projects = tmp_path / "data" / "models" / "projects"
    projects.mkdir(parents=True)
    (projects / "3.json").write_text(json.dumps({"current": "gone-1", "history": []}))
    (projects / "4.json").write_text("{")
    with running(redis_url, tmp_path / "backend.log", AV2T_DATA_DIR=str(tmp_path / "data")) as backend:
        for project in (3, 4):
            redis.hset(KEY, str(project), json.dumps({"label_config": CONFIG}))
        assert post(backend, "/setup", {"project": "5.17", "schema": CONFIG}) == 200
        rows = {row["id"]: row for row in looks_well(backend)["projects"]}
        assert "gone-1, which cannot be used" in rows[3]["error"]
        assert "does not say which model version project 4 uses" in rows[4]["error"]
        assert rows[5]["model_version"] == EMBEDDED
        assert "gone-1, which cannot be used" in backend.http.get("/").text


def test_what_is_said_has_a_bound(backend: Backend) -> None:
    """Whatever a config quotes."""
    long = "n" * 200_000
    config = CONFIG.replace('toName="frames"', f'toName="{long}"')
    for number in range(1, 30):
        answer = backend.post("/setup", project=f"{number}.17", schema=config)
        assert answer.status_code == 422
        assert len(answer.content) < 2 * limits.SENTENCE
        changed = config.replace('name="mask"', f'name="mask{number}"')
        assert (
            post(backend, "/webhook", {"action": "PROJECT_UPDATED", "project": {"id": 3, "label_config": changed}})
            == 422
        )
    assert len(looks_well(backend)["remarks"]) > 0
    assert len(backend.http.get("/").content) < 100_000
    answer = backend.http.post("/train", json={"project": 3, "k" * 60_000: 1})
    assert answer.status_code == 400
    assert len(answer.content) < 3 * limits.SENTENCE


def test_few_bytes_do_not_become_many(backend: Backend) -> None:
    """A list of two bytes has some sixty in memory."""
    body = b'{"project": "3.17", "tasks": [' + b"[]," * limits.BODY_PARTS + b"[]]}"
    answer = backend.http.post("/predict", content=body, headers=IS_JSON)
    assert (answer.status_code, answer.json()["field"]) == (400, "body")
    assert "more than 2000000 objects and lists: send fewer tasks" in answer.json()["error"]


def test_no_config_writes_lines_of_the_log(backend: Backend) -> None:
    forged = "2026-01-01 00:00:00 INFO Project 3: all is well"
    config = CONFIG.replace('toName="frames"', f'toName="&#10;{forged}&#x9b;31m&#x2028;"')
    assert post(backend, "/webhook", {"action": "PROJECT_UPDATED", "project": {"id": 3, "label_config": config}}) == 422
    written = backend.process.log.read_text()
    assert f"\\n{forged}\\x9b31m" in written
    assert not [line for line in written.splitlines() if line.startswith(forged)]
