from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pytest

from worker.queue import signs


@pytest.fixture
def worker() -> "Iterator[Connection[Any, Any]]":
    """The worker's end of the channel."""
    with pytest.MonkeyPatch.context() as patch:
        mine, theirs = Pipe()
        patch.setattr(signs, "_channel", None)
        patch.setattr(signs, "_given", float("-inf"))
        signs.listen(theirs)
        yield mine
        mine.close()
        theirs.close()


def test_a_sign_of_life_comes_at_most_each_second(worker: "Connection[Any, Any]") -> None:
    for _ in range(3):
        signs.alive()
    assert worker.recv() == ("alive", "")
    assert not worker.poll()


def test_the_wish_to_stop_stays_until_it_is_read(worker: "Connection[Any, Any]") -> None:
    assert not signs.stop_wanted()
    worker.send(signs.STOP)
    assert signs.stop_wanted()
    assert signs.stop_wanted()


def test_a_worker_that_has_gone_is_told_nothing(worker: "Connection[Any, Any]") -> None:
    worker.close()
    signs.alive()


def test_nobody_has_to_listen() -> None:
    signs.alive()
    assert not signs.stop_wanted()
