"""Where a fetch may lead, how slow it may be and how much it may bring: against servers of this machine."""

import gzip
import socket
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from av2t_core.errors import MediaError
from av2t_core.limits import ERROR_BODY
from tests.worker.conftest import LOOPBACK, Serve, client_of
from tests.worker.http_server import Server
from worker.client.transport import ForbiddenAddressError, Places
from worker.failures import DoubtfulError, TransientError

SENTENCE = (
    "The clip at {} is not on the public internet, and the worker fetches none from other networks than those in"
    " AV2T_CLIP_NETWORKS; upload the clip, or have its network added there."
)


# Where it may lead


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1.2.3",
        "localhost",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "2130706433",
        "0x7f.1",
        "10.0.0.1",
        "172.17.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "[fe80::1]",
        "[fd00::1]",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
def test_private_addresses_are_refused_in_one_sentence(serve: Serve, tmp_path: Path, host: str) -> None:
    """Whether somebody listens there or not, and whatever answers."""
    url = f"http://{host}:9/a.mp4"
    with client_of(serve().url, networks=()) as client, pytest.raises(MediaError) as caught:
        client.fetch(url, 1, tmp_path / "clip")
    assert str(caught.value) == SENTENCE.format(url)


def test_a_port_beside_label_studio_is_another_place(serve: Serve, tmp_path: Path) -> None:
    own, other = serve(), serve()
    own.answers["/a.mp4"] = other.answers["/a.mp4"] = (200, {}, b"clip")
    with client_of(own.url, networks=()) as client:
        client.fetch(f"{own.url}/a.mp4", 1, tmp_path / "clip")
        with pytest.raises(MediaError, match="not on the public internet"):
            client.fetch(f"{other.url}/a.mp4", 1, tmp_path / "clip")
    assert not other.asked


def test_a_redirect_leads_no_further(serve: Serve, tmp_path: Path) -> None:
    """Not even one of Label Studio's own: a task's author chooses which of its addresses is asked."""
    own, other = serve(), serve()
    own.answers["/data/a.mp4"] = (302, {"Location": f"{other.url}/a.mp4"}, b"")
    with (
        client_of(own.url, networks=()) as client,
        pytest.raises(MediaError, match=r"clip at /data/a\.mp4 is not on the public"),
    ):
        client.fetch("/data/a.mp4", 1, tmp_path / "clip")
    assert not other.asked


def test_what_a_setting_allows(serve: Serve, tmp_path: Path) -> None:
    own, other = serve(), serve()
    other.answers["/a.mp4"] = (200, {}, b"clip")
    with client_of(own.url, networks=LOOPBACK) as client:
        client.fetch(f"{other.url}/a.mp4", 1, tmp_path / "clip")
    assert (tmp_path / "clip").read_bytes() == b"clip"


def test_a_name_is_looked_up_once(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it could name another address when it is connected to. No DNS that does so can be had here."""
    own, other = serve(), serve()
    port = int(other.url.rpartition(":")[2])
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, *args: Any, **options: Any) -> Any:
        if host != "rebinding.test":
            return real(host, *args, **options)
        asked.append(host)
        address = "127.0.0.2" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    allowed = [ip_network("127.0.0.2/32")]
    with client_of(own.url, networks=allowed) as client, pytest.raises(TransientError, match="cannot be fetched now"):
        client.fetch(f"http://rebinding.test:{port}/a.mp4", 1, tmp_path / "clip")
    assert asked == ["rebinding.test"]
    assert not other.asked  # which listens on the second address alone


def test_the_public_internet_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as can be said without it."""
    places = Places(own=("studio", 8080))
    for address in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"):
        assert places.addresses_of(address, 443) == [address]
    assert places.addresses_of("studio", 8080) == ["studio"]
    found = [(0, 0, 0, "", (each, 80)) for each in ("93.184.215.14", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ForbiddenAddressError):
        places.addresses_of("half-private.test", 80)


def test_a_proxy_of_the_environment_is_used(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides where names lead; addresses are looked at here."""
    own, proxy = serve(), serve()
    proxy.answers["http://clips.test/a.mp4"] = (200, {}, b"clip")
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with client_of(own.url, networks=()) as client:
        client.fetch("http://clips.test/a.mp4", 1, tmp_path / "clip")
        assert (tmp_path / "clip").read_bytes() == b"clip"
        with pytest.raises(MediaError, match="not on the public internet"):
            client.fetch("http://10.0.0.1/a.mp4", 1, tmp_path / "clip")
    assert len(proxy.asked) == 1


# How slow it may be, and how much it may bring


def drip(server: Server) -> Iterator[bytes]:
    while not server.closing.wait(0.02):
        yield b"."


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.client.transport.PATIENCE", 0.2)


@pytest.mark.usefixtures("impatient")
def test_a_clip_that_drips_is_given_up(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    server.answers["/a.mp4"] = (200, {"Connection": "close"}, lambda: drip(server))
    with (
        client_of(server.url, networks=()) as client,
        pytest.raises(TransientError, match="comes slower than 16 kB a second"),
    ):
        client.fetch("/a.mp4", 1, tmp_path / "clip")


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_drips_is_given_up(serve: Serve) -> None:
    server = serve()
    server.answers["/api/projects/1/"] = (200, {"Connection": "close"}, lambda: drip(server))
    with (
        client_of(server.url, networks=()) as client,
        pytest.raises(TransientError, match="comes slower than 16 kB a second"),
    ):
        client.label_config(1)


def test_a_clip_that_takes_too_long_is_given_up(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it was before."""
    monkeypatch.setattr("worker.client.media.FETCH_SECONDS", 0.2)
    server = serve()
    server.answers["/a.mp4"] = (200, {"Connection": "close"}, lambda: drip(server))
    with client_of(server.url, networks=()) as client, pytest.raises(TransientError, match="takes longer than 0 s"):
        client.fetch("/a.mp4", 1, tmp_path / "clip")


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(1 << 16)


def test_of_an_error_no_more_than_its_sentence_is_read(serve: Serve, tmp_path: Path) -> None:
    """Neither of a clip's server nor of what stands in Label Studio's place."""
    server, sent = serve(), [0]

    def counted() -> Iterator[bytes]:
        for chunk in endless():
            yield chunk
            sent[0] += len(chunk)

    server.answers["/a.mp4"] = server.answers["/api/projects/1/"] = (404, {"Connection": "close"}, counted)
    with client_of(server.url, networks=()) as client:
        with pytest.raises(DoubtfulError):
            client.fetch("/a.mp4", 1, tmp_path / "clip")
        with pytest.raises(TransientError):
            client.label_config(1)
    server.close()
    assert sent[0] < 300 * ERROR_BODY  # what lies in the sockets' buffers


def test_an_answer_has_an_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.client.api.API_ANSWER", 10**6)
    server = serve()
    server.answers["/api/projects/1/"] = (200, {"Connection": "close"}, endless)
    with client_of(server.url, networks=()) as client, pytest.raises(TransientError, match="is larger than 1 MB"):
        client.label_config(1)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "deflate", "br"])
def test_what_unfolds_is_not_taken(serve: Serve, tmp_path: Path, encoding: str) -> None:
    """It was not asked for, and 6 kB that were zipped twice were 8 GB."""
    server = serve()
    body = gzip.compress(gzip.compress(bytes(10**7)))
    for path in ("/a.mp4", "/api/projects/1/"):
        server.answers[path] = (200, {"Content-Encoding": encoding}, body)
    with client_of(server.url, networks=()) as client:
        for call in (lambda: client.fetch("/a.mp4", 1, tmp_path / "clip"), lambda: client.label_config(1)):
            with pytest.raises(TransientError, match="in an encoding that it was not asked for"):
                call()
    assert all(headers["accept-encoding"] == "identity" for _, headers in server.asked)
