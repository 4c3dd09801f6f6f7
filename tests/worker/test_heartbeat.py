from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pytest

from worker.queue import heartbeat


@pytest.fixture
def worker() -> "Iterator[Connection[Any, Any]]":
    """The worker's end of the channel."""
    with pytest.MonkeyPatch.context() as patch:
        mine, theirs = Pipe()
        patch.setattr(heartbeat, "_channel", None)
        patch.setattr(heartbeat, "_sent", float("-inf"))
        heartbeat.listen(theirs)
        yield mine
        mine.close()
        theirs.close()


def test_a_sign_of_life_comes_at_most_each_second(worker: "Connection[Any, Any]") -> None:
    for _ in range(3):
        heartbeat.beat()
    assert worker.recv() == ("alive", "")
    assert not worker.poll()


def test_the_wish_to_stop_stays_until_it_is_read(worker: "Connection[Any, Any]") -> None:
    assert not heartbeat.cancelled()
    worker.send(heartbeat.STOP)
    assert heartbeat.cancelled()
    assert heartbeat.cancelled()


def test_a_worker_that_has_gone_is_told_nothing(worker: "Connection[Any, Any]") -> None:
    worker.close()
    heartbeat.beat()


def test_nobody_has_to_listen() -> None:
    heartbeat.beat()
    assert not heartbeat.cancelled()
