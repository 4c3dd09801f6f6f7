"""What a worker has from an object store, a clip whose address Label Studio signs, and weights: real Label Studio,
local S3."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from av2t_core.versions.mirror import Mirror
from av2t_core.versions.store import Store
from tests import s3
from tests.conftest import LabelStudioServer, wait_until
from tests.core.versions.test_bundle import NAME, tune
from tests.faults.between import Between
from tests.worker.conftest import client_of
from worker.failures import DoubtfulError
from worker.jobs import preannotation as jobs
from worker.settings import Settings

CONFIG = '<View><Video name="video" value="$video"/></View>'


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server with a clip in the bucket `clips`."""
    with s3.serving(tmp_path_factory.mktemp("s3") / "s3.log") as url:
        s3.make_bucket(url, "clips")
        httpx.put(f"{url}/clips/a.mp4", content=b"a clip in the cloud").raise_for_status()
        yield url


@pytest.fixture
def project(label_studio: LabelStudioServer, store: str) -> int:
    """One with a storage that signs."""
    project = int(label_studio.make_project(CONFIG).id)
    storage = {
        "project": project,
        "bucket": "clips",
        "region_name": "us-east-1",
        "s3_endpoint": store,
        "aws_access_key_id": "nobody",
        "aws_secret_access_key": "nothing",
        "presign": True,
        "use_blob_urls": True,
    }
    label_studio.request("POST", "/api/storages/s3", json=storage)
    return project


def fetch(server: LabelStudioServer, project: int, uri: str, target: Path) -> None:
    server.request("POST", f"/api/projects/{project}/import", json=[{"video": uri}])
    [task] = server.sdk.tasks.list(project=project)
    with client_of(server.url, server.api_key) as client:
        client.fetch(uri, int(task.id), target)


def test_a_clip_in_a_bucket(label_studio: LabelStudioServer, project: int, tmp_path: Path) -> None:
    fetch(label_studio, project, "s3://clips/a.mp4", tmp_path / "clip.mp4")
    assert (tmp_path / "clip.mp4").read_bytes() == b"a clip in the cloud"


def test_the_data_keeps_the_storages_uri(label_studio: LabelStudioServer, project: int) -> None:
    label_studio.request("POST", f"/api/projects/{project}/import", json=[{"video": "s3://clips/a.mp4"}])
    [task] = label_studio.sdk.tasks.list(project=project)
    with client_of(label_studio.url, label_studio.api_key) as client:
        client.set_task_data(int(task.id), lambda _: {"fps": 25})
    raw = label_studio.request("GET", f"/api/tasks/{task.id}/?resolve_uri=false").json()["data"]
    assert raw == {"video": "s3://clips/a.mp4", "fps": 25}


def test_a_clip_that_is_not_there(label_studio: LabelStudioServer, project: int, tmp_path: Path) -> None:
    with pytest.raises(DoubtfulError, match=r"The server of s3://clips/b\.mp4 refuses the clip"):
        fetch(label_studio, project, "s3://clips/b.mp4", tmp_path / "clip.mp4")


def test_a_project_without_that_storage(label_studio: LabelStudioServer, store: str, tmp_path: Path) -> None:
    project = int(label_studio.make_project(CONFIG).id)
    with pytest.raises(DoubtfulError, match=r"s3://clips/a\.mp4"):
        fetch(label_studio, project, "s3://clips/a.mp4", tmp_path / "clip.mp4")


def test_weights_are_waited_for_while_their_store_is_away(
    label_studio: LabelStudioServer,
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As the machines of a site start, in whatever order."""
    monkeypatch.setattr(jobs, "_context", None)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    settings = Settings(
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.api_key,  # type: ignore[arg-type]
        data_dir=tmp_path,
        model=NAME,
        device="cpu",
    )
    with Between(store).running() as between, ThreadPoolExecutor() as pool:
        s3.use(between.url, monkeypatch)
        s3.make_bucket(store, "models")
        models = Store("s3://models")
        models.push(tune(tmp_path / "elsewhere"))
        Mirror(settings.models_dir, models).refresh()
        between.mode = "cut"
        ready = pool.submit(jobs.set_up, settings)
        try:
            wait_until(lambda: "the model store s3://models cannot be reached" in caplog.text)
        finally:
            between.mode = "well"
        ready.result(60)
    assert jobs._context is not None
    jobs._context.client.close()
    assert jobs._context.predictor.model_version == NAME
