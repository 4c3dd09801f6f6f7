"""What the backend does before it knows who calls: against the real process, by raw sockets."""

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
from pydantic import SecretStr
from redis import Redis

from av2t_core import limits
from backend import status
from backend.door import Door, Guesses, exposure
from backend.manager import Manager
from backend.server import serve
from tests.backend.conftest import CONFIG, Backend, running
from tests.conftest import wait_until
from worker.settings import Settings

USER, PASSWORD = "studio", "sesame: open"


@pytest.fixture
def secured(redis_url: str, tmp_path: Path) -> Iterator[Backend]:
    log = tmp_path / "backend.log"
    with running(redis_url, log, AV2T_BACKEND_USER=USER, AV2T_BACKEND_PASSWORD=PASSWORD) as backend:
        yield backend


def header(password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()


@contextmanager
def connected(backend: Backend, sent: bytes = b"") -> Iterator[socket.socket]:
    url = httpx.URL(backend.url)
    with socket.create_connection((url.host, url.port or 80), timeout=60) as connection:
        connection.sendall(sent)
        yield connection


def answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head and the body of the one answer that comes before the end of the connection."""
    received = b""
    while block := connection.recv(65536):
        received += block
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode()


@pytest.mark.parametrize("sent", [b"", b"GET /hea", head("/predict", "Content-Length: 1000") + b"{"])
def test_slow_connections_keep_nobody_out(backend: Backend, sent: bytes) -> None:
    """However many there are, and whatever they have begun."""
    with ExitStack() as stack:
        for _ in range(limits.CONNECTIONS + 50):
            stack.enter_context(connected(backend, sent))
        assert httpx.get(f"{backend.url}/health", timeout=10).status_code == 200
        assert len(psutil.Process(backend.process.pid).net_connections()) < limits.CONNECTIONS + 10
    assert httpx.get(f"{backend.url}/health", timeout=10).status_code == 200


def test_a_large_body_of_a_stranger_is_refused_before_it_is_sent(secured: Backend) -> None:
    for wrong in ([], [f"Authorization: {header('wrong')}"]):
        with connected(secured, head("/predict", "Content-Length: 90000000", "Expect: 100-continue", *wrong)) as caller:
            first, body = answer(caller)
            assert first.startswith(b"HTTP/1.1 401 The user and the password")
            assert b'www-authenticate: basic realm="av2t-sam"' in first.lower()
            assert "AV2T_BACKEND_PASSWORD" in json.loads(body)["error"]


@pytest.mark.parametrize("announced", [["Content-Length: 90000000"], ["Transfer-Encoding: chunked"]])
def test_what_a_stranger_sends_all_the_same_is_not_kept(secured: Backend, announced: list[str]) -> None:
    process = psutil.Process(secured.process.pid)
    memory, written = process.memory_info().rss, process.io_counters().write_chars
    with connected(secured, head("/predict", *announced)) as caller:
        block = b"400000\r\n" + b"x" * 0x400000 + b"\r\n"
        try:
            for _ in range(20):
                caller.sendall(block)
        except OSError:
            pass  # it has been cut off
    assert process.memory_info().rss - memory < 10_000_000
    assert process.io_counters().write_chars - written < 1_000_000
    assert secured.http.get("/", headers={"Authorization": header()}).status_code == 200


def test_who_sends_a_body_with_the_wrong_password_reads_why(secured: Backend) -> None:
    """Although the answer is there before the body is."""
    body = b"x" * 5_000_000
    refused = secured.http.post("/predict", content=body, headers={"Authorization": header("wrong")})
    assert refused.status_code == 401


@pytest.mark.parametrize(
    ("path", "size", "told"),
    [
        ("/predict", limits.TASKS_BODY + 1, "100 MB: send fewer tasks"),
        ("/webhook", limits.TASKS_BODY + 1, "100 MB: send fewer tasks"),
        ("/setup", limits.SETUP_BODY + 1, "8 MB: make the project's label config smaller"),
        ("/train", limits.SMALL_BODY + 1, "64 kB: nothing larger"),
        ("/health", limits.SMALL_BODY + 1, "64 kB: nothing larger"),
        ("/stop", limits.SMALL_BODY + 1, "64 kB: nothing larger"),
        ("//predict/", limits.SMALL_BODY + 1, "64 kB: nothing larger"),
        ("/predict", 10**30, "100 MB: send fewer tasks"),
    ],
)
def test_each_path_has_its_largest_body(backend: Backend, path: str, size: int, told: str) -> None:
    with connected(backend, head(path, f"Content-Length: {size}", "Expect: 100-continue")) as caller:
        first, body = answer(caller)
        assert first.startswith(b"HTTP/1.1 413 The body for /")
        assert told in json.loads(body)["error"]


def test_a_body_in_chunks_has_the_same_bounds(backend: Backend) -> None:
    block = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    with connected(backend, head("/train", "Transfer-Encoding: chunked") + block * 3) as caller:
        assert answer(caller)[0].startswith(b"HTTP/1.1 413 The body for /train is larger than 64 kB")
    with connected(backend, head("/predict", "Transfer-Encoding: chunked") + b"8" * 4000) as caller:
        assert answer(caller)[0].startswith(b"HTTP/1.1 400 ")
    task = json.dumps({"project": "3.17", "tasks": [{"id": 1}], "label_config": CONFIG, "x": "y" * 200_000}).encode()
    answered = backend.http.post(
        "/predict", content=iter([task[:9], task[9:]]), headers={"Content-Type": "application/json"}
    )
    assert answered.json()["results"] == [[]]


def test_large_bodies_have_so_much_room_together(backend: Backend) -> None:
    announced = head("/predict", f"Content-Length: {limits.TASKS_BODY}")
    with connected(backend, announced + b"{"):
        with connected(backend, announced) as second:
            first, body = answer(second)
            assert first.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 5" in first.lower()
            assert "other large requests" in json.loads(body)["error"]
        backend.set_up(3)

    def is_taken() -> bool:
        with connected(
            backend, head("/predict", f"Content-Length: {limits.TASKS_BODY}", "Expect: 100-continue")
        ) as third:
            return third.recv(100).startswith(b"HTTP/1.1 100")

    wait_until(is_taken, what="room, once the first has gone")


def test_wrong_passwords_cost_pauses(secured: Backend) -> None:
    def status(password: str) -> httpx.Response:
        return secured.http.get("/versions", headers={"Authorization": header(password)})

    for _ in range(limits.WRONG_PASSWORDS):
        assert status("wrong").status_code == 401
    late = status("wrong")
    assert (late.status_code, late.headers["retry-after"]) == (429, "1")
    assert "Too many wrong passwords came from 127.0.0.1" in late.json()["error"]
    # Who tells none at all guesses nothing, and who had the right one once is never kept out.
    assert secured.http.get("/versions").status_code == 401
    wait_until(lambda: status(PASSWORD).status_code == 200, what="the end of the pause")
    for _ in range(limits.WRONG_PASSWORDS):
        assert status("wrong").status_code == 401
    assert status("wrong").status_code == 429
    assert status(PASSWORD).status_code == 200
    assert "wrong passwords came from 127.0.0.1" in secured.process.log.read_text()


def test_pauses_grow_and_are_not_of_other_addresses() -> None:
    now = 0.0
    guesses = Guesses(lambda: now)
    seen = []
    for _ in range(limits.WRONG_PASSWORDS + 8):
        guesses.was_wrong("192.0.2.1")
        seen.append(guesses.pause("192.0.2.1"))
        now += seen[-1]
    assert seen == [0] * 9 + [1, 2, 4, 8, 16, 32, 60, 60, 60]
    for number in range(2 * limits.ADDRESSES):
        guesses.was_wrong(f"2001:db8::{number % 7:x}")
        guesses.was_wrong(f"10.0.{number // 256}.{number % 256}")
    assert guesses.pause("2001:db8::ffff") > 0
    assert guesses.pause("2001:db8:0:1::1") == guesses.pause("10.0.0.1") == 0
    assert len(guesses._tries) == limits.ADDRESSES
    now += 10 * limits.LONGEST_PAUSE + 1
    guesses.was_wrong("2001:db8::1")
    assert guesses.pause("2001:db8::1") == 0


@pytest.mark.parametrize(
    ("host", "let_in"),
    [
        ("127.0.0.1:9090", True),
        ("192.168.1.7", True),
        ("[::1]:9090", True),
        ("localhost:9090", True),
        ("backend:9090", True),
        ("Host.Docker.Internal:9090", True),
        ("backend.ours.svc.cluster.local.", True),
        (socket.gethostname(), True),
        ("attacker.example:9090", False),
        ("127.0.0.1.attacker.example", False),
        ("localhost.attacker.example", False),
        ("", False),
        ("[", False),
        ("[::1", False),
    ],
)
def test_by_which_names_it_may_be_called(host: str, let_in: bool) -> None:
    door = Door(Settings.load())
    refusal = door.refusal("/status", {"HOST": host}, "127.0.0.1")
    assert (refusal is None) == let_in
    assert door.refusal("/health", {"HOST": host}, "127.0.0.1") is None
    assert door.refusal("/status", {}, "127.0.0.1") is None


def test_names_of_ones_own() -> None:
    def lets_in(host: str, hosts: str | None = None, password: str | None = None) -> bool:
        secret = SecretStr(password) if password else None
        settings = Settings.load(backend_hosts=hosts, backend_user=password and USER, backend_password=secret)
        said = {"HOST": host, "AUTHORIZATION": header(PASSWORD)}
        return Door(settings).refusal("/status", said, "127.0.0.1") is None

    assert not lets_in("av2t.example.org")
    assert lets_in("av2t.example.org", hosts="other.example, AV2T.example.org")
    assert lets_in("anything.example", hosts="*")
    assert lets_in("anything.example", password=PASSWORD)
    assert not lets_in("anything.example", password=PASSWORD, hosts="av2t.example.org")
    assert lets_in("backend:9090", password=PASSWORD, hosts="av2t.example.org")


def test_another_name_is_refused_with_the_settings_name(backend: Backend) -> None:
    refused = backend.http.get("/status", headers={"Host": "attacker.example"})
    assert refused.status_code == 403
    assert "'attacker.example': add it to AV2T_BACKEND_HOSTS" in refused.json()["error"]
    assert "AV2T_BACKEND_HOSTS" in refused.reason_phrase


def test_listening_to_others_without_a_password_is_told(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a server, for none of a test's may listen to others."""
    monkeypatch.setattr("backend.server.listen", lambda *_: SimpleNamespace(run=lambda: None))
    monkeypatch.setattr("backend.server.signal.signal", lambda *_: None)
    told = "the backend listens on 0.0.0.0 and asks nobody for a password"
    open_to_all = Settings.load(backend_host="0.0.0.0")
    serve(open_to_all, redis)
    assert f"WARNING: {told}" in capsys.readouterr().out
    shown = status.snapshot(Manager(redis, open_to_all))
    assert shown["exposure"].startswith(told)
    assert told in status.page(shown)
    for others in ({"backend_host": "127.0.0.1"}, {"backend_user": USER, "backend_password": SecretStr(PASSWORD)}):
        assert exposure(Settings.load(**{"backend_host": "0.0.0.0", **others})) is None


@pytest.mark.parametrize(
    "sent",
    [
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: " + b"1" * 5000 + b"\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET /" + b"x" * limits.HEADER + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["address", "length", "negative", "binary", "line", "long"],
)
def test_what_is_no_request_is_answered_and_logged_by_nobody(backend: Backend, sent: bytes) -> None:
    written = backend.process.log.stat().st_size
    with connected(backend, sent) as caller:
        assert answer(caller)[0].split()[1] in {b"400", b"431"}
    assert backend.http.get("/health").status_code == 200
    assert backend.process.log.stat().st_size == written
