"""Reading ahead, with real threads, a real Ctrl-C and real ends of a process."""

import gc
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from av2t_core.ahead import read_ahead
from tests.conftest import wait_until

PATIENCE = 60  # seconds until a test that hangs is one that fails


class Source:
    """0, 1, 2 … on request; knows what it made, and where it was closed."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.threads: set[str] = set()
        self.closed_in = ""

    def __call__(self) -> Iterator[int]:
        try:
            for item in itertools.count():
                self.threads.add(threading.current_thread().name)
                self.made.append(item)
                yield item
        finally:
            self.closed_in = threading.current_thread().name


@pytest.fixture(autouse=True)
def _no_thread_is_left_over() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_items_come_in_their_order(count: int) -> None:
    assert list(read_ahead(iter(range(5)), count)) == [0, 1, 2, 3, 4]
    assert list(read_ahead(iter([None, None]), count)) == [None, None]
    assert list(read_ahead(iter([]), count)) == []


def test_the_next_item_is_made_while_the_last_one_is_worked_on() -> None:
    begun = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for item, event in enumerate(begun):
            event.set()
            yield item

    for item in read_ahead(items()):
        assert begun[min(item + 1, 3)].wait(PATIENCE)


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_than_asked_for_is_made_ahead(count: int) -> None:
    source = Source()
    ahead = read_ahead(source(), count)
    for taken in range(1, 6):
        assert next(ahead) == taken - 1
        wait_until(lambda taken=taken: len(source.made) >= taken + count, what="reading ahead")  # type: ignore[misc]
        assert len(source.made) == taken + count
    ahead.close()
    assert len(source.made) == 5 + count


def test_nothing_is_made_before_the_first_is_asked_for() -> None:
    source = Source()
    read_ahead(source()).close()
    assert not source.made


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise ValueError("damaged")

    ahead = read_ahead(items(), 3)
    assert (next(ahead), next(ahead)) == (0, 1)
    with pytest.raises(ValueError, match="damaged"):
        next(ahead)
    assert list(ahead) == []


def test_closing_closes_the_source_on_its_own_thread() -> None:
    source = Source()
    ahead = read_ahead(source())
    next(ahead)
    ahead.close()
    assert source.threads == {source.closed_in} == {"read-ahead"}


def test_a_consumer_that_fails_closes_the_source() -> None:
    source = Source()

    def consume() -> None:
        for item in read_ahead(source()):
            assert item < 2, "enough"

    with pytest.raises(AssertionError, match="enough") as failure:
        consume()
    # A traceback keeps the frames alive, and with them what they iterate over.
    failure.value.__traceback__ = None
    del failure
    assert source.closed_in


def test_closing_waits_for_the_item_that_is_being_made() -> None:
    begun, go_on = threading.Event(), threading.Event()
    closed: list[bool] = []

    def items() -> Iterator[int]:
        try:
            yield 0
            begun.set()
            assert go_on.wait(PATIENCE)
            yield 1
        finally:
            closed.append(True)

    ahead = read_ahead(items())
    next(ahead)
    assert begun.wait(PATIENCE)
    closing = threading.Thread(target=ahead.close)
    closing.start()
    assert not closed
    go_on.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert closed == [True]


def test_a_forgotten_one_may_be_collected_anywhere() -> None:
    """Also on its own thread, which cannot wait for itself."""
    forgotten = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert forgotten.wait(PATIENCE)
        gc.collect()
        yield 1

    ahead = read_ahead(items())
    next(ahead)
    [thread] = [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
    cycle: list[object] = [ahead]
    cycle.append(cycle)
    del ahead, cycle
    forgotten.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_what_goes_wrong_while_the_source_is_closed_is_not_lost() -> None:
    def items() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            raise OSError("the disk is gone")

    ahead = read_ahead(items())
    next(ahead)
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.close()


SCRIPT = """
import sys
from av2t_core.ahead import read_ahead
def items():
    try:
        yield 0
        print("waiting", flush=True)
        sys.stdin.readline()
        yield 1
        yield 2
    finally:
        print("closed", flush=True)
"""


def test_ctrl_c_ends_it_in_order(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT
        + """
import threading
def consume():
    for item in read_ahead(items()):
        if item == 1:
            threading.Event().wait()  # where the interrupt comes too late for the waiting below
try:
    consume()
except KeyboardInterrupt:
    pass
print("threads", threading.active_count())
"""
    )
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate("go on\n", timeout=PATIENCE)
    assert (out, errors, process.returncode) == ("closed\nthreads 1\n", "", 0)


def test_a_script_that_dies_of_an_error_shows_that_error_alone(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + "ahead = read_ahead(items())\nfor item in ahead: print(item / 0)\n")
    died = subprocess.run([sys.executable, script], input="go on\n", capture_output=True, text=True, timeout=PATIENCE)
    assert died.returncode == 1
    assert died.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert died.stderr.count("Traceback") == 1
