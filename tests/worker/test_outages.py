"""What a job does while Label Studio is away, and when it is not: against a server that answers as it is told."""

import pytest

from tests.worker.conftest import Serve, client_of
from tests.worker.http_server import Answer, as_json, said
from worker.client.connection import through_outages
from worker.failures import TransientError
from worker.queue import heartbeat
from worker.queue.heartbeat import Interrupted

WELL = as_json({"email": "a@example.com"})
DEPLOYED: Answer = (404, {}, b"404 page not found")
WHOAMI = "/api/current-user/whoami"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "pause", lambda _: heartbeat.check())


@pytest.mark.parametrize("page", [DEPLOYED, (503, {}, b""), (200, {"Content-Type": "text/html"}, b"<html>")])
def test_an_outage_is_waited_for_and_takes_no_try(serve: Serve, page: Answer) -> None:
    server = serve()
    server.answers = {
        "/api/projects/1/": [page, page, as_json({"label_config": "<View/>"})],
        WHOAMI: [page, page, page, WELL, page, WELL],
    }
    with client_of(server.url) as client:
        assert through_outages(client, lambda: client.label_config(1)) == "<View/>"
    asked = [path for path, _ in server.asked]
    assert (asked.count("/api/projects/1/"), asked.count(WHOAMI)) == (3, 6)


def test_where_label_studio_answers_the_failure_is_the_tasks_own(serve: Serve) -> None:
    server = serve()
    server.answers = {"/api/projects/1/": said(500, "Server error"), WHOAMI: WELL}
    sentence = "answers 500 for project 1"
    with client_of(server.url) as client, pytest.raises(TransientError, match=sentence):
        through_outages(client, lambda: client.label_config(1))
    assert len(server.asked) == 2


def test_an_outage_without_an_end_is_a_failure_like_another(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.client.connection.LONGEST_OUTAGE", -1)
    server = serve()
    with client_of(server.url) as client, pytest.raises(TransientError, match="account"):
        through_outages(client, lambda: client.label_config(1))


def test_a_worker_that_has_to_stop_waits_no_longer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "cancelled", lambda: True)
    server = serve()
    with client_of(server.url) as client, pytest.raises(Interrupted):
        through_outages(client, lambda: client.label_config(1))
