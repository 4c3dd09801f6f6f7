"""What others may have written to Redis: nothing of it runs, and nothing of it stops workers or pages."""

import json
import zlib
from pathlib import Path

import pytest
from redis import Redis
from rq import Callback, Queue, Retry
from rq.job import Job, JobStatus
from rq.webhook import Webhook

from tests.conftest import wait_until
from tests.worker.stub_worker import Start, done, names
from worker.queue.job import open_queue
from worker.queue.preannotation import PREANNOTATE, job_id
from worker.queue.queue import enqueue_preannotation, is_training, retry_failed, retry_job, stop_job, stop_jobs
from worker.queue.results import TOTALS, count_task, note_score, scores_of, totals
from worker.queue.training import TRAIN
from worker.queue.upkeep import forget_tasks
from worker.queue.views import failed_jobs, finished_jobs, oldest_waiting, overview, trainings, workers

CALLED = "tests.worker.stub.called"


@pytest.fixture
def queue(redis: Redis) -> Queue:
    return open_queue(redis)


def own(queue: Queue, name: str = "own") -> Job:
    return queue.enqueue("tests.worker.stub.note", kwargs={"name": name})


def test_no_other_function_is_run(redis: Redis, queue: Queue, start: Start, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    foreign = queue.enqueue("subprocess.getoutput", args=(f"touch {sign}",), retry=Retry(max=3))
    mine = own(queue)
    worker = start("--burst")
    assert worker.ended() == 0
    assert not sign.exists()
    assert mine.get_status() == JobStatus.FINISHED
    assert foreign.get_status() == JobStatus.FAILED
    [failed] = failed_jobs(redis)
    assert (failed.id, failed.project, failed.task) == (foreign.id, None, None)
    assert failed.error == "This is not a job of AV2T: it names the function 'subprocess.getoutput'."
    assert failed.failed_at is not None
    assert overview(redis).failed == 1
    assert redis.ttl(foreign.key) > 0
    assert [line for line in worker.text().splitlines() if failed.error in line]
    assert "Traceback" not in worker.text()
    assert not retry_job(redis, foreign.id)
    assert retry_failed(redis) == 0


def test_arguments_have_their_types(redis: Redis, queue: Queue, start: Start) -> None:
    given: list[tuple[dict[str, object], str]] = [
        ({"name": 5}, "its name is 5"),
        ({}, "its name is {}"),
        ({"name": "a", "more": 1}, "its more is 1"),
    ]
    jobs = [queue.enqueue("tests.worker.stub.note", kwargs=kwargs) for kwargs, _ in given]
    assert start("--burst").ended() == 0
    errors = {failed.id: failed.error for failed in failed_jobs(redis)}
    assert all(words in errors[job.id] for job, (_, words) in zip(jobs, given, strict=True))
    assert done(redis) == []
    assert redis.llen("loaded") == 1


def test_a_function_runs_in_its_own_queue_alone(redis: Redis, start: Start) -> None:
    arguments: dict[str, object] = {"project": 3, "base_version": None, "epochs": None, "also": []}
    open_queue(redis).enqueue("tests.worker.stub.train", kwargs=arguments)
    assert start("--burst").ended() == 0
    [failed] = failed_jobs(redis)
    assert "tests.worker.stub.train" in failed.error


def test_nothing_is_called_back(redis: Redis, queue: Queue, start: Start) -> None:
    callbacks = {name: Callback(CALLED) for name in ("on_success", "on_failure", "on_stopped")}
    webhooks = [Webhook("http://127.0.0.1:9/", status) for status in ("finished", "failed")]
    well = queue.enqueue("tests.worker.stub.note", kwargs={"name": "a"}, webhooks=webhooks, **callbacks)
    badly = queue.enqueue("tests.worker.stub.refuse", webhooks=webhooks, **callbacks)
    worker = start()
    wait_until(lambda: badly.get_status() == JobStatus.FAILED, what="both jobs")
    stopped = queue.enqueue("tests.worker.stub.hold", kwargs={"name": "b"}, **callbacks)
    wait_until(lambda: done(redis, "begun"), what="the job")
    assert stop_job(redis, stopped.id)
    wait_until(lambda: stopped.get_status() == JobStatus.STOPPED, what="its end")
    assert well.get_status() == JobStatus.FINISHED
    assert done(redis, "called") == []
    assert "webhook" not in worker.text()


def test_what_a_lost_worker_left_calls_nothing_back(redis: Redis, queue: Queue, start: Start) -> None:
    job = queue.create_job("tests.worker.stub.note", kwargs={"name": "a"}, on_failure=Callback(CALLED))
    job.save()
    job.set_status(JobStatus.STARTED)
    redis.zadd(queue.started_job_registry.key, {f"{job.id}:execution": 1})
    start("--burst").ended()
    assert job.get_status() == JobStatus.FAILED
    assert done(redis, "called") == []


def test_nothing_comes_after_a_job(redis: Redis, queue: Queue, start: Start) -> None:
    first = own(queue)
    redis.sadd(first.dependents_key, "no id: at all", "missing")
    start("--burst").ended()
    assert first.get_status() == JobStatus.FINISHED


GARBAGE: dict[str, str | bytes] = {
    "timeout": "1" + 30 * "0",
    "result_ttl": "-1",
    "status": "eaten",
    "created_at": "yesterday",
    "retries_left": "many",
    "retry_intervals": "[" * 10_000,
    "meta": "[1, 2]",
    "data": zlib.compress(b'["tests.worker.stub.note", null, [], {"name": "a"}]' + 10_000_000 * b" "),
    "origin": b"\xff\xfe",
}


def test_a_bad_field_fails_its_job_alone(redis: Redis, queue: Queue, start: Start) -> None:
    bad = {field: own(queue, field) for field in GARBAGE}
    for field, job in bad.items():
        redis.hset(job.key, field, GARBAGE[field])
    mine = own(queue)
    look(redis)
    worker = start("--burst")
    assert worker.ended() == 0
    assert mine.get_status() == JobStatus.FINISHED
    look(redis)
    # Of its meta, what is wrong does not count.
    assert {failed.id for failed in failed_jobs(redis)} == {job.id for job in bad.values()} - {bad["meta"].id}
    assert names(done(redis)) == ["meta", "own"]
    assert "Traceback" not in worker.text()


def test_garbage_in_every_list_stops_nobody(redis: Redis, queue: Queue, start: Start) -> None:
    garbage: list[str | bytes] = [b"\xff", "no id: at all", "missing", "../../x", "", "x" * 10_000, "list"]
    redis.rpush("rq:job:list", 1)
    jobs = open_queue(redis, TRAIN)
    enqueue_preannotation(redis, 3, [7], "tiny-1")
    mine = own(queue)
    for each in (queue, jobs):
        redis.lpush(each.key, *garbage)
        redis.rpush(each.intermediate_queue_key, *garbage)
        for registry in (
            each.started_job_registry,
            each.scheduled_job_registry,
            each.finished_job_registry,
            each.failed_job_registry,
        ):
            redis.zadd(registry.key, {each: 5 for each in garbage})  # type: ignore[type-var]
        redis.sadd(f"rq:workers:{each.name}", *garbage, "rq:worker:one", "rq:job:list")
    redis.hset("rq:worker:one", mapping={"pid": "p", "last_heartbeat": "never", "state": b"\xff"})
    redis.hset("rq:job:hash", mapping={"status": "queued"})
    redis.rpush(queue.key, "hash")
    look(redis)
    for id in ("list", "hash", "no id: at all", "", "missing"):
        assert not retry_job(redis, id)
        stop_job(redis, id)
    assert forget_tasks(redis, [7]) == 1
    worker = start("--burst")
    assert worker.ended() == 0
    trainer = start("--burst", "--train")
    assert trainer.ended() == 0
    assert mine.get_status() == JobStatus.FINISHED
    assert "Traceback" not in worker.text() + trainer.text()
    assert redis.llen(queue.intermediate_queue_key) == redis.llen(jobs.intermediate_queue_key) == 0
    look(redis)
    assert stop_jobs(redis) == stop_jobs(redis, queue=TRAIN) == 0


def test_garbage_on_its_channel_stops_no_worker(redis: Redis, queue: Queue, start: Start) -> None:
    job = queue.enqueue("tests.worker.stub.hold", kwargs={"name": "a"})
    start()
    wait_until(lambda: done(redis, "begun"), what="the job")
    [listening] = workers(redis)
    for said in (b"\xff", "[]", "{}", '{"command": 5}', '{"command": "stop-job", "job_id": {}}'):
        assert redis.publish(f"rq:pubsub:{listening.name}", said) == 1
    for command in ("shutdown", "kill-horse"):
        assert redis.publish(f"rq:pubsub:{listening.name}", json.dumps({"command": command})) == 1
    assert stop_job(redis, job.id)
    wait_until(lambda: job.get_status() == JobStatus.STOPPED, what="the end of the job")
    assert workers(redis)
    assert len(done(redis, "begun")) == 1


def test_what_a_job_tells_is_typed(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1], "tiny-1")
    jobs = open_queue(redis, TRAIN)
    job = jobs.enqueue("worker.finetuning.finetune", kwargs={"project": 3}, job_id="train-3-1")
    told = {"stage": "training", "eta": "soon", "loss": [], "epoch": {}, "total": "<b>", "done": -1, "error": 5}
    redis.hset(job.key, mapping={"meta": json.dumps(told), "status": "started"})
    redis.zadd(jobs.started_job_registry.key, {f"{job.id}:x": 9e9})
    [training] = trainings(redis)
    assert training.told == "training"
    assert is_training(redis, 3)


@pytest.mark.parametrize("fields", [{}, {"type": "9"}, {"type": "1", "return_value": "?"}, {"return_value": "e30="}])
def test_a_garbled_result_is_none(redis: Redis, fields: dict[str, str]) -> None:
    enqueue_preannotation(redis, 3, [1], "tiny-1")
    id = job_id(3, 1, "tiny-1")
    redis.zadd(open_queue(redis).finished_job_registry.key, {id: 9e9})
    redis.xadd(f"rq:results:{id}", {"x": "y"} | fields)  # type: ignore[arg-type]
    [finished] = finished_jobs(redis, 5)
    assert (finished.outcome, finished.keyframes, finished.remarks) == ("done", 0, ())
    redis.zadd(open_queue(redis).failed_job_registry.key, {id: 9e9})
    assert "Unknown" in failed_jobs(redis)[0].error


def test_a_number_that_is_none_does_not_count(redis: Redis) -> None:
    count_task(redis, "predicted", 5, {"fetch": 1.5})
    redis.hset(TOTALS, mapping={"keyframes": "many", b"\xff": 1})
    counted = totals(redis)
    assert (counted.keyframes, counted.outcomes, counted.seconds["fetch"]) == (0.0, {"predicted": 1.0}, 1.5)
    note_score(redis, 3, 1, 0.5)
    redis.hset("av2t:scores:3", "2", "high")
    assert scores_of(redis, 3, [1, 2, 3]) == {1: 0.5}


def look(redis: Redis) -> None:
    """All that the page and the commands look at."""
    for project in (None, 3):
        overview(redis, project)
        failed_jobs(redis, project)
        trainings(redis, project)
        is_training(redis, project)
    finished_jobs(redis, 20)
    oldest_waiting(redis)
    for name in (PREANNOTATE, TRAIN):
        overview(redis, queue=name)
        workers(redis, name)
