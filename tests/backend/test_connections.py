"""How long a client may take, in a server of this process whose times are short."""

import socket
from collections.abc import Iterable, Iterator
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from av2t_core import limits
from backend.door import Door
from backend.server import listen
from tests.conftest import wait_until
from tests.ports import free_port
from worker.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LARGE = b"x" * 12_000_000
CUT = r"reset|Broken pipe"
GET = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"


def application(_environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", str(len(LARGE)))])
    return [LARGE]


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    for name in ("HEADER", "BODY", "ANSWER", "IDLE", "LINGER"):
        monkeypatch.setattr(limits, f"{name}_SECONDS", 1)
    port = free_port()
    server = listen(application, Door(Settings.load()), "127.0.0.1", port)
    thread = Thread(target=server.run)
    thread.start()
    yield port
    server.close()  # and with its sockets the loop ends
    thread.join()


def send_for_ever(client: socket.socket) -> None:
    while True:
        client.sendall(b"x" * 1000)


def test_who_says_nothing_is_left(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /large HT",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n{",
    ],
    ids=["header", "body", "chunks"],
)
def test_a_byte_now_and_then_does_not_keep_a_connection(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=0.1) as client:
        client.sendall(sent)

        def is_closed() -> bool:
            try:
                client.sendall(b"x")
                return client.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(is_closed, timeout=20)


def test_who_does_not_take_the_answer_is_left(port: int) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(("127.0.0.1", port))
        client.sendall(GET)
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        with pytest.raises(OSError, match=CUT):
            send_for_ever(client)


def test_who_takes_it_may_ask_again(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client, client.makefile("rb") as answers:
        for _ in range(3):
            client.sendall(GET)
            head = b"".join(iter(answers.readline, b"\r\n"))
            assert head.startswith(b"HTTP/1.1 200")
            assert answers.read(len(LARGE)) == LARGE


def test_who_is_refused_and_goes_on_sending_reads_why_and_is_left(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"POST /train HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 413"
        with pytest.raises(OSError, match=CUT):
            send_for_ever(client)
