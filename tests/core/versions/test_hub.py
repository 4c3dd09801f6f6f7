"""Files from a hub that is cut off, full of other files, closed, ailing or not there at all."""

import hashlib
import os
import resource
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants

from av2t_core.errors import WeightsError
from av2t_core.versions import hub
from av2t_core.versions.hub import RemoteFile
from tests.hub_server import COMMIT, Hub, point_at, running_hub

REPOSITORY = "somebody/weights"
CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
README = b"# a\n"
README_SHA1 = "822de9647058a14507022bbc29d912989b33c7f2"  # `git hash-object`
TOKEN = "hf_secret"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """HF_ENDPOINT and HF_TOKEN as a process of its own would read them."""
    with running_hub() as running:
        running.repositories[REPOSITORY] = {"a.pth": CONTENT, "README.md": README, "b.bin": b"b"}
        point_at(running.endpoint, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def file(server: Hub) -> RemoteFile:
    [found] = [file for file in hub.list_files(REPOSITORY) if file.name == "a.pth"]
    return found


class Bar:
    """Counts as a progress bar does."""

    def __init__(self) -> None:
        self.bytes = 0

    def update(self, count: int, /) -> None:
        self.bytes += count


class Steps:
    """The progress bars of one download, by what they show, and the bytes that are due."""

    def __init__(self) -> None:
        self.bars: dict[str, tuple[Bar, int]] = {}

    @contextmanager
    def __call__(self, what: str, total: int) -> Iterator[Bar]:
        self.bars[what] = Bar(), total
        yield self.bars[what][0]


def fetch(file: RemoteFile, folder: Path) -> Path:
    steps = Steps()
    path = hub.download(file, folder, steps)
    assert all(bar.bytes == total == file.size for bar, total in steps.bars.values())
    assert path.read_bytes() == CONTENT
    assert hub.downloaded(file, folder) == file.size
    return path


def refusal(file: RemoteFile, folder: Path) -> str:
    with pytest.raises(WeightsError) as error:
        hub.download(file, folder, Steps())
    return one_sentence(error.value)


def one_sentence(error: WeightsError) -> str:
    assert "\n" not in str(error)
    assert TOKEN not in str(error)
    return str(error)


def test_a_listing_tells_commit_size_and_hash(server: Hub) -> None:
    sha256_of_b = hashlib.sha256(b"b").hexdigest()
    assert hub.list_files(REPOSITORY) == [
        RemoteFile(repository=REPOSITORY, revision=COMMIT, name=name, size=size, checksum=checksum)
        for name, size, checksum in (
            ("a.pth", len(CONTENT), SHA256),
            ("README.md", len(README), README_SHA1),
            ("b.bin", 1, sha256_of_b),
        )
    ]
    server.unhashed.add("README.md")
    assert [file.checksum for file in hub.list_files(REPOSITORY)] == [SHA256, "", sha256_of_b]


def test_what_lies_in_git_is_verified_as_git_does(server: Hub, tmp_path: Path) -> None:
    [text] = [file for file in hub.list_files(REPOSITORY) if file.name == "README.md"]
    assert hub.download(text, tmp_path, Steps()).read_bytes() == README
    (tmp_path / README_SHA1).unlink()
    server.swapped["README.md"] = README[::-1]
    assert "README.md of somebody/weights is not what the hub says it is" in refusal(text, tmp_path)


def test_a_file_is_fetched_once(server: Hub, file: RemoteFile, tmp_path: Path) -> None:
    fetch(file, tmp_path / "new")
    fetch(file, tmp_path / "new")
    assert server.ranges == [None]
    assert [path.name for path in (tmp_path / "new").iterdir()] == [SHA256]


def test_the_token_goes_to_the_hub_alone(server: Hub, file: RemoteFile, tmp_path: Path) -> None:
    fetch(file, tmp_path)
    with_token = {r.path.partition("?")[0] for r in server.requests if "authorization" in r.headers}
    assert with_token == {f"/api/models/{REPOSITORY}", f"/{REPOSITORY}/resolve/{COMMIT}/a.pth"}
    assert any(r.path.startswith("/bytes/") for r in server.requests)


def test_a_cut_connection_goes_on_by_itself(server: Hub, file: RemoteFile, tmp_path: Path) -> None:
    server.cut["a.pth"] = [1_500_000, 0]
    fetch(file, tmp_path)
    assert server.ranges == [None, "bytes=1500000-", "bytes=1500000-"]


def test_what_a_given_up_try_has_is_not_fetched_again(
    server: Hub, file: RemoteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "RETRIES", 0)
    server.cut["a.pth"] = [1_200_000, 0]
    assert "cannot be reached" in refusal(file, tmp_path)
    fetch(file, tmp_path)
    assert server.ranges == [None, "bytes=1200000-", "bytes=1200000-"]


def test_a_hub_that_knows_no_ranges_sends_all_again(server: Hub, file: RemoteFile, tmp_path: Path) -> None:
    (tmp_path / f"{SHA256}.part").write_bytes(b"x" * 1000)
    server.knows_ranges = False
    fetch(file, tmp_path)


def test_another_hash_is_deleted_and_said(server: Hub, file: RemoteFile, tmp_path: Path) -> None:
    server.swapped["a.pth"] = CONTENT[::-1]
    assert "a.pth of somebody/weights is not what the hub says it is" in refusal(file, tmp_path)
    assert not list(tmp_path.iterdir())
    server.swapped.clear()
    fetch(file, tmp_path)


def test_another_size_is_deleted_and_said(server: Hub, file: RemoteFile, tmp_path: Path) -> None:
    server.swapped["a.pth"] = CONTENT + b"more"
    assert "its size or checksum is another" in refusal(file, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_ailing_hub_is_asked_again(server: Hub, file: RemoteFile, tmp_path: Path) -> None:
    server.refused["/bytes"] = (503, "")
    server.recovers_after = 2
    fetch(file, tmp_path)
    assert len(server.ranges) == 3


def test_a_hub_that_stays_ill(server: Hub, file: RemoteFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "RETRIES", 0)
    server.refused["/bytes"] = (502, "")
    assert "answers 502 for a.pth of somebody/weights: run the same command again later" in refusal(file, tmp_path)
    server.refused["/api"] = (500, "")
    with pytest.raises(WeightsError, match="answers 500 for somebody/weights"):
        hub.list_files(REPOSITORY)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "GatedRepo", "somebody/weights is gated: accept its terms at http://127.0.0.1"),
        (401, "GatedRepo", "somebody/weights is gated: accept its terms at http://127.0.0.1"),
        (401, "RepoNotFound", "has no repository somebody/weights, or only for those who may see it"),
        (404, "RepoNotFound", "has no repository somebody/weights, or only for those who may see it"),
        (403, "", "forbids a.pth of somebody/weights: see http://127.0.0.1"),
        (404, "EntryNotFound", "somebody/weights holds no a.pth any more"),
        (410, "", "answers 410 for a.pth of somebody/weights"),
    ],
)
def test_a_refusal_says_what_to_do(
    server: Hub, file: RemoteFile, tmp_path: Path, status: int, code: str, words: str
) -> None:
    server.refused[f"/{REPOSITORY}/resolve"] = (status, code)
    assert words in refusal(file, tmp_path)
    assert len([r for r in server.requests if "/resolve/" in r.path]) == 1


def test_a_token_that_the_hub_does_not_know(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.refused["/api"] = (401, "")
    server.message = "Invalid credentials in Authorization header"
    with pytest.raises(WeightsError) as error:
        hub.list_files(REPOSITORY)
    assert "does not accept your token for somebody/weights: log in again" in one_sentence(error.value)


def test_a_repository_that_is_not_there(server: Hub) -> None:
    with pytest.raises(WeightsError, match="has no repository no/body") as error:
        hub.list_files("no/body")
    one_sentence(error.value)


def test_a_login_page_is_no_hub(server: Hub) -> None:
    server.refused["/api"] = (200, "")
    with pytest.raises(WeightsError, match="does not answer as a model hub does"):
        hub.list_files(REPOSITORY)


# Whether there is a hub at all


def test_a_hub_that_answers_is_there(server: Hub) -> None:
    hub.connect()


def test_nobody_listens(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    point_at(f"http://user:{TOKEN}@127.0.0.1:{free}", monkeypatch)
    with pytest.raises(WeightsError) as error:
        hub.connect()
    assert f"http://127.0.0.1:{free} cannot be reached (Connection refused)" in one_sentence(error.value)


def test_packets_that_are_dropped(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full answers nothing, as a firewall does."""
    monkeypatch.setattr(hub, "FIRST_ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        point_at(f"http://127.0.0.1:{full.getsockname()[1]}", monkeypatch)
        with pytest.raises(WeightsError, match="cannot be reached"):
            hub.connect()


def test_an_endpoint_that_is_no_address(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("hub.example.com", monkeypatch)
    with pytest.raises(WeightsError, match=r"cannot be reached .*HF_ENDPOINT"):
        hub.connect()


def test_offline_is_said(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        hub.connect()
    assert not server.requests


# Space


def test_a_disk_that_fills_up(server: Hub, file: RemoteFile, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        assert f"{disk} is full (No space left on device)" in refusal(file, disk)
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        fetch(file, disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert server.ranges[0] is None
    assert server.ranges[1] is not None


def test_a_limit_on_the_size_of_files(server: Hub, file: RemoteFile, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        assert "is full (File too large)" in refusal(file, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fetch(file, tmp_path)


def test_a_folder_that_cannot_be_written(server: Hub, file: RemoteFile, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    assert "cannot be written (File exists)" in refusal(file, tmp_path / "taken")
