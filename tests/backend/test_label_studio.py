"""The backend as a real Label Studio uses it."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.backend.conftest import CONFIG, Backend
from tests.conftest import SHIPPED, LabelStudioServer, wait_until
from worker.queue.job import open_queue
from worker.queue.preannotation import job_id
from worker.queue.training import TRAIN
from worker.queue.views import trainings


def add_backend(label_studio: LabelStudioServer, backend: Backend, project: int) -> dict[str, Any]:
    body = {"url": backend.url, "project": project, "title": "AV2T-SAM"}
    connected: dict[str, Any] = label_studio.request("POST", "/api/ml", json=body).json()
    return connected


def test_refused_config_is_shown_to_who_connects(label_studio: LabelStudioServer, backend: Backend) -> None:
    project = label_studio.make_project('<View><Video name="video" value="$video"/></View>')
    with pytest.raises(httpx.HTTPStatusError) as error:
        add_backend(label_studio, backend, project.id)
    assert error.value.response.status_code == 400
    assert "has none of BrushLabels, BitmaskLabels" in error.value.response.text


def test_road_of_a_task(label_studio: LabelStudioServer, backend: Backend, redis: Redis, tmp_path: Path) -> None:
    version = backend.http.get("/health").json()["model_version"]
    project = label_studio.make_project(CONFIG)
    added = add_backend(label_studio, backend, project.id)
    [connected] = label_studio.request("GET", "/api/ml", params={"project": project.id}).json()
    assert (connected["readable_state"], connected["model_version"]) == ("Connected", version)
    assert label_studio.request("GET", f"/api/ml/{added['id']}/versions").json()["versions"] == [version, SHIPPED[0]]

    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"nobody decodes it here")
    task = label_studio.upload(project.id, clip)
    [waiting] = wait_until(lambda: open_queue(redis).get_job_ids(), what="the webhook's job")
    assert waiting == job_id(project.id, task.id, version)

    retrieve = {"id": "retrieve_tasks_predictions", "project": project.id}
    selected = {"selectedItems": {"all": True, "excluded": []}}
    label_studio.request("POST", "/api/dm/actions", params=retrieve, json=selected)
    assert open_queue(redis).get_job_ids() == [waiting]
    assert label_studio.request("GET", f"/api/tasks/{task.id}").json()["predictions"] == []

    label_studio.request("POST", f"/api/ml/{added['id']}/train", json={})
    wait_until(lambda: open_queue(redis, TRAIN).get_job_ids(), what="the training")
    assert [each.project for each in trainings(redis)] == [project.id]

    label_studio.request("DELETE", f"/api/tasks/{task.id}")
    wait_until(lambda: not open_queue(redis).get_job_ids(), what="the end of the deleted task's job")
