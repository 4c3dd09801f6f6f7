from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from av2t.stack.process import Process, answers
from av2t.studio_project import StudioProject
from av2t_core.errors import AV2TError
from tests.conftest import LabelStudioServer
from tests.ports import free_port
from tests.up import python_m_av2t


@pytest.fixture
def client(label_studio: LabelStudioServer) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Token {label_studio.api_key}"}
    with httpx.Client(base_url=label_studio.url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture
def backends(redis_url: str, tmp_path: Path) -> Iterator[list[str]]:
    """The addresses of two backends that run."""
    running = []
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    for url in urls:
        environment = {"REDIS_URL": redis_url, "AV2T_BACKEND_PORT": url.rpartition(":")[2]}
        log = tmp_path / "backend.log"
        running.append(Process("A backend", [*python_m_av2t(), "backend"], log=log, environment=environment))
    for process, url in zip(running, urls, strict=True):
        process.wait_until(partial(answers, f"{url}/health"), timeout=120)
    yield urls
    for process in running:
        process.stop()


def webhooks(client: httpx.Client, project: int) -> list[str]:
    return [each["url"] for each in client.get("/api/webhooks/", params={"project": project}).json()]


def test_a_title_is_one_project(client: httpx.Client) -> None:
    made = StudioProject.named(client, "Sounds of dogs", ["dog"])
    StudioProject.named(client, "Sounds of dogs and cats", ["dog", "cat"])
    assert StudioProject.named(client, "Sounds of dogs", ["dog"]).id == made.id


def test_a_label_may_hold_any_character(client: httpx.Client) -> None:
    project = StudioProject.named(client, "Odd labels", ['<"&> é'])
    assert "&lt;" in client.get(f"/api/projects/{project.id}/").json()["label_config"]


def test_connecting_again_changes_nothing_and_another_backend_takes_the_place(
    client: httpx.Client, backends: list[str]
) -> None:
    project = StudioProject.named(client, "Connected", ["dog"])
    version = project.connect(backends[0])
    assert project.connect(backends[0]) == version
    assert webhooks(client, project.id) == [f"{backends[0]}/webhook"]
    project.connect(backends[1])
    assert [each["url"] for each in client.get("/api/ml", params={"project": project.id}).json()] == [backends[1]]
    assert webhooks(client, project.id) == [f"{backends[1]}/webhook"]


def test_an_uploaded_clip_is_found_by_its_name_and_lacks_its_prediction(client: httpx.Client, tmp_path: Path) -> None:
    clip = tmp_path / "dog-and_cat.1.mp4"
    clip.write_bytes(b"nobody decodes it here")
    project = StudioProject.named(client, "Uploaded", ["dog"])
    project.upload(clip)
    [(task, name)] = project.clips().items()
    assert name == clip.name
    assert project.predicted("tiny-1") == set()
    for version in ("tiny-1", "tiny-2"):
        client.post("/api/predictions/", json={"task": task, "model_version": version, "result": []}).raise_for_status()
    assert project.predicted("tiny-1") == project.predicted("tiny-2") == {task}


def test_a_backend_that_is_not_there_is_named(client: httpx.Client) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(AV2TError, match=f"refused POST /api/ml with 400: .*{url}"):
        StudioProject.named(client, "Lonely", ["dog"]).connect(url)


def test_a_key_that_is_not_accepted_is_told_with_the_remedy(label_studio: LabelStudioServer) -> None:
    headers = {"Authorization": "Token 0123456789"}
    with (
        httpx.Client(base_url=label_studio.url, headers=headers) as client,
        pytest.raises(AV2TError, match=r"does not accept the key .* --data-dir"),
    ):
        StudioProject.named(client, "Closed", ["dog"])
