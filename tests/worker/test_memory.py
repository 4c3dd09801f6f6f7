"""A real Redis that is full, only read, or cannot save."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from redis import Redis
from rq.job import JobStatus
from rq.suspension import resume, suspend

from av2t.stack.redis_server import redis_url as url_of_redis
from av2t.stack.redis_server import start_redis
from tests.conftest import wait_until
from tests.ports import free_port
from tests.worker.stub_worker import Start
from worker.jobs.prediction_pass import Checkpoint, Part
from worker.queue import KINDS, queue
from worker.queue.connection import SHARE, FullError, QueueError, check, connect, memory
from worker.queue.job import RESULT, KnownJob, open_queue
from worker.queue.preannotation import job_id
from worker.queue.queue import enqueue_preannotation, enqueue_training
from worker.queue.results import keep_sheet, sheet
from worker.queue.upkeep import forget_tasks
from worker.queue.views import finished_jobs, overview, workers

VERSION = "tiny-1"


@pytest.fixture
def full(redis: Redis) -> Iterator[Redis]:
    """With room for some thousand tasks, all of it taken: beside it, what a call takes for a moment is little."""
    redis.config_set("maxmemory", int(1.5 * memory(redis).used) + 20_000_000)
    try:
        with pytest.raises(FullError, match="more than 90 % of its maxmemory"):
            enqueue_preannotation(redis, 3, range(100_000), VERSION)
        # What the call itself took for a moment is free again.
        redis.config_set("maxmemory", memory(redis).used * 100 // (SHARE + 5))
        yield redis
    finally:
        redis.config_set("maxmemory", 0)


def test_a_full_redis_takes_no_more(full: Redis) -> None:
    waiting = overview(full).queued
    assert waiting > 100
    assert memory(full).used < memory(full).most
    for refused in (
        lambda: enqueue_preannotation(full, 3, [100_001], VERSION, first=True),
        lambda: enqueue_training(full, 3),
        lambda: check(full),
    ):
        with pytest.raises(FullError):
            refused()
    assert overview(full).queued == waiting
    job = KnownJob.fetch(job_id(3, 1, VERSION), connection=full, serializer="json")
    Checkpoint(job, "a").add(Part(first=0, scores=[], result="", sightings=[]))
    keep_sheet(full, job.id, b"a picture")
    assert (Checkpoint(job, "a").parts(), sheet(full, job.id)) == ([], None)
    assert forget_tasks(full, range(waiting)) == waiting
    check(full)
    assert enqueue_preannotation(full, 3, [1], VERSION) == 1


def test_workers_drain_it(redis: Redis, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "PREANNOTATION", KINDS["tests.worker.stub.predict"])
    worker = start()
    wait_until(lambda: "waits for jobs" in worker.text(), what="an idle worker")
    redis.set("hold", b"x" * 20_000_000)
    suspend(redis)  # all but the first, which may be done before it is full
    enqueue_preannotation(redis, 3, range(200), VERSION)
    redis.config_set("maxmemory", memory(redis).used * 100 // (SHARE + 5))
    try:
        with pytest.raises(FullError):
            enqueue_preannotation(redis, 3, [1000], VERSION)
        resume(redis)
        wait_until(lambda: workers(redis)[0].succeeded == 200, what="all of them")
        # What was done makes room soon.
        assert redis.ttl(f"rq:job:{job_id(3, 1, VERSION)}") <= 60
        assert "Redis cannot be used" not in worker.text()
    finally:
        redis.config_set("maxmemory", 0)


def test_one_that_is_full_to_the_brim_is_drained_too(
    redis: Redis, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis refuses whatever workers write; what is remembered of what they have done makes room."""
    monkeypatch.setattr(queue, "PREANNOTATION", KINDS["tests.worker.stub.predict"])
    start()
    enqueue_preannotation(redis, 3, range(100), VERSION)
    wait_until(lambda: overview(redis).finished == 100, what="some that are done")
    keep_sheet(redis, "a", b"a picture")
    redis.setrange("av2t:sheet:a", 2_000_000, "of some size")
    arguments = {"project": 3, "task": 1000, "model_version": VERSION}
    last = open_queue(redis).enqueue_in(timedelta(seconds=1), "tests.worker.stub.predict", kwargs=arguments)
    try:
        redis.config_set("maxmemory", memory(redis).used - 1_000_000)
        wait_until(lambda: last.get_status() == JobStatus.FINISHED, what="the last one")
    finally:
        redis.config_set("maxmemory", 0)
    assert sheet(redis, "a") is None


def test_what_is_done_takes_no_more_room_than_what_waits(
    redis: Redis, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "PREANNOTATION", KINDS["tests.worker.stub.predict"])
    enqueue_preannotation(redis, 3, [1], VERSION)
    key = f"rq:job:{job_id(3, 1, VERSION)}"
    waits = redis.memory_usage(key)
    assert start("--burst").ended() == 0
    assert redis.keys("rq:results:*") == []
    assert waits is not None
    assert (redis.memory_usage(key) or 0) < waits + 500
    assert redis.hget(key, RESULT) is not None
    [finished] = finished_jobs(redis, 1)
    assert (finished.outcome, finished.keyframes) == ("predicted", 5)


def test_a_redis_that_is_only_read_or_cannot_save_is_not_healthy(redis: Redis, tmp_path: Path) -> None:
    check(redis)
    port = free_port()
    server = start_redis(tmp_path / "replica", port, tmp_path / "redis.log")
    url = url_of_redis(tmp_path / "replica", port)
    try:
        with connect(url, timeout=5) as replica:
            check(replica)
            replica.replicaof("127.0.0.1", str(free_port()))
            with pytest.raises(QueueError, match="REDIS_URL to the server that it is a replica of"):
                check(replica)
            replica.replicaof("NO", "ONE")
            check(replica)
            replica.config_set("save", "3600 1")
            shutil.rmtree(tmp_path / "replica")
            replica.bgsave()
            wait_until(lambda: replica.info("persistence")["rdb_last_bgsave_status"] == "err", what="a failure to save")
            with pytest.raises(QueueError, match="make room on its disk"):
                check(replica)
    finally:
        server.stop(grace=0)  # it cannot save, and would not end by itself
