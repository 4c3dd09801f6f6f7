"""What no event told of is found: against a real Label Studio and a real Redis, with a real backend that goes away."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import pytest
from redis import Redis

from av2t.stack.process import answers
from av2t_core.errors import ConfigError
from av2t_core.versions.pointers import promote
from av2t_core.versions.version import resolve
from tests.backend.conftest import running, start_backend
from tests.conftest import EMBEDDED, LabelStudioServer, queued_tasks
from tests.worker.conftest import Serve
from tests.worker.http_server import as_json, said
from worker.client.label_studio import LabelStudioClient
from worker.client.projects import connect_backend, find_or_make, recommended_config
from worker.client.reconcile import outdated_tasks, reconcile, repredict
from worker.failures import TransientError
from worker.queue.job import open_queue
from worker.queue.projects import ABSENT, RECONCILED, Project, all_known, keep, reconcile_soon
from worker.queue.queue import stop_job
from worker.queue.results import note_score
from worker.settings import Settings


@pytest.fixture
def settings(label_studio: LabelStudioServer, redis_url: str, tmp_path: Path) -> Settings:
    return Settings.load(
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.api_key,
        redis_url=redis_url,
        data_dir=tmp_path / "data",
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[LabelStudioClient]:
    with LabelStudioClient(settings) as client:
        yield client


@pytest.fixture
def project(
    client: LabelStudioClient, label_studio: LabelStudioServer, redis_url: str, tmp_path: Path
) -> Iterator[int]:
    """Connected to a backend, which is gone at the start of the test: nothing hears of what happens then."""
    project = find_or_make(client.api, f"missed {tmp_path.name}", recommended_config(["dog"]))
    with running(redis_url, tmp_path / "backend.log") as backend:
        connect_backend(client.api, project, backend.url)
    yield project
    with suppress(httpx.HTTPStatusError):  # a test may have deleted it
        label_studio.request("DELETE", f"/api/projects/{project}")


def test_tasks_that_were_missed_are_queued_once(
    label_studio: LabelStudioServer, project: int, redis: Redis, settings: Settings
) -> None:
    labelled, predicted, others, *missed = label_studio.add_tasks(project, 5)
    label_studio.sdk.annotations.create(id=labelled, result=[])
    label_studio.sdk.predictions.create(task=predicted, result=[], score=0.5, model_version=EMBEDDED)
    label_studio.sdk.predictions.create(task=others, result=[], score=0.5, model_version="another")
    assert reconcile(redis, settings) == 3
    assert queued_tasks(redis) == [others, *missed]
    assert reconcile(redis, settings) == 0


def test_tasks_that_were_there_before_are_queued_once_the_project_is_connected(
    client: LabelStudioClient,
    label_studio: LabelStudioServer,
    redis: Redis,
    redis_url: str,
    settings: Settings,
    tmp_path: Path,
) -> None:
    project = find_or_make(client.api, f"there before {tmp_path.name}", recommended_config(["dog"]))
    tasks = label_studio.add_tasks(project, 3)
    redis.set(RECONCILED, "")  # there is no look for the next minutes
    with running(redis_url, tmp_path / "backend.log") as backend:
        connect_backend(client.api, project, backend.url)
        assert not redis.exists(RECONCILED)
        assert reconcile(redis, settings) == 3
        assert queued_tasks(redis) == tasks
        redis.set(RECONCILED, "")
        label_studio.request("GET", "/api/ml", params={"project": project})  # which sets it up once more
        assert redis.exists(RECONCILED)
    label_studio.request("DELETE", f"/api/projects/{project}")


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Of a project whose model version has changed. All but `fresh` have a prediction of the earlier version."""

    untouched: tuple[int, int, int]  # the scores of the first two are 0.9 and 0.2, that of the third is not known
    fresh: int
    touched: tuple[int, int, int]


@pytest.fixture
def tasks(label_studio: LabelStudioServer, project: int, redis: Redis, settings: Settings) -> Tasks:
    first, second, third, fresh, labelled, begun, skipped = label_studio.add_tasks(project, 7)
    for task in (first, second, third, labelled, begun, skipped):
        label_studio.sdk.predictions.create(task=task, result=[], score=0.5, model_version=EMBEDDED)
    note_score(redis, project, first, 0.9)
    note_score(redis, project, second, 0.2)
    label_studio.sdk.annotations.create(id=labelled, result=[])
    label_studio.request("POST", f"/api/tasks/{begun}/drafts", json={"result": [], "lead_time": 1})
    label_studio.sdk.annotations.create(id=skipped, result=[], was_cancelled=True)
    settings.models_dir.mkdir(parents=True)
    shutil.copytree(resolve(EMBEDDED).directory, settings.models_dir / f"{EMBEDDED}-p{project}-1")
    promote(settings.models_dir, project, f"{EMBEDDED}-p{project}-1")
    return Tasks(untouched=(first, second, third), fresh=fresh, touched=(labelled, begun, skipped))


def test_a_new_version_predicts_what_nobody_has_touched_the_least_sure_first(
    tasks: Tasks, redis: Redis, settings: Settings, project: int
) -> None:
    high, low, unknown = tasks.untouched
    assert reconcile(redis, settings) == 4
    assert queued_tasks(redis) == [tasks.fresh, low, high, unknown]
    assert reconcile(redis, settings) == 0


def test_whoever_is_asked_may_say_so_once(tasks: Tasks, redis: Redis, settings: Settings, project: int) -> None:
    asking = settings.model_copy(update={"repredict": "ask"})
    high, low, unknown = tasks.untouched
    reconcile_soon(redis, repredict=project)
    reconcile(redis, asking)
    assert queued_tasks(redis) == [tasks.fresh, low, high, unknown]
    for job in open_queue(redis).get_job_ids():
        stop_job(redis, job)
    reconcile(redis, asking)
    assert queued_tasks(redis) == [tasks.fresh]


@pytest.mark.parametrize("choice", ["ask", "never"])
def test_unless_the_settings_say_otherwise(
    tasks: Tasks,
    redis: Redis,
    settings: Settings,
    client: LabelStudioClient,
    project: int,
    choice: Literal["ask", "never"],
) -> None:
    settings = settings.model_copy(update={"repredict": choice})
    high, low, unknown = tasks.untouched
    assert reconcile(redis, settings) == 1
    assert queued_tasks(redis) == [tasks.fresh]
    version = f"{EMBEDDED}-p{project}-1"
    assert outdated_tasks(redis, client, settings, project) == (version, [low, high, unknown])
    assert repredict(redis, client, settings, project) == 3
    assert queued_tasks(redis) == [tasks.fresh, low, high, unknown]
    assert repredict(redis, client, settings, project) == 0


def test_predictions_of_versions_that_are_gone_are_ours_too(
    label_studio: LabelStudioServer, project: int, redis: Redis, settings: Settings
) -> None:
    *ours, others = label_studio.add_tasks(project, 5)
    for task, version in zip(ours, ("tiny-1", "sam2-l-ms3", "mine-1-p9-2", "sam1-h"), strict=True):
        label_studio.sdk.predictions.create(task=task, result=[], score=0.5, model_version=version)
    label_studio.sdk.predictions.create(task=others, result=[], score=0.5, model_version="yolo-p1")
    assert reconcile(redis, settings.model_copy(update={"repredict": "never"})) == 1
    assert queued_tasks(redis) == [others]


def test_label_studio_learns_of_the_new_version(
    tasks: Tasks,
    label_studio: LabelStudioServer,
    redis: Redis,
    settings: Settings,
    client: LabelStudioClient,
    project: int,
) -> None:
    [connected] = label_studio.sdk.ml.list(project=project)
    log = settings.data_dir / "backend.log"
    port = int(connected.url.rpartition(":")[2])
    again = start_backend(settings.redis_url, log, port, AV2T_DATA_DIR=str(settings.data_dir))
    try:
        again.wait_until(lambda: answers(f"{connected.url}/health"), timeout=60)
        assert client.is_connected(project)
    finally:
        again.stop()
    response = label_studio.request("GET", f"/api/ml/{connected.id}")
    assert response.json()["model_version"] == f"{EMBEDDED}-p{project}-1"


def test_a_project_whose_version_is_gone_is_left_alone_and_the_others_are_not(
    tasks: Tasks,
    redis: Redis,
    settings: Settings,
    project: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.rmtree(settings.models_dir / f"{EMBEDDED}-p{project}-1")
    keep(redis, Project(id=999_999, label_config="<View/>"))
    assert reconcile(redis, settings) == 0
    assert f"project {project} is to use {EMBEDDED}-p{project}-1, which cannot be used" in caplog.text
    assert redis.sismember(ABSENT, "999999")  # the other one, which is no project, was looked at


def test_a_project_that_is_not_connected_any_more_is_left_alone(
    label_studio: LabelStudioServer, project: int, redis: Redis, settings: Settings
) -> None:
    label_studio.add_tasks(project, 1)
    for backend in label_studio.sdk.ml.list(project=project):
        label_studio.sdk.ml.delete(id=int(backend.id or 0))
    assert reconcile(redis, settings) == 0
    assert [each.id for each in all_known(redis)] == [project]


def test_a_project_is_forgotten_when_two_looks_were_told_that_it_is_gone(
    label_studio: LabelStudioServer, project: int, redis: Redis, settings: Settings
) -> None:
    keep(redis, Project(id=999_999, label_config="<View/>"))
    assert reconcile(redis, settings) == 0
    assert [each.id for each in all_known(redis)] == [project, 999_999]
    redis.sadd(ABSENT, project)  # as if it had been away for one look
    assert reconcile(redis, settings) == 0
    assert [each.id for each in all_known(redis)] == [project]
    assert redis.exists(ABSENT) == 0
    label_studio.request("DELETE", f"/api/projects/{project}")
    reconcile(redis, settings)
    assert [each.id for each in all_known(redis)] == [project]


def test_no_project_is_forgotten_for_a_proxys_word(redis: Redis, settings: Settings, serve: Serve) -> None:
    """While Label Studio is deployed, what stands before it knows no address of it."""
    keep(redis, Project(id=999_999, label_config="<View/>"))
    elsewhere = settings.model_copy(update={"label_studio_url": serve().url})
    for _ in range(3):
        with pytest.raises(TransientError, match="not in its own words"):
            reconcile(redis, elsewhere)
    assert [each.id for each in all_known(redis)] == [999_999]


def test_a_project_that_refuses_leaves_the_others_theirs(redis: Redis, settings: Settings, serve: Serve) -> None:
    """Label Studio's answers about the first one are those of a server in its place; Community refuses nobody."""
    server = serve()
    server.answers["/api/projects/1/"] = said(403, "You do not have permission to perform this action.")
    server.answers["/api/projects/2/"] = as_json({"label_config": "<View/>"})
    server.answers["/api/ml"] = as_json([])
    for id in (1, 2):
        keep(redis, Project(id=id, label_config="<View/>"))
    elsewhere = settings.model_copy(update={"label_studio_url": server.url})
    assert reconcile(redis, elsewhere) == 0
    assert any(path.startswith("/api/ml") and "project=2" in path for path, _ in server.asked)


def test_nothing_is_asked_for_no_project(redis: Redis) -> None:
    nobody = Settings.load(label_studio_url="http://127.0.0.1:9")
    assert reconcile(redis, nobody) == 0
    keep(redis, Project(id=1, label_config="<View/>"))
    with pytest.raises(ConfigError, match="LABEL_STUDIO_API_KEY is not set"):
        reconcile(redis, nobody)
