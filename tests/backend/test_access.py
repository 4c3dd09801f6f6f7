"""A backend that asks who calls, for real Label Studio, too."""

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.backend.conftest import CONFIG, Backend, running
from tests.conftest import LabelStudioServer, wait_until
from worker.queue.job import open_queue

USER, PASSWORD = "studio", "sesame: open"
CALLS = [
    ("GET", "/"),
    ("GET", "/status"),
    ("GET", "/status.json"),
    ("GET", "/versions"),
    ("POST", "/predict"),
    ("POST", "/webhook"),
    ("POST", "/train"),
    ("GET", "/train/train-3-1"),
    ("GET", "/is_training"),
    ("POST", "/stop"),
]


@pytest.fixture(scope="module")
def shared_secured(shared_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    log = tmp_path_factory.mktemp("secured") / "backend.log"
    with running(shared_redis_url, log, AV2T_BACKEND_USER=USER, AV2T_BACKEND_PASSWORD=PASSWORD) as backend:
        yield backend
    assert PASSWORD not in log.read_text()


@pytest.fixture
def secured(shared_secured: Backend, redis_url: str) -> Backend:
    """The shared process with an empty Redis."""
    return shared_secured


def basic(user: str, password: str) -> httpx.BasicAuth:
    return httpx.BasicAuth(user.encode(), password.encode())


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_nobody_comes_in_without_the_password(shared_secured: Backend, method: str, path: str) -> None:
    # Wrong ones in a row cost pauses, which is another test.
    assert shared_secured.http.get("/versions", auth=basic(USER, PASSWORD)).status_code == 200
    for auth in (None, basic(USER, "wrong"), basic("somebody", PASSWORD), basic(USER, "")):
        refused = shared_secured.http.request(method, path, auth=auth)
        assert refused.status_code == 401, path
        assert refused.headers["www-authenticate"].lower().startswith("basic")
        assert "AV2T_BACKEND_PASSWORD" in refused.json()["error"]


def test_the_right_password_opens_and_health_is_open(secured: Backend) -> None:
    assert secured.http.get("/", headers={"Authorization": "Bearer x"}).status_code == 401
    assert secured.http.get("/", auth=basic(USER, PASSWORD)).status_code == 200
    assert secured.http.get("/health").status_code == 200


def test_label_studio_comes_in_with_it(
    label_studio: LabelStudioServer, secured: Backend, redis: Redis, tmp_path: Path
) -> None:
    project = label_studio.make_project(CONFIG).id
    backend = {"url": secured.url, "project": project, "title": "AV2T-SAM", "auth_method": "BASIC_AUTH"}
    wrong = {**backend, "basic_auth_user": USER, "basic_auth_pass": "wrong"}
    with pytest.raises(httpx.HTTPStatusError) as error:
        label_studio.request("POST", "/api/ml", json=wrong)
    assert "AV2T_BACKEND_PASSWORD" in error.value.response.text
    label_studio.request("POST", "/api/ml", json={**backend, "basic_auth_user": USER, "basic_auth_pass": PASSWORD})
    [connected] = label_studio.request("GET", "/api/ml", params={"project": project}).json()
    assert connected["readable_state"] == "Connected"

    # The webhook that Label Studio makes for a backend does not say who it is, so it is told to.
    [hook] = label_studio.sdk.webhooks.list(project=str(project))
    credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {credentials}"}
    label_studio.request("PATCH", f"/api/webhooks/{hook.id}/", json={"headers": headers})
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"nobody decodes it here")
    label_studio.upload(project, clip)
    wait_until(lambda: open_queue(redis).get_job_ids(), what="the webhook's job")
