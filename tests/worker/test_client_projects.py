from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from av2t.options import DEMO_CLIPS
from av2t.stack.demo import Demo
from av2t.stack.process import Process, answers
from av2t_core.errors import AV2TError
from tests.conftest import LabelStudioServer
from tests.ports import free_port
from tests.up import python_m_av2t
from tests.worker.conftest import client_of
from worker.client.api import Api
from worker.client.label_studio import LabelStudioClient
from worker.client.projects import connect_backend, find_or_make, recommended_config, upload_clip


@pytest.fixture
def client(label_studio: LabelStudioServer) -> Iterator[LabelStudioClient]:
    with client_of(label_studio.url, label_studio.api_key) as client:
        yield client


@pytest.fixture
def api(client: LabelStudioClient) -> Api:
    return client.api


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


def addresses(label_studio: LabelStudioServer, path: str, project: int) -> list[str]:
    """Of the project's backends, or of its webhooks."""
    return [each["url"] for each in label_studio.request("GET", path, params={"project": project}).json()]


def test_a_title_is_one_project(api: Api) -> None:
    made = find_or_make(api, "Sounds of dogs", recommended_config(["dog"]))
    find_or_make(api, "Sounds of dogs and cats", recommended_config(["dog", "cat"]))
    assert find_or_make(api, "Sounds of dogs", recommended_config(["dog"])) == made


def test_a_label_may_hold_any_character(client: LabelStudioClient) -> None:
    assert "&lt;" in client.label_config(find_or_make(client.api, "Odd labels", recommended_config(['<"&> é'])))


def test_connecting_again_changes_nothing_and_another_backend_takes_the_place(
    api: Api, label_studio: LabelStudioServer, backends: list[str]
) -> None:
    project = find_or_make(api, "Connected", recommended_config(["dog"]))
    version = connect_backend(api, project, backends[0])
    assert connect_backend(api, project, backends[0]) == version
    assert addresses(label_studio, "/api/webhooks/", project) == [f"{backends[0]}/webhook"]
    connect_backend(api, project, backends[1])
    assert addresses(label_studio, "/api/ml", project) == [backends[1]]
    assert addresses(label_studio, "/api/webhooks/", project) == [f"{backends[1]}/webhook"]


def test_an_uploaded_clip_is_found_by_its_name_and_lacks_its_prediction(
    client: LabelStudioClient, tmp_path: Path
) -> None:
    clip = tmp_path / "dog-and_cat.1.mp4"
    clip.write_bytes(b"nobody decodes it here")
    project = find_or_make(client.api, "Uploaded", recommended_config(["dog"]))
    upload_clip(client.api, project, clip)
    [task] = client.tasks(project)
    assert (task.file, task.predictions_model_versions) == (clip.name, frozenset())
    for version in ("tiny-1", "tiny-2"):
        client.create_prediction(task.id, version, 0.5, [])
    [task] = client.tasks(project)
    assert task.predictions_model_versions == {"tiny-1", "tiny-2"}


def test_a_backend_that_is_not_there_is_named(api: Api) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    project = find_or_make(api, "Lonely", recommended_config(["dog"]))
    with pytest.raises(AV2TError, match=rf"refuses the backend {url} \(400: "):
        connect_backend(api, project, url)


def test_the_demo_says_what_to_do_about_a_key_that_is_not_accepted(label_studio: LabelStudioServer) -> None:
    with client_of(label_studio.url, "0123456789") as client:
        demo = Demo(client=client, backend_url="", redis_url="", clips=DEMO_CLIPS, say=print)
        with pytest.raises(AV2TError, match=r"refuses the legacy token .* --data-dir"):
            demo.run(lambda: None)
