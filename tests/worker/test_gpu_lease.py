"""A GPU that a training and pre-annotation share, with real workers and a real Redis. There is no GPU here: its number
and how much of it is free are stand-ins, and what asks CUDA for them (`Gpu`) is not tested.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from redis import Redis

from av2t_core.errors import MemoryShortError
from tests.conftest import wait_until
from tests.worker.stub_worker import Process, Start, done, names
from worker.process import memory
from worker.process.memory import Gpu, gpu_lease, gpu_of, lease_key
from worker.queue import KINDS
from worker.queue.job import open_queue
from worker.queue.kind import State
from worker.queue.queue import enqueue_training
from worker.queue.views import training, workers


@pytest.fixture
def annotator(redis: Redis, start: Start, monkeypatch: pytest.MonkeyPatch) -> Process:
    """A worker that pre-annotates with a model on a GPU, which has no room for a training beside it."""
    monkeypatch.setattr("worker.queue.queue.TRAINING", KINDS["tests.worker.stub.train_on_gpu"])
    redis.set("gpu", "GPU-1")
    process = start()
    wait_until(lambda: "waits for jobs" in process.text(), what="the worker")
    return process


def state(redis: Redis, job: str) -> State | None:
    found = training(redis, job)
    return found.state if found else None


def test_a_training_has_the_gpu_for_itself_and_gives_it_back(redis: Redis, annotator: Process, start: Start) -> None:
    first = open_queue(redis).enqueue("tests.worker.stub.hold", kwargs={"name": "first"})
    wait_until(lambda: done(redis, "begun"), what="a task in hand")
    model = annotator.model
    id, _ = enqueue_training(redis, 3)
    start("--train")
    wait_until(lambda: redis.exists(lease_key("GPU-1")), what="the training at the GPU")
    # The task in hand is ended first.
    assert names(done(redis, "begun")) == ["first"]
    assert model.is_running()
    redis.set("release", 1)
    wait_until(lambda: first.is_finished, what="the task")
    redis.delete("release")
    wait_until(lambda: names(done(redis, "begun")) == ["first", "3"], what="the training")
    assert not model.is_running()
    assert "puts its model down: a training needs its GPU" in annotator.text()

    # The worker waits, and says that it lives.
    second = open_queue(redis).enqueue("tests.worker.stub.note", kwargs={"name": "second"})
    [before] = workers(redis)
    wait_until(lambda: workers(redis)[0].last_seen != before.last_seen, what="a heartbeat")
    assert second.is_queued
    redis.set("release", 1)
    wait_until(lambda: second.is_finished, what="the second task")
    assert names(done(redis)) == ["first", "3", "second"]
    assert state(redis, id) is State.DONE
    assert not redis.exists(lease_key("GPU-1"))


def test_the_gpu_of_a_training_that_died_is_free_again(redis: Redis, annotator: Process, start: Start) -> None:
    enqueue_training(redis, 3)
    trainer = start("--train")
    wait_until(lambda: done(redis, "begun"), what="the training")
    trainer.popen.send_signal(signal.SIGKILL)
    task = open_queue(redis).enqueue("tests.worker.stub.note", kwargs={"name": "task"})
    wait_until(lambda: task.is_finished, what="the task")


def test_a_worker_that_waits_for_its_gpu_ends_when_it_is_told_to(redis: Redis, annotator: Process) -> None:
    redis.set(lease_key("GPU-1"), "somebody")
    wait_until(lambda: "puts its model down" in annotator.text(), what="the wait")
    annotator.popen.send_signal(signal.SIGTERM)
    assert annotator.ended() == 0


def test_another_gpu_is_another_matter(redis: Redis, annotator: Process) -> None:
    redis.set(lease_key("GPU-2"), "somebody")
    task = open_queue(redis).enqueue("tests.worker.stub.note", kwargs={"name": "task"})
    wait_until(lambda: task.is_finished, what="the task")


@dataclass(frozen=True)
class Memory(Gpu):
    """A GPU of which so many bytes are free."""

    amount: int

    def free(self) -> int:
        return self.amount


@contextmanager
def held(redis: Redis, device: Memory | None) -> Iterator[bool]:
    with gpu_lease(redis, device, needed=50):
        yield bool(redis.exists(lease_key("GPU-1")))


def test_it_is_taken_only_where_there_is_no_room_for_both(redis: Redis) -> None:
    with held(redis, Memory("GPU-1", 0, amount=50)) as taken:
        assert not taken
    with held(redis, None) as taken:
        assert not taken


def test_where_nobody_makes_room_the_training_is_put_off(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PATIENCE", 0)
    full = Memory("GPU-1", 0, amount=0)
    with pytest.raises(MemoryShortError, match=r"GPU-1 is free by 0\.0 GB and 0\.0 are needed"), held(redis, full):
        pass
    assert not redis.exists(lease_key("GPU-1"))


def test_a_cpu_is_no_gpu() -> None:
    assert gpu_of("cpu") is None
