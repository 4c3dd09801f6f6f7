"""`av2t worker` as a program: what it listens on, and that it leaves nothing behind however it ends."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis

from av2t.stack.process import Process
from tests.av2t.test_cli import assert_refused, av2t
from tests.conftest import LabelStudioServer, wait_until
from tests.up import runs
from worker.queue.preannotation import PREANNOTATE
from worker.queue.training import TRAIN
from worker.queue.views import workers

Start = Callable[..., Process]


@pytest.fixture
def start(label_studio: LabelStudioServer, redis_url: str, tmp_path: Path) -> Iterator[Start]:
    started = []
    environment = {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.api_key,
        "REDIS_URL": redis_url,
        "AV2T_DATA_DIR": str(tmp_path / "data"),
        "AV2T_DEVICE": "cpu",
    }

    def begin(*options: str) -> Process:
        command = [sys.executable, "-m", "av2t", "worker", *options]
        process = Process("worker", command, log=tmp_path / "worker.log", environment=environment)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.stop()


def listen(redis: Redis) -> tuple[int, int]:
    """How many take tasks, and how many trainings."""
    return len(workers(redis, PREANNOTATE)), len(workers(redis, TRAIN))


def ready(worker: Process, count: int) -> None:
    """Wait until so many wait for jobs; from then on a signal ends them in order."""
    wait_until(lambda: worker.log.read_text().count("waits for jobs") == count, 120, "workers that wait for jobs")


def started_by(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_it_takes_tasks_and_trainings_and_ends_with_all_that_it_started(redis: Redis, start: Start) -> None:
    worker = start("--name", "gpu0")
    ready(worker, 2)
    assert listen(redis) == (1, 1)
    assert {each.name.partition("-")[0] for each in (*workers(redis, PREANNOTATE), *workers(redis, TRAIN))} == {"gpu0"}
    started = started_by(worker)
    psutil.Process(worker.pid).terminate()
    assert worker.wait() == 0
    assert not any(map(runs, started))
    assert listen(redis) == (0, 0)


def test_killed_it_leaves_nothing_running(redis: Redis, start: Start) -> None:
    worker = start()
    ready(worker, 2)
    started = started_by(worker)
    psutil.Process(worker.pid).kill()
    wait_until(lambda: not any(map(runs, started)), what="the end of what it started")


def test_one_that_is_killed_ends_the_other_and_is_named(redis: Redis, start: Start) -> None:
    worker = start()
    ready(worker, 2)
    started = started_by(worker)
    [trainer] = [process for process in started if process.pid == workers(redis, TRAIN)[0].pid]
    trainer.send_signal(signal.SIGKILL)
    assert worker.wait() == 2
    assert worker.log_tail(1).strip() == "av2t: error: the worker of the queue train was ended by signal SIGKILL"
    assert not any(map(runs, started))


def test_in_a_burst_it_ends_when_both_queues_are_empty(redis: Redis, start: Start) -> None:
    assert start("--burst").wait() == 0


def test_one_queue_is_worked_off_by_this_very_process(redis: Redis, start: Start) -> None:
    worker = start("--queues", "train")
    ready(worker, 1)
    assert listen(redis) == (0, 1)
    assert [each.pid for each in workers(redis, TRAIN)] == [worker.pid]
    # No training runs, so nothing holds a model.
    assert started_by(worker) == []


def test_a_queue_that_is_none() -> None:
    assert_refused(
        av2t("worker", "--queues", "train,predict"), "'predict' is no queue: there are preannotate and train"
    )
