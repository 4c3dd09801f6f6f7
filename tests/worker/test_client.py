"""The client against a real Label Studio; what Label Studio does not do on demand comes from a small HTTP server."""

import json
import re
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import jwt
import numpy as np
import pytest
from PIL import Image

from av2t_core.errors import AV2TError, ConfigError, MediaError
from av2t_core.labelstudio.label_config import Video
from tests.conftest import LabelStudioServer
from tests.worker.conftest import KEY, Serve, client_of
from tests.worker.http_server import Answer, as_json, said
from worker.client.label_studio import Annotation, LabelStudioClient, Task
from worker.client.media import ClipCache
from worker.failures import DoubtfulError, GoneError, TransientError

CONFIG = """<View><Video name="video" value="$video"/>
<BrushLabels name="mask" toName="frames"><Label value="dog"/></BrushLabels>
<Image name="frames" valueList="$frames"/></View>"""


NO_URLS = (
    *("?d=..", "#", "http://[", "http://[::1", "http://[::1]:x/", "s3://[", "//[::1/a.mp4", "/\ud800"),
    *(" http://host/a.mp4", "http://host/\0", "http://host:99999/a.mp4", "http:a.mp4", "http:///a.mp4", "https://"),
)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tmp_path / "clip.mp4"


@pytest.fixture
def client(label_studio: LabelStudioServer) -> Iterator[LabelStudioClient]:
    with client_of(label_studio.url, label_studio.api_key) as client:
        yield client


@pytest.fixture
def project(label_studio: LabelStudioServer) -> int:
    return int(label_studio.make_project(CONFIG).id)


@pytest.fixture
def task(label_studio: LabelStudioServer, project: int, tmp_path: Path) -> int:
    path = tmp_path / "upload.mp4"
    path.write_bytes(b"not a video, and nobody looks")
    return int(label_studio.upload(project, path).id)


def frames(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"av2t-task1-k{n:03d}-f{7 * n:05d}.jpg" for n in range(count)]
    for n, path in enumerate(paths):
        Image.fromarray(np.full((6, 8, 3), n, np.uint8)).save(path)
    return paths


# Who gets the key


def test_label_studios_own_addresses_get_the_key(serve: Serve, clip: Path) -> None:
    server = serve()
    server.answers["/data/upload/1/a.mp4"] = (200, {}, b"clip")
    for url in ("/data/upload/1/a.mp4", f"{server.url}/data/upload/1/a.mp4"):
        with client_of(server.url) as client:
            client.fetch(url, 1, clip)
        assert clip.read_bytes() == b"clip"
        assert server.asked.pop()[1]["authorization"] == f"Token {KEY}"


def test_a_redirect_to_another_origin_does_not_carry_the_key(serve: Serve, clip: Path) -> None:
    own, other = serve(), serve()
    own.answers["/data/a.mp4"] = (303, {"Location": f"{other.url}/b.mp4?signature=1", "Set-Cookie": "sessionid=1"}, b"")
    other.answers["/b.mp4?signature=1"] = (302, {"Location": f"{own.url}/c.mp4"}, b"")
    own.answers["/c.mp4"] = (200, {}, b"clip")
    with client_of(own.url) as client:
        client.fetch("/data/a.mp4", 1, clip)
    assert clip.read_bytes() == b"clip"
    [(_, headers)] = other.asked
    assert not {"authorization", "cookie"} & set(headers)
    # Nor does the way back: that was the other's wish.
    assert ["authorization" in headers for _, headers in own.asked] == [True, False]


def test_a_foreign_address_that_redirects_to_label_studio_gets_no_key(serve: Serve, clip: Path) -> None:
    own, other = serve(), serve()
    other.answers["/a.mp4"] = (302, {"Location": f"{own.url}/data/upload/1/secret.mp4"}, b"")
    with client_of(own.url) as client, pytest.raises(TransientError, match="There is no clip at"):
        client.fetch(f"{other.url}/a.mp4", 1, clip)
    assert ["authorization" in headers for _, headers in own.asked] == [False]


def test_an_address_without_a_scheme_is_of_its_own_host(serve: Serve, clip: Path) -> None:
    own, other = serve(), serve()
    other.answers["/a.mp4"] = (200, {}, b"clip")
    with client_of(own.url) as client:
        client.fetch(f"{other.url.removeprefix('http:')}/a.mp4", 1, clip)
    assert clip.read_bytes() == b"clip"
    assert "authorization" not in other.asked[0][1]


def test_another_server_does_not_get_the_key(serve: Serve, clip: Path) -> None:
    own, other = serve(), serve()
    other.answers["/a.mp4"] = (200, {}, b"clip")
    with client_of(own.url) as client:
        client.fetch(f"{other.url}/a.mp4", 1, clip)
    assert "authorization" not in other.asked[0][1]


def test_a_storages_uri_goes_through_label_studio(serve: Serve, clip: Path) -> None:
    own, storage = serve(), serve()
    own.answers["/tasks/7/presign/?fileuri=czM6Ly9idWNrZXQvYS5tcDQ="] = (303, {"Location": f"{storage.url}/a.mp4"}, b"")
    storage.answers["/a.mp4"] = (200, {}, b"clip")
    with client_of(own.url) as client:
        client.fetch("s3://bucket/a.mp4", 7, clip)
    assert clip.read_bytes() == b"clip"


def test_a_clip_that_was_fetched_is_kept(serve: Serve, clip: Path, tmp_path: Path) -> None:
    """Its server is asked all the same; another body under the same tag shows that it was not read again."""
    server, cache = serve(), ClipCache(tmp_path / "cache", 10**6)
    with client_of(server.url, cache=cache) as client:

        def fetched(body: bytes, tag: str | None, status: int = 200) -> bytes:
            server.answers["/a.mp4"] = (status, {"ETag": tag} if tag else {}, body)
            clip.unlink(missing_ok=True)
            client.fetch("/a.mp4", 1, clip)
            return clip.read_bytes()

        assert fetched(b"first", '"1"') == b"first"
        assert fetched(b"other", '"1"') == b"first"
        assert fetched(b"other", '"2"') == b"other"
        assert fetched(b"first", None) == b"first"
        with pytest.raises(DoubtfulError, match="There is no clip"):
            fetched(b"", '"1"', status=404)
    assert len(server.asked) == 5


def test_clips_behind_one_path_are_two_in_the_cache(serve: Serve, clip: Path, tmp_path: Path) -> None:
    """As of a server that makes all its files at one time."""
    server, cache = serve(), ClipCache(tmp_path / "cache", 10**6)
    said = {"Last-Modified": "Tue, 01 Jan 1980 00:00:00 GMT"}
    server.answers = {f"/clip?id={id}": (200, said, id.encode()) for id in "12"}
    server.answers["/tasks/7/presign/?fileuri=czM6Ly9hL2I="] = [
        (303, {"Location": f"/signed?signature={number}"}, b"") for number in (1, 2)
    ]
    server.answers |= {f"/signed?signature={number}": (200, said, b"%d" % number) for number in (1, 2)}
    with client_of(server.url, cache=cache) as client:
        for id in "1212":
            clip.unlink(missing_ok=True)
            client.fetch(f"{server.url}/clip?id={id}", 1, clip)
            assert clip.read_text() == id
        # A storage's clip stays one, whatever its signature.
        for _ in range(2):
            clip.unlink()
            client.fetch("s3://a/b", 7, clip)
            assert clip.read_text() == "1"
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_clips_address_is_taken_as_browsers_take_it() -> None:
    task = Task(id=1, project=1, data={"video": " http://host/a b.mp4\n", "file": "a.mp4"})
    assert task.clip_url(Video(name="v", value="$video")) == "http://host/a b.mp4"
    assert task.clip_url(Video(name="v", value="/data/upload/$file")) == "/data/upload/a.mp4"


# What goes wrong with media


def test_a_clip_over_the_limit(serve: Serve, clip: Path) -> None:
    server = serve()
    server.answers["/data/big.mp4"] = (200, {}, bytes(1_000_001))
    with client_of(server.url) as client, pytest.raises(MediaError, match="larger than 1 MB; raise AV2T_MAX_CLIP_MB"):
        client.fetch("/data/big.mp4", 1, clip)
    assert not clip.exists()


@pytest.mark.parametrize(
    ("url", "answer", "sentence"),
    [
        ("/data/a.mp4", said(404, "Not found."), "There is no clip at /data/a.mp4"),
        ("/data/a.mp4", said(500, "'NoneType' object has no attribute 'has_permission'"), "There is no clip at"),
        ("/data/a.mp4", (302, {"Location": "file:///etc/passwd"}, b""), "no web address"),
        ("/data/a.mp4", (302, {"Location": "/data/a.mp4"}, b""), "redirects more than 5 times"),
        ("/data/a.mp4", said(401, "Invalid token."), "refuses the legacy token in LABEL_STUDIO_API_KEY"),
        ("/data/a.mp4?key=s3cret", said(403, "No."), r"of /data/a.mp4 refuses the clip \(403\)"),
        ("a.mp4", (200, {}, b""), 'is given as "a.mp4"; upload it'),
        *((url, (200, {}, b""), "is no URL that can be used") for url in NO_URLS),
        ("http://user:s3cret/x@host/a.mp4", (200, {}, b""), "is no URL that can be used"),
        ("ftp://user:s3cret@host/a.mp4", (200, {}, b""), r'is given as "ftp://host/a\.mp4"'),
        (f"data:video/mp4;base64,{'A' * 10**6}", (200, {}, b""), r'is given as "data:video/mp4;base64,A+…"; upload it'),
    ],
)
def test_what_trying_again_does_not_help(serve: Serve, clip: Path, url: str, answer: Answer, sentence: str) -> None:
    server = serve()
    server.answers[url] = answer
    with client_of(server.url) as client, pytest.raises(AV2TError, match=sentence) as caught:
        client.fetch(url, 1, clip)
    assert "s3cret" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("url", "answer", "sentence"),
    [
        ("/data/a.mp4", (404, {}, b""), "There is no clip at /data/a.mp4"),
        ("/data/a.mp4", (410, {"Content-Type": "text/html"}, b"<html>"), "There is no clip at /data/a.mp4"),
        ("/data/a.mp4", (401, {}, b"{}"), r"of /data/a.mp4 refuses the clip \(401\)"),
        ("/data/a.mp4?key=s3cret", (403, {}, b""), r"of /data/a.mp4 refuses the clip \(403\)"),
        ("/data/local-files/?d=a.mp4", (403, {}, b""), "LOCAL_FILES_SERVING_ENABLED=true"),
        ("/data/a.mp4", (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>"), "there is a web page"),
        ("/data/a.mp4", (200, {"Content-Type": "application/json"}, b"<<<"), r"At /data/a\.mp4 there is JSON and no"),
    ],
)
def test_what_a_proxy_may_say_is_doubted(serve: Serve, clip: Path, url: str, answer: Answer, sentence: str) -> None:
    server = serve()
    server.answers[url] = answer
    with client_of(server.url) as client, pytest.raises(DoubtfulError, match=sentence) as caught:
        client.fetch(url, 1, clip)
    assert "s3cret" not in str(caught.value)
    assert not clip.exists()


@pytest.mark.parametrize("status", [408, 409, 423, 425, 460, 499, 500, 502, 507, 509, 511, 520, 524, 530, 599])
def test_an_outage_that_may_pass(serve: Serve, clip: Path, status: int) -> None:
    """Of Label Studio, whoever says so, and of a clip's server."""
    server = serve()
    server.answers = {"/a.mp4": (status, {}, b""), "/api/projects/1/": (status, {}, b"<html>")}
    with client_of(server.url) as client:
        for call in (lambda: client.fetch("/a.mp4", 1, clip), lambda: client.label_config(1)):
            with pytest.raises(TransientError, match=f"answers {status}") as caught:
                call()
            assert not isinstance(caught.value, DoubtfulError)


@pytest.mark.parametrize(("headers", "seconds"), [({"Retry-After": "7"}, 7), ({}, None), ({"Retry-After": "x"}, None)])
def test_a_server_that_is_busy(serve: Serve, clip: Path, headers: dict[str, str], seconds: float | None) -> None:
    server = serve()
    server.answers["/data/a.mp4"] = (503, headers, b"")
    with client_of(server.url) as client, pytest.raises(TransientError, match="answers 503") as caught:
        client.fetch("/data/a.mp4", 1, clip)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("status", "headers", "sentence"),
    [
        (200, {"Content-Length": "100", "Connection": "close"}, "cannot be fetched now"),
        (206, {"Content-Length": "100", "Connection": "close", "Content-Range": "bytes 0-99/100"}, "be fetched now"),
        (206, {"Content-Range": "bytes 0-3/100"}, r"The server of /data/a\.mp4 gives a part of the clip only"),
        (206, {}, "a part of the clip only"),
    ],
)
def test_a_clip_that_is_cut_off(serve: Serve, clip: Path, status: int, headers: dict[str, str], sentence: str) -> None:
    server = serve()
    server.answers["/data/a.mp4"] = (status, headers, b"half")
    with client_of(server.url) as client, pytest.raises(TransientError, match=sentence):
        client.fetch("/data/a.mp4", 1, clip)


def test_a_storages_clip_is_not_asked_for_as_a_range(serve: Serve, clip: Path) -> None:
    """Of one Label Studio would give 8 MB."""
    server = serve()
    server.answers["/tasks/7/presign/?fileuri=czM6Ly9idWNrZXQvYS5tcDQ="] = (200, {}, b"clip")
    server.answers["/data/a.mp4"] = (206, {"Content-Range": "bytes 0-3/4"}, b"clip")
    with client_of(server.url) as client:
        for url in ("s3://bucket/a.mp4", "/data/a.mp4"):
            client.fetch(url, 7, clip)
            assert clip.read_bytes() == b"clip"
    assert ["range" in headers for _, headers in server.asked] == [False, True]


def test_a_server_that_is_not_there(clip: Path) -> None:
    with client_of("http://127.0.0.1:1") as client:
        with pytest.raises(TransientError, match=r"clip at /a.mp4 cannot be fetched now"):
            client.fetch("/a.mp4", 1, clip)
        with pytest.raises(TransientError, match=r"Label Studio at http://127.0.0.1:1 cannot be reached"):
            client.check()


# Keys


def token(**claims: Any) -> str:
    return jwt.encode(claims, "a secret of at least thirty-two bytes", algorithm="HS256")


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (token(token_type="access", exp=4e9), "is an access token, which lives five minutes"),
        (token(token_type="refresh", exp=1), "has expired"),
        (token(token_type="refresh"), "has expired"),
    ],
)
def test_keys_that_cannot_work_are_told_at_once(key: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        client_of("http://127.0.0.1:1", key)
    assert key not in str(caught.value)


def test_both_kinds_of_key(label_studio: LabelStudioServer, project: int, task: int, clip: Path) -> None:
    pat = label_studio.request("POST", "/api/token/", json={}).json()["token"]
    for key in (label_studio.api_key, pat):
        with client_of(label_studio.url, key) as client:
            assert client.check() == label_studio.email
            client.fetch(str(client.task(task).data["video"]), task, clip)
        assert clip.read_bytes() == b"not a video, and nobody looks"
    label_studio.request("POST", "/api/token/blacklist/", json={"refresh": pat})
    sentence = r"refuses the personal access token in LABEL_STUDIO_API_KEY \(Token is blacklisted\)"
    with client_of(label_studio.url, pat) as client, pytest.raises(AV2TError, match=sentence):
        client.check()


def test_a_wrong_legacy_token(label_studio: LabelStudioServer, clip: Path) -> None:
    with client_of(label_studio.url, "wrong") as client:
        for call in (client.check, lambda: client.fetch("/data/upload/1/a.mp4", 1, clip)):
            with pytest.raises(AV2TError, match=r"refuses the legacy token in LABEL_STUDIO_API_KEY \(Invalid token"):
                call()


# Tasks, frames and predictions


def test_an_upload_that_is_gone(client: LabelStudioClient, clip: Path) -> None:
    with pytest.raises(MediaError, match=r"There is no clip at /data/upload/1/nothing.mp4"):
        client.fetch("/data/upload/1/nothing.mp4", 1, clip)


def test_an_uploads_length_is_known_before_it_is_read(
    client: LabelStudioClient, label_studio: LabelStudioServer, project: int, tmp_path: Path
) -> None:
    """By which one that is cut off is known, too."""
    path = tmp_path / "large.mp4"
    path.write_bytes(bytes(1_000_001))
    task = label_studio.upload(project, path)
    with pytest.raises(MediaError, match="is larger than 1 MB"):
        client.probe(str(task.data["video"]), int(task.id))


def test_local_files_that_are_switched_off(client: LabelStudioClient, clip: Path) -> None:
    with pytest.raises(DoubtfulError, match=r"\?d=a.mp4: start it with LOCAL_FILES_SERVING_ENABLED=true"):
        client.fetch("/data/local-files/?d=a.mp4", 1, clip)


def test_a_project_that_is_gone(client: LabelStudioClient) -> None:
    with pytest.raises(AV2TError, match=r"refuses project 987654 \(404"):
        client.label_config(987654)


def test_frames_keep_their_order_in_more_than_one_request(
    client: LabelStudioClient, label_studio: LabelStudioServer, project: int, tmp_path: Path
) -> None:
    paths = frames(tmp_path, 45)
    urls = client.upload_frames(project, paths, reuse=False)
    assert [url.rpartition("/")[2].partition("-")[2] for url in urls] == [path.name for path in paths]
    assert label_studio.request("GET", urls[44]).content == paths[44].read_bytes()
    assert client.upload_frames(project, paths[::-1], reuse=True) == urls[::-1]
    assert not list(label_studio.sdk.tasks.list(project=project))


def test_what_else_is_in_a_task_stays(client: LabelStudioClient, label_studio: LabelStudioServer, task: int) -> None:
    before = client.task(task).data
    label_studio.request("PATCH", f"/api/tasks/{task}/", json={"data": {**before, "extra": {"a": [1, None]}}})
    client.set_task_data(task, lambda data: {"frames": ["/a.jpg"], "seen": sorted(data)})
    assert client.task(task).data == {
        **before,
        "extra": {"a": [1, None]},
        "frames": ["/a.jpg"],
        "seen": ["extra", "video"],
    }


def test_one_prediction_for_each_version(client: LabelStudioClient, label_studio: LabelStudioServer, task: int) -> None:
    first = client.create_prediction(task, "tiny-1", 0.5, [])
    other = client.create_prediction(task, "tiny-2", 0.5, [])
    # Another worker that was given the same task.
    assert client.create_prediction(task, "tiny-1", 0.5, []) == first
    assert client.prediction(task, "tiny-1") == first
    assert client.prediction(task, "tiny-2") == other
    assert client.prediction(task, "tiny-3") is None
    stored = label_studio.request("GET", "/api/predictions/", params={"task": task}).json()
    assert sorted(each["id"] for each in stored) == [first, other]


def test_a_second_prediction_that_a_broken_try_left_is_removed(
    client: LabelStudioClient, label_studio: LabelStudioServer, task: int
) -> None:
    made = [
        label_studio.request("POST", "/api/predictions/", json={"task": task, "model_version": "tiny-1", "result": []})
        for _ in range(3)
    ]
    kept, *others = [each.json()["id"] for each in made]
    assert client.prediction(task, "tiny-1") == kept
    for other in others:
        assert label_studio.sdk.predictions.list(task=task)[0].id == kept
        with pytest.raises(httpx.HTTPStatusError):
            label_studio.request("GET", f"/api/predictions/{other}/")


def test_two_workers_that_remove_the_same_prediction(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is gone by then is what was wanted; a proxy's 404 does not say so."""
    monkeypatch.setattr("worker.client.api.GONE_PAUSE", 0)
    server = serve()
    server.answers["/api/predictions/"] = as_json([{"id": 1, "model_version": "a"}, {"id": 2, "model_version": "a"}])
    server.answers["/api/predictions/2/"] = [*[said(404, "No Prediction matches the given query.")] * 2, (404, {}, b"")]
    with client_of(server.url) as client:
        assert client.prediction(1, "a") == 1
        with pytest.raises(TransientError, match="answers 404 for prediction 2, and not in its own words"):
            client.prediction(1, "a")


def test_thousands_of_masks_are_never_objects(client: LabelStudioClient, task: int) -> None:
    mask = {"id": "a", "from_name": "mask", "to_name": "frames", "type": "brushlabels", "value": {}}
    part = json.dumps([{**mask, "value": {"format": "rle", "rle": [255] * 1_000_000, "brushlabels": ["dog"]}}])[1:-1]
    tracemalloc.start()
    try:
        client.create_prediction(task, "tiny-1", 0.5, [part] * 4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # As text on its way back, and read: a list of as many numbers takes twice as much as their text.
    assert peak < 2.5 * 4 * len(part)


# Annotations


def annotate(label_studio: LabelStudioServer, task: int, **fields: Any) -> int:
    found = label_studio.request("POST", f"/api/tasks/{task}/annotations/", json={"result": [], **fields})
    return int(found.json()["id"])


def change(label_studio: LabelStudioServer, annotation: int, **fields: Any) -> None:
    label_studio.request("PATCH", f"/api/annotations/{annotation}/", json=fields)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.client.label_studio.FIRST_PAGE", 2)
    monkeypatch.setattr("worker.client.label_studio.LARGEST_PAGE", 2)


@pytest.mark.usefixtures("small_pages")
def test_a_projects_tasks_come_page_by_page(
    client: LabelStudioClient, label_studio: LabelStudioServer, project: int
) -> None:
    assert list(client.tasks(project)) == []
    assert list(client.labelled_tasks(project)) == []
    ids = label_studio.add_tasks(project, 7)
    annotate(label_studio, ids[1])
    annotate(label_studio, ids[2], was_cancelled=True)
    for task in ids[3:6]:
        annotate(label_studio, task)
    annotate(label_studio, ids[5])
    annotate(label_studio, ids[5], was_cancelled=True)
    for version in ("tiny-1", "tiny-2"):
        client.create_prediction(ids[0], version, 0.5, [])
    label_studio.add_tasks(int(label_studio.make_project(CONFIG).id), 1)
    label_studio.request("PATCH", f"/api/tasks/{ids[4]}/", json={"data": {"video": "s3://bucket/a.mp4"}})

    tasks = list(client.tasks(project))
    assert [task.id for task in tasks] == ids
    assert [task.labelled for task in tasks] == [False, True, False, True, True, True, False]
    assert [task.touched for task in tasks] == [False, True, True, True, True, True, False]
    assert [set(task.predictions_model_versions) for task in tasks] == [{"tiny-1", "tiny-2"}, *[set()] * 6]
    labelled = list(client.labelled_tasks(project))
    assert [(task.id, task.total_annotations, task.cancelled_annotations) for task in labelled] == [
        (ids[1], 1, 0),
        (ids[2], 0, 1),
        (ids[3], 1, 0),
        (ids[4], 1, 0),
        (ids[5], 2, 1),
    ]
    assert labelled[3].data == {"video": "s3://bucket/a.mp4"}
    assert labelled[3].project == project


@pytest.mark.usefixtures("small_pages")
def test_no_task_is_passed_over_when_an_earlier_one_goes(
    client: LabelStudioClient, label_studio: LabelStudioServer, project: int
) -> None:
    ids = label_studio.add_tasks(project, 5)
    for task in ids:
        annotate(label_studio, task)
    seen = []
    for labelled in client.labelled_tasks(project):
        seen.append(labelled.id)
        if labelled.id == ids[1]:
            label_studio.sdk.tasks.delete(id=str(ids[0]))
    assert seen == ids


def test_an_annotation_as_it_was_submitted(
    client: LabelStudioClient, label_studio: LabelStudioServer, task: int
) -> None:
    assert client.annotations(task) == []
    result = [{"id": "a", "type": "choices", "from_name": "b", "to_name": "c", "value": {"choices": ["d"]}}]
    annotation = annotate(label_studio, task, result=result)
    annotate(label_studio, task, was_cancelled=True)
    label_studio.request("POST", f"/api/tasks/{task}/drafts", json={"result": result, "lead_time": 1})
    (found,) = client.annotations(task)
    assert found.id == annotation
    assert found.result == result
    assert (found.ground_truth, found.was_cancelled) == (False, False)


def test_a_region_that_a_person_changed_has_no_score_of_the_models(
    client: LabelStudioClient, label_studio: LabelStudioServer, task: int
) -> None:
    origins = ("prediction", "prediction-changed", "manual", None)
    regions: list[dict[str, Any]] = [{"id": str(each), "origin": each, "score": 0.9, "value": {}} for each in origins]
    annotate(label_studio, task, result=regions)
    (found,) = client.annotations(task)
    assert [region.get("score") for region in found.result] == [0.9, None, 0.9, 0.9]
    assert [region["id"] for region in found.result] == [str(origin) for origin in origins]


def test_when_an_annotation_was_changed(
    client: LabelStudioClient, label_studio: LabelStudioServer, project: int, task: int
) -> None:
    first, second = annotate(label_studio, task), annotate(label_studio, task)
    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: change(label_studio, first, result=[{"id": "a"}]),
        lambda: change(label_studio, first, ground_truth=True),
        lambda: change(label_studio, second, ground_truth=True),  # which ends that of the first
    ]
    listed: list[datetime] = []
    states: list[list[Annotation]] = []
    for step in steps:
        step()
        listed += [labelled.updated_at for labelled in client.labelled_tasks(project)]
        states.append(client.annotations(task))
    assert [[each.ground_truth for each in state] for state in states] == [
        [False, False],
        [False, False],
        [True, False],
        [False, True],
    ]
    assert all(now > before for before, now in pairwise(listed))
    changed = [[new.updated_at > old.updated_at for old, new in zip(*pair, strict=True)] for pair in pairwise(states)]
    assert changed == [[True, False], [True, False], [False, True]]


LISTED = {"id": 7, "total_annotations": 1, "cancelled_annotations": 0, "draft_exists": False}


def test_versions_as_label_studio_lists_them_on_postgresql(serve: Serve) -> None:
    """Seen there; what it has on SQLite, without the spaces, the real one here says."""
    server = serve()
    body = json.dumps({"total": 1, "tasks": [{**LISTED, "predictions_model_versions": "tiny-2, tiny-1"}]}).encode()
    server.answers["/api/tasks"] = (200, {"Content-Type": "application/json"}, body)
    with client_of(server.url) as client:
        assert [task.predictions_model_versions for task in client.tasks(1)] == [{"tiny-1", "tiny-2"}]


def test_a_page_that_does_not_come_in_time_is_asked_for_smaller(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.client.api.TIMEOUT", httpx.Timeout(1.0))
    server = serve()
    body = json.dumps({"total": 1, "tasks": [{**LISTED, "predictions_model_versions": ""}]}).encode()
    server.answers["/api/tasks"] = (200, {"Content-Type": "application/json"}, body)
    server.silent = re.compile("page_size=(20|5)&")
    with client_of(server.url) as client:
        assert [task.id for task in client.tasks(1)] == [7]
        assert len(server.asked) == 3
        server.silent = re.compile("page_size")
        with pytest.raises(TransientError, match="cannot be reached"):
            list(client.tasks(1))


def test_a_list_of_tasks_that_fails(client: LabelStudioClient, serve: Serve) -> None:
    with pytest.raises(AV2TError, match=r"refuses the tasks of project 987654 \(404"):
        list(client.labelled_tasks(987654))
    server = serve()
    server.answers["/api/tasks"] = (502, {}, b"")
    with client_of(server.url) as other, pytest.raises(TransientError, match="answers 502 for the tasks of project 1"):
        list(other.tasks(1))


def test_a_task_that_is_gone(client: LabelStudioClient, label_studio: LabelStudioServer, task: int) -> None:
    label_studio.sdk.tasks.delete(id=str(task))
    calls: list[Callable[[], object]] = [
        lambda: client.task(task),
        lambda: client.set_task_data(task, lambda _: {"a": 1}),
        lambda: client.create_prediction(task, "tiny-1", 0.5, []),
        lambda: client.annotations(task),
    ]
    for call in calls:
        with pytest.raises(GoneError):
            call()


TASK = {"id": 1, "project": 1, "data": {"video": "/a.mp4"}}
GONE = said(404, "No Task matches the given query.")


@pytest.mark.parametrize("status", [301, 302, 400, 401, 403, 404, 405, 410, 418, 501])
def test_what_a_proxy_says_is_not_label_studios_word(serve: Serve, status: int) -> None:
    """Nor is it where the answer is JSON, as some proxies'."""
    server = serve()
    sentence = f"answers {status} for task 1, and not in its own words"
    for body in (
        b"",
        b"<html>404 page not found</html>",
        b'{"detail": "Not found."}',
        b'{"status_code": 200}',
        b"null",
    ):
        server.answers["/api/tasks/1/"] = (status, {}, body)
        with client_of(server.url) as client, pytest.raises(TransientError, match=sentence):
            client.task(1)


def test_a_task_is_gone_when_label_studio_says_so_twice(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.client.api.GONE_PAUSE", 0)
    server = serve()
    server.answers["/api/tasks/1/"] = [GONE, as_json(TASK), GONE, (404, {}, b""), GONE]
    with client_of(server.url) as client:
        assert client.task(1).project == 1
        with pytest.raises(TransientError, match="not in its own words"):
            client.task(1)
        with pytest.raises(GoneError, match="task 1"):
            client.task(1)


def test_a_label_studio_that_is_busy(serve: Serve) -> None:
    server = serve()
    server.answers["/api/tasks/1/"] = (429, {"Retry-After": "1", "Content-Type": "application/json"}, b"{}")
    with client_of(server.url) as client, pytest.raises(TransientError, match="answers 429 for task 1") as caught:
        client.task(1)
    assert caught.value.retry_after == 1


@pytest.mark.parametrize("body", [b"<<<", b"<html>", b"{}", b"[]", b"null", b'{"project": "x", "data": {}}'])
def test_a_label_studio_that_answers_nonsense_is_asked_again(serve: Serve, body: bytes) -> None:
    server = serve()
    server.answers["/api/"] = server.answers["/api/tasks/1/"] = (200, {"Content-Type": "application/json"}, body)
    with client_of(server.url) as client, pytest.raises(TransientError, match="answers no JSON of its own for task 1"):
        client.task(1)


def test_a_list_that_is_none_is_no_empty_list(serve: Serve) -> None:
    """Else the task would get a second prediction."""
    server = serve()
    server.answers["/api/predictions/"] = (200, {"Content-Type": "application/json"}, b"{}")
    with client_of(server.url) as client, pytest.raises(TransientError, match="no JSON of its own for the predictions"):
        client.prediction(1, "a")


def test_no_client_is_left_open(serve: Serve) -> None:
    with client_of(serve().url) as client:
        pass
    with pytest.raises((RuntimeError, TransientError, httpx.HTTPError)):
        client.check()
