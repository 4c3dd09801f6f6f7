"""Clips on Label Studio's own machine, of which a local storage makes tasks: a real Label Studio that serves them."""

import json
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from shutil import copyfile
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from redis import Redis

from av2t.__main__ import main
from tests.conftest import COMPOSED_CLIPS, EMBEDDED, LabelStudioServer, running_label_studio
from tests.worker.conftest import client_of
from worker.client.label_studio import LabelStudioClient
from worker.client.media import ClipCache
from worker.failures import DoubtfulError
from worker.jobs import preannotation as jobs
from worker.queue.job import fetch
from worker.queue.preannotation import Preannotated, job_id
from worker.queue.queue import enqueue_preannotation
from worker.settings import Settings

CONFIG = """<View><Video name="clip" value="$video"/>
<BrushLabels name="what" toName="pages"><Label value="dog"/></BrushLabels>
<Image name="pages" valueList="$stills"/></View>"""
NAMES = ["plain.mp4", "with a space.mp4", "Größe & 50%+犬#1?.mp4"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("document-root")


@pytest.fixture(scope="module")
def serving(label_studio: LabelStudioServer, root: Path) -> Iterator[LabelStudioServer]:
    """A second server on the data of `label_studio`, which itself serves no local files."""
    settings = {"LOCAL_FILES_SERVING_ENABLED": "true", "LOCAL_FILES_DOCUMENT_ROOT": str(root)}
    with running_label_studio(label_studio.folder, **settings) as server:
        yield server


@pytest.fixture
def client(serving: LabelStudioServer) -> Iterator[LabelStudioClient]:
    with client_of(serving.url, serving.api_key) as client:
        yield client


@dataclass(frozen=True, kw_only=True)
class Project:
    """`folder` lies below the document root."""

    server: LabelStudioServer
    id: int
    folder: Path

    def synced(self) -> dict[str, int]:
        """Make the folder a storage of it; {name of a file: its task}."""
        storage = {"project": self.id, "path": str(self.folder), "use_blob_urls": True}
        made = self.server.request("POST", "/api/storages/localfiles", json=storage).json()
        self.server.request("POST", f"/api/storages/localfiles/{made['id']}/sync")
        tasks = self.server.sdk.tasks.list(project=self.id)
        return {Path(parse_qs(urlsplit(task.data["video"]).query)["d"][0]).name: int(task.id) for task in tasks}


@pytest.fixture
def project(serving: LabelStudioServer, root: Path, tmp_path: Path) -> Project:
    folder = root / tmp_path.name
    folder.mkdir()
    return Project(server=serving, id=int(serving.make_project(CONFIG).id), folder=folder)


def url_of(client: LabelStudioClient, task: int) -> str:
    return str(client.task(task).data["video"])


def test_whatever_a_file_is_called(client: LabelStudioClient, project: Project, tmp_path: Path) -> None:
    for name in NAMES:
        (project.folder / name).write_bytes(name.encode())
    tasks = project.synced()
    assert tasks.keys() == set(NAMES)
    for name, task in tasks.items():
        client.fetch(url_of(client, task), task, tmp_path / "clip")
        assert (tmp_path / "clip").read_bytes() == name.encode()


def test_a_file_that_has_gone_is_called_what_it_was_called(
    client: LabelStudioClient, project: Project, tmp_path: Path
) -> None:
    file = project.folder / NAMES[-1]
    file.write_bytes(b"not a video, and nobody looks")
    [task] = project.synced().values()
    url = url_of(client, task)
    file.unlink()
    with pytest.raises(DoubtfulError, match="There is no clip at") as caught:
        client.fetch(url, task, tmp_path / "clip")
    assert f"/data/local-files/?d={project.folder.name}/{NAMES[-1]}" in str(caught.value)


def test_a_file_in_a_folder_that_is_no_storage(client: LabelStudioClient, project: Project, tmp_path: Path) -> None:
    (project.folder / "a.mp4").write_bytes(b"not a video, and nobody looks")
    with pytest.raises(DoubtfulError, match="connect its folder to the project as a local storage"):
        client.fetch(f"/data/local-files/?d={project.folder.name}/a.mp4", 1, tmp_path / "clip")


def test_files_of_the_same_size_and_time_are_two_in_the_cache(project: Project, tmp_path: Path) -> None:
    for name in "ab":
        (project.folder / f"{name}.mp4").write_bytes(name.encode())
        os.utime(project.folder / f"{name}.mp4", (1e9, 1e9))  # as out of an archive, which has whole seconds
    cache = ClipCache(tmp_path / "cache", 10**6)
    with client_of(project.server.url, project.server.api_key, cache=cache) as client:
        for name, task in project.synced().items():
            client.fetch(url_of(client, task), task, tmp_path / name)
            assert (tmp_path / name).read_text() == name[0]
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("name", ["a.mp4", "犬" * 100, "🐕" * 255 + ".mp4"])
def test_a_file_of_ours_can_be_called_so(tmp_path: Path, name: str) -> None:
    own = jobs.file_name(f"/data/local-files/?d={quote(f'a folder/{name}')}")
    (tmp_path / own).touch()
    assert name.endswith(own)


@pytest.mark.parametrize(
    "url", ["?d=..", "/data/local-files/?d=%00", "http://[::1", "s3://[", "", "/", "..", "/\ud800"]
)
def test_a_file_of_ours_has_a_name_whatever_the_address(tmp_path: Path, url: str) -> None:
    (tmp_path / jobs.file_name(url)).touch()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_whole_job(project: Project, redis: Redis) -> None:
    copyfile(COMPOSED_CLIPS / "dog.mp4", project.folder / NAMES[-1])
    [task] = project.synced().values()
    settings = {"label_studio_url": project.server.url, "label_studio_api_key": project.server.api_key}
    jobs.set_up(Settings.model_validate({**settings, "device": "cpu"}))
    context = jobs._context
    assert context is not None
    try:
        enqueue_preannotation(redis, project.id, [task], EMBEDDED)
        [job] = fetch(redis, [job_id(project.id, task, EMBEDDED)])
        assert job.perform() == Preannotated(outcome="predicted", keyframes=5)
    finally:
        context.client.close()
        jobs._context = None
    assert len(project.server.sdk.tasks.get(id=str(task)).data["stills"]) == 5
    [prediction] = project.server.sdk.predictions.list(task=task)
    assert {region["value"]["brushlabels"][0] for region in prediction.result} == {"dog"}


def test_the_doctor_tells_of_a_server_that_does_not_serve_them(
    label_studio: LabelStudioServer, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.folder / "a.mp4").write_bytes(b"not a video, and nobody looks")
    [task] = project.synced().values()

    def of_the_clip(server: LabelStudioServer) -> list[tuple[str, str]]:
        monkeypatch.setenv("LABEL_STUDIO_URL", server.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", server.api_key)
        monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
        with redirect_stdout(StringIO()) as out:
            main(["doctor", "--project", str(project.id), "--json"])
        return [
            (each["state"], each["sentence"])
            for each in json.loads(out.getvalue())
            if each["what"] == f"project {project.id}"
        ][-1:]

    assert of_the_clip(project.server) == [("ok", f"the clip of task {task} can be fetched.")]
    [(state, sentence)] = of_the_clip(label_studio)
    assert state == "fail"
    assert f"?d={project.folder.name}/a.mp4: start it with LOCAL_FILES_SERVING_ENABLED=true" in sentence
