"""A clip in an object store: Label Studio signs its address, and the worker streams it; real Label Studio, local S3."""

import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run

import httpx
import pytest
from uv import find_uv_bin

from av2t.process import Process, answers, free_port
from av2t_core.errors import MediaError
from tests.conftest import LabelStudioServer
from worker.client import LabelStudioClient

# In an environment of its own, which uv keeps in its cache: its packages hold back one that the worker uses.
MOTO = ["--no-python-downloads", "--python", sys.executable, "--from", "moto[s3,server]==5.2.5", "moto_server"]
CONFIG = '<View><Video name="video" value="$video"/></View>'


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server with the bucket `clips`; skips where it cannot be downloaded."""
    command = [find_uv_bin(), "tool", "run", *MOTO]
    installed = run([*command, "--help"], capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"needs moto, which uv did not get: {installed.stderr.strip()[-300:]}")
    port = free_port()
    command += ["-H", "127.0.0.1", "-p", str(port)]
    server = Process("S3", command, log=tmp_path_factory.mktemp("s3") / "s3.log", environment={})
    try:
        url = f"http://127.0.0.1:{port}"
        server.wait_until(lambda: answers(f"{url}/moto-api/"), timeout=60)
        httpx.put(f"{url}/clips").raise_for_status()
        httpx.put(f"{url}/clips/a.mp4", content=b"a clip in the cloud").raise_for_status()
        yield url
    finally:
        server.stop()


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
    with LabelStudioClient(server.url, server.api_key, max_clip_mb=1) as client:
        client.fetch(uri, int(task.id), target)


def test_a_clip_in_a_bucket(label_studio: LabelStudioServer, project: int, tmp_path: Path) -> None:
    fetch(label_studio, project, "s3://clips/a.mp4", tmp_path / "clip.mp4")
    assert (tmp_path / "clip.mp4").read_bytes() == b"a clip in the cloud"


def test_the_data_keeps_the_storages_uri(label_studio: LabelStudioServer, project: int) -> None:
    label_studio.request("POST", f"/api/projects/{project}/import", json=[{"video": "s3://clips/a.mp4"}])
    [task] = label_studio.sdk.tasks.list(project=project)
    with LabelStudioClient(label_studio.url, label_studio.api_key, max_clip_mb=1) as client:
        client.set_task_data(int(task.id), lambda _: {"fps": 25})
    raw = label_studio.request("GET", f"/api/tasks/{task.id}/?resolve_uri=false").json()["data"]
    assert raw == {"video": "s3://clips/a.mp4", "fps": 25}


def test_a_clip_that_is_not_there(label_studio: LabelStudioServer, project: int, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"The server of s3://clips/b\.mp4 refuses the clip"):
        fetch(label_studio, project, "s3://clips/b.mp4", tmp_path / "clip.mp4")


def test_a_project_without_that_storage(label_studio: LabelStudioServer, store: str, tmp_path: Path) -> None:
    project = int(label_studio.make_project(CONFIG).id)
    with pytest.raises(MediaError, match=r"s3://clips/a\.mp4"):
        fetch(label_studio, project, "s3://clips/a.mp4", tmp_path / "clip.mp4")
