"""Trainings in their queue and in real workers, with a stand-in for the training itself."""

import json
import signal
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import psutil
import pytest
from redis import Redis
from rq import Queue
from rq.job import Job

from tests.conftest import wait_until
from tests.worker.stub_worker import Start, done, names
from worker.queue import KINDS
from worker.queue.job import PROTOCOL, KnownJob, open_queue
from worker.queue.kind import State
from worker.queue.queue import (
    STOPPED,
    enqueue_preannotation,
    enqueue_training,
    is_training,
    retry_job,
    stop_job,
    stop_jobs,
)
from worker.queue.training import TRAIN, Training, duration
from worker.queue.views import overview, training, trainings, workers


@pytest.fixture
def queue(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """Trainings that are enqueued in this process are the stand-in's."""
    monkeypatch.setattr("worker.queue.queue.TRAINING", KINDS["tests.worker.stub.train"])
    return open_queue(redis, TRAIN)


def state(redis: Redis, job: str) -> Training:
    found = training(redis, job)
    assert found is not None
    return found


def becomes(redis: Redis, job: str, wanted: State) -> Training:
    wait_until(lambda: state(redis, job).state is wanted, what=f"{job} {wanted}")
    return state(redis, job)


def runs(redis: Redis, job: str) -> Training:
    """As it is once it is in the middle."""
    wait_until(lambda: state(redis, job).stage, what=f"{job} in the middle")
    return becomes(redis, job, State.RUNNING)


def model_processes(worker: int) -> list[psutil.Process]:
    """Those that the worker has started and that still run."""
    children = psutil.Process(worker).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def runs_still(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


# In the queue


def test_asking_twice_is_asking_once(redis: Redis) -> None:
    assert enqueue_training(redis, 3) == ("train-3-1", True)
    assert enqueue_training(redis, 3, epochs=5) == ("train-3-1", False)
    assert enqueue_training(redis, 33) == ("train-33-2", True)
    assert open_queue(redis, TRAIN).get_job_ids() == ["train-3-1", "train-33-2"]
    # Nobody takes them for tasks.
    assert (overview(redis).queued, stop_jobs(redis)) == (0, 0)


def test_a_training_is_plain_json(redis: Redis) -> None:
    id, _ = enqueue_training(redis, 3, base_version="tiny-1.2", epochs=5, also=["mask-decoder"])
    job = Job.fetch(id, connection=redis, serializer="json")
    data = redis.hget(job.key, "data")
    assert isinstance(data, bytes)
    asked = {"project": 3, "base_version": "tiny-1.2", "epochs": 5, "also": ["mask-decoder"]}
    assert json.loads(zlib.decompress(data)) == ["worker.finetuning.finetune", None, [], asked]
    assert job.meta == {"protocol": PROTOCOL}
    assert job.result_ttl == job.failure_ttl == 30 * 24 * 3600


def test_callers_at_the_same_moment(redis: Redis, redis_url: str) -> None:
    script = (
        "import sys; from worker.queue.connection import connect; from worker.queue.queue import enqueue_training\n"
        "print([*enqueue_training(connect(sys.argv[1], timeout=30), 3)])"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, redis_url], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    with ThreadPoolExecutor(8) as pool:
        told = [str([*answer]) for answer in pool.map(partial(enqueue_training, redis), [3] * 50)]
    told += [process.communicate()[0].strip() for process in processes]
    assert sorted(told) == ["['train-3-1', False]"] * 51 + ["['train-3-1', True]"]


def test_what_will_be_tried_again_waits_too(redis: Redis) -> None:
    id, _ = enqueue_training(redis, 3)
    queue = open_queue(redis, TRAIN)
    job = KnownJob.fetch(id, connection=redis, serializer="json")
    queue.remove(job)
    queue.schedule_job(job, datetime.now(UTC) + timedelta(minutes=1))
    job.note(error="Label Studio answers 502.")
    assert enqueue_training(redis, 3) == (id, False)
    assert is_training(redis, 3)
    assert state(redis, id).told == "Label Studio answers 502. It will be tried again."
    assert stop_jobs(redis, 3, queue=TRAIN) == 1
    assert not is_training(redis, 3)
    assert enqueue_training(redis, 3) == ("train-3-2", True)


def test_one_that_was_popped_and_not_begun_waits(redis: Redis) -> None:
    id, _ = enqueue_training(redis, 3)
    queue = open_queue(redis, TRAIN)
    redis.lmove(queue.key, queue.intermediate_queue_key, "LEFT", "RIGHT")
    assert enqueue_training(redis, 3) == (id, False)
    assert is_training(redis, 3)
    assert [each.job for each in trainings(redis)] == [id]


def test_stopping_what_waits(redis: Redis) -> None:
    ids = [enqueue_training(redis, project)[0] for project in (3, 4, 5)]
    assert stop_job(redis, ids[0])
    assert stop_jobs(redis, 4, queue=TRAIN) == 1
    assert stop_jobs(redis, 99, queue=TRAIN) == 0
    assert stop_jobs(redis, queue=TRAIN) == 1
    for id in ids:
        stopped = state(redis, id)
        assert (stopped.state, stopped.error, stopped.told) == (State.FAILED, STOPPED, STOPPED)
        assert stopped.ended_at
    # A task's button is not for trainings: those are asked for anew.
    assert not retry_job(redis, ids[0])


def test_all_of_them_or_a_projects_own_the_newest_first(redis: Redis) -> None:
    for project in range(1, 12):
        enqueue_training(redis, project)
    assert [each.project for each in trainings(redis, limit=3)] == [11, 10, 9]
    assert [each.project for each in trainings(redis, 1)] == [1]
    assert trainings(redis, 99) == []


def test_what_is_no_training(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1], "tiny-1")
    assert training(redis, "train-3-1") is None
    assert training(redis, "preannotate-3-1-tiny-1") is None


def test_durations() -> None:
    said = [duration(seconds) for seconds in (0.4, 59.4, 60, 3599, 7500)]
    assert said == [
        "0 s",
        "59 s",
        "1 min",
        "59 min",
        "2 h 5 min",
    ]


# In a worker


def test_a_training_tells_how_far_it_is_and_leaves_no_process(redis: Redis, queue: Queue, start: Start) -> None:
    id, _ = enqueue_training(redis, 3, epochs=9)
    worker = start("--train")
    running = runs(redis, id)
    assert running.told == "training, 3 of 10, epoch 1 of 5, loss 0.250, 40 s left"
    assert (running.done, running.total, running.epoch, running.epochs, running.loss) == (3, 10, 1, 5, 0.25)
    assert [each.name for each in workers(redis, TRAIN)] == [running.worker]
    assert workers(redis) == ()
    assert len(model_processes(worker.popen.pid)) == 1
    # One more is remembered, and only one.
    assert enqueue_training(redis, 3) == ("train-3-2", True)
    assert enqueue_training(redis, 3) == ("train-3-2", False)
    redis.set("release", 1)
    ended = becomes(redis, id, State.DONE)
    assert ended.result == {
        "version": "tiny-1-p3-1",
        "promoted": True,
        "sentence": "It is better.",
        "metrics": {"iou": 0.5},
    }
    assert ended.told == "It is better."
    becomes(redis, "train-3-2", State.DONE)
    # Its memory is for others, until the next one begins.
    wait_until(lambda: not model_processes(worker.popen.pid), what="the end of the model's process")
    assert redis.llen("loaded") == 2
    assert not is_training(redis)
    assert worker.popen.poll() is None


def test_a_training_whose_process_is_killed_is_tried_again(redis: Redis, queue: Queue, start: Start) -> None:
    id, _ = enqueue_training(redis, 3)
    worker = start("--train")
    runs(redis, id)
    wait_until(lambda: done(redis, "begun"), what="the training")
    worker.model.kill()
    wait_until(lambda: len(done(redis, "begun")) == 2, what="the second try")
    redis.set("release", 1)
    becomes(redis, id, State.DONE)


def test_a_training_whose_worker_is_killed_goes_to_another(redis: Redis, queue: Queue, start: Start) -> None:
    id, _ = enqueue_training(redis, 3)
    first = start("--train")
    wait_until(lambda: done(redis, "begun"), what="the training")
    model = first.model
    first.popen.send_signal(signal.SIGKILL)
    wait_until(lambda: not runs_still(model), what="the end of the model's process")
    redis.set("release", 1)
    start("--train")
    ended = becomes(redis, id, State.DONE)
    assert ended.error is None
    assert names(done(redis)) == ["3"]


def test_a_project_is_trained_once_at_a_time(redis: Redis, queue: Queue, start: Start) -> None:
    first, _ = enqueue_training(redis, 3)
    both = [start("--train"), start("--train")]
    runs(redis, first)
    second, _ = enqueue_training(redis, 3)
    other, _ = enqueue_training(redis, 4)
    runs(redis, other)
    # The other worker came to it before, and comes again and again, but says so once.
    waits = f"job {second} waits until its project's other one has ended"
    assert "".join(worker.text() for worker in both).count(waits) == 1
    assert state(redis, second).state is State.WAITING
    redis.set("release", 1)
    for id in (first, other, second):
        becomes(redis, id, State.DONE)
    assert names(done(redis, "begun")) == ["3", "4", "3"]


def test_one_that_is_left_to_others_is_not_counted(redis: Redis, queue: Queue, start: Start) -> None:
    """By `--max-jobs`."""
    first, _ = enqueue_training(redis, 3)
    other = start("--train")
    runs(redis, first)
    second, _ = enqueue_training(redis, 3)
    worker = start("--train", "--one")
    wait_until(lambda: "waits until its project's other one" in worker.text(), what="a look at it")
    redis.set("release", 1)
    becomes(redis, second, State.DONE)
    assert worker.popen.poll() in (None, 0)
    other.popen.terminate()  # else it may be quick enough to take all that comes
    assert other.ended() == 0
    enqueue_training(redis, 4)
    assert worker.ended() == 0


@pytest.mark.parametrize("slow", [False, True])
def test_a_person_can_stop_one(redis: Redis, queue: Queue, start: Start, slow: bool) -> None:
    """Also while its process still starts."""
    if slow:
        redis.set("slow", 1)
    id, _ = enqueue_training(redis, 3)
    worker = start("--train")
    if slow:
        wait_until(lambda: redis.llen("loaded"), what="the process")
        assert becomes(redis, id, State.RUNNING).told == "starting"
    else:
        wait_until(lambda: done(redis, "begun"), what="the training")
    assert stop_job(redis, id)
    stopped = becomes(redis, id, State.FAILED)
    assert stopped.told == STOPPED
    assert not model_processes(worker.popen.pid)
    redis.delete("slow")
    redis.set("release", 1)
    # The project is free at once, and what was stopped does not come back.
    again, _ = enqueue_training(redis, 3)
    becomes(redis, again, State.DONE)
    assert state(redis, id).state is State.FAILED
    assert len(done(redis)) == 1


def test_sigterm_puts_it_back_at_the_front(redis: Redis, queue: Queue, start: Start) -> None:
    id, _ = enqueue_training(redis, 3)
    worker = start("--train")
    wait_until(lambda: done(redis, "begun"), what="the training")
    later, _ = enqueue_training(redis, 4)
    worker.popen.send_signal(signal.SIGTERM)
    assert worker.ended() == 0
    assert done(redis, "stopped") == ["3"]
    assert queue.get_job_ids() == [id, later]
    assert state(redis, id).state is State.WAITING
    redis.set("release", 1)
    assert start("--train", "--burst").ended() == 0
    assert names(done(redis)) == ["3", "4"]


def test_a_set_up_that_refuses_fails_the_training_and_the_worker_goes_on(
    redis: Redis, queue: Queue, start: Start
) -> None:
    redis.set("refuse", 1)
    id, _ = enqueue_training(redis, 3)
    worker = start("--train")
    assert becomes(redis, id, State.FAILED).told == "The model is not there."
    redis.delete("refuse")
    redis.set("release", 1)
    id, _ = enqueue_training(redis, 3)
    becomes(redis, id, State.DONE)
    assert worker.popen.poll() is None


def test_a_process_that_dies_while_it_starts_is_started_again(redis: Redis, queue: Queue, start: Start) -> None:
    redis.set("slow", 1)
    id, _ = enqueue_training(redis, 3)
    worker = start("--train")
    wait_until(lambda: redis.llen("loaded"), what="the process")
    worker.model.kill()
    wait_until(lambda: redis.llen("loaded") == 2, what="the next one")
    redis.set("release", 1)
    redis.delete("slow")
    becomes(redis, id, State.DONE)


def test_both_queues_have_workers_of_their_own(redis: Redis, queue: Queue, start: Start) -> None:
    trained, _ = enqueue_training(redis, 3)
    task = open_queue(redis).enqueue("tests.worker.stub.note", kwargs={"name": "task"})
    start("--burst").ended()
    assert names(done(redis)) == ["task"]
    assert task.is_finished
    assert state(redis, trained).state is State.WAITING
    redis.set("release", 1)
    start("--train", "--burst").ended()
    assert state(redis, trained).state is State.DONE
