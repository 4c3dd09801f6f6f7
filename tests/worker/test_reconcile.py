"""What no event told of is found: against a real Label Studio and a real Redis, with a real backend that goes away."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from av2t.studio_project import StudioProject
from av2t_core.errors import ConfigError
from tests.backend.conftest import running
from tests.conftest import EMBEDDED, LabelStudioServer, queued_tasks
from worker.projects import Project, all_known, keep
from worker.reconcile import reconcile
from worker.settings import Settings


@pytest.fixture
def settings(label_studio: LabelStudioServer, redis_url: str) -> Settings:
    return Settings.load(
        label_studio_url=label_studio.url, label_studio_api_key=label_studio.api_key, redis_url=redis_url
    )


@pytest.fixture
def project(label_studio: LabelStudioServer, redis_url: str, tmp_path: Path) -> Iterator[int]:
    """Connected to a backend, which is gone at the start of the test: nothing hears of what happens then."""
    http = httpx.Client(
        base_url=label_studio.url, headers={"Authorization": f"Token {label_studio.api_key}"}, timeout=60
    )
    with http:
        project = StudioProject.named(http, f"missed {tmp_path.name}", ["dog"])
        with running(redis_url, tmp_path / "backend.log") as backend:
            project.connect(backend.url)
        yield project.id
        http.delete(f"/api/projects/{project.id}")


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


def test_a_project_that_is_not_connected_any_more_is_left_alone(
    label_studio: LabelStudioServer, project: int, redis: Redis, settings: Settings
) -> None:
    label_studio.add_tasks(project, 1)
    for backend in label_studio.sdk.ml.list(project=project):
        label_studio.sdk.ml.delete(id=int(backend.id or 0))
    assert reconcile(redis, settings) == 0
    assert [each.id for each in all_known(redis)] == [project]


def test_a_project_that_is_gone_is_forgotten(redis: Redis, settings: Settings) -> None:
    keep(redis, Project(id=999_999, label_config="<View/>"))
    assert reconcile(redis, settings) == 0
    assert all_known(redis) == []


def test_nothing_is_asked_for_no_project(redis: Redis) -> None:
    nobody = Settings.load(label_studio_url="http://127.0.0.1:9")
    assert reconcile(redis, nobody) == 0
    keep(redis, Project(id=1, label_config="<View/>"))
    with pytest.raises(ConfigError, match="LABEL_STUDIO_API_KEY is not set"):
        reconcile(redis, nobody)
