"""Every state that no list knows, made by hand in a real Redis."""

import time

import pytest
from redis import Redis

from tests.conftest import CutOff, fail, wait_until, work
from tests.worker.stub_worker import Start, done
from worker.queue import upkeep
from worker.queue.connection import QueueError
from worker.queue.job import open_queue
from worker.queue.preannotation import PREANNOTATE, job_id
from worker.queue.queue import enqueue_preannotation, enqueue_training
from worker.queue.training import TRAIN
from worker.queue.upkeep import forget_tasks
from worker.queue.views import failed_jobs, overview

VERSION = "tiny-1"


def ids(*tasks: int) -> list[str]:
    return [job_id(3, task, VERSION) for task in tasks]


def kept_of(redis: Redis, what: str) -> list[str]:
    """The keys that have this in their names."""
    return [key.decode() for key in redis.keys("*") if isinstance(key, bytes) and what.encode() in key]


def put_right(redis: Redis, name: str = PREANNOTATE) -> int:
    count = upkeep.repair(redis, name)
    assert upkeep.repair(redis, name) == 0
    return count


@pytest.mark.parametrize("status", ["queued", "started", "scheduled", "deferred"])
def test_a_job_in_no_list_goes_back_into_the_queue(redis: Redis, status: str) -> None:
    enqueue_preannotation(redis, 3, [1, 2, 3], VERSION)
    redis.lrem(open_queue(redis).key, 1, ids(2)[0])
    redis.hset(f"rq:job:{ids(2)[0]}", "status", status)
    assert enqueue_preannotation(redis, 3, [2], VERSION) == 0
    assert put_right(redis) == 1
    assert open_queue(redis).get_job_ids() == ids(1, 3, 2)
    assert redis.hget(f"rq:job:{ids(2)[0]}", "status") == b"queued"


def test_what_a_list_knows_stays_where_it_is(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, range(5), VERSION)
    jobs = open_queue(redis)
    redis.lmove(jobs.key, jobs.intermediate_queue_key)
    for task, registry in ((1, jobs.started_job_registry), (2, jobs.scheduled_job_registry)):
        redis.lrem(jobs.key, 1, ids(task)[0])
        redis.zadd(registry.key, {ids(task)[0] + (":execution" if task == 1 else ""): time.time() + 60})
    before = {key: redis.dump(key) for key in redis.keys("*")}
    assert put_right(redis) == 0
    assert {key: redis.dump(key) for key in redis.keys("*")} == before


def test_an_entry_without_a_job_goes(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, range(4), VERSION)
    work_to_do = open_queue(redis)
    redis.delete(*(f"rq:job:{id}" for id in ids(1, 2)))
    registries = work_to_do.scheduled_job_registry, work_to_do.failed_job_registry, work_to_do.finished_job_registry
    for registry in registries:
        redis.zadd(registry.key, {"preannotate-3-9-x": 9e9})
    assert put_right(redis) == 0
    assert work_to_do.get_job_ids() == ids(0, 3)
    assert [redis.zcard(registry.key) for registry in registries] == [0, 0, 0]
    assert overview(redis).queued == 2


def test_what_has_ended_is_listed_and_has_an_end(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1], VERSION)
    work(redis, fail)
    enqueue_preannotation(redis, 3, [2], VERSION)
    work(redis, dict)
    for task in (1, 2):
        redis.persist(f"rq:job:{ids(task)[0]}")
    redis.delete(open_queue(redis).failed_job_registry.key)
    assert failed_jobs(redis) == []
    put_right(redis)
    assert [job.task for job in failed_jobs(redis)] == [1]
    assert all(redis.ttl(f"rq:job:{ids(task)[0]}") > 0 for task in (1, 2))


def test_what_is_left_of_a_job_goes_or_gets_an_end(redis: Redis) -> None:
    redis.hset("rq:job:preannotate-3-7-tiny-1", "last_heartbeat", "2026-01-01T00:00:00.000000Z")
    redis.hset("rq:job:somebody-elses", "last_heartbeat", "2026-01-01T00:00:00.000000Z")
    redis.rpush("av2t:kept:preannotate-3-8-tiny-1", "identity")
    put_right(redis)
    assert not redis.exists("rq:job:preannotate-3-7-tiny-1")
    assert redis.exists("rq:job:somebody-elses")
    assert redis.ttl("av2t:kept:preannotate-3-8-tiny-1") > 0


def test_trainings_too_and_nobody_elses_jobs(redis: Redis) -> None:
    id, _ = enqueue_training(redis, 3)
    redis.delete(open_queue(redis, TRAIN).key)
    other = open_queue(redis, "somebody-elses").enqueue("os.getcwd")
    redis.delete("rq:queue:somebody-elses")
    assert put_right(redis) == 0
    assert put_right(redis, TRAIN) == 1
    assert open_queue(redis, TRAIN).get_job_ids() == [id]
    assert not redis.exists("rq:queue:somebody-elses")
    assert redis.exists(other.key)


def test_a_worker_repairs_beside_its_jobs(redis: Redis, start: Start) -> None:
    jobs = open_queue(redis)
    lost = jobs.enqueue("tests.worker.stub.note", kwargs={"name": "lost"})
    redis.delete(jobs.key)
    start()
    wait_until(lambda: done(redis), what="the job that no list knew")
    assert lost.get_status() is not None


def test_many_jobs_of_deleted_tasks_go_in_steps(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "DROP_AT_ONCE", 100)
    enqueue_preannotation(redis, 3, range(1050), VERSION)
    gone = [task for task in range(1050) if task % 3 == 0 or 300 < task < 620]
    for task in gone[:5]:
        redis.rpush(f"av2t:kept:{ids(task)[0]}", "x")
    assert forget_tasks(redis, gone) == len(gone)
    left = [task for task in range(1050) if task not in set(gone)]
    assert open_queue(redis).get_job_ids() == ids(*left)
    assert len(redis.keys("rq:job:*")) == len(left)
    assert not any(kept_of(redis, f"-3-{task}-") for task in gone[:5])
    assert enqueue_preannotation(redis, 3, gone[:10], VERSION) == 10
    assert forget_tasks(redis, []) == 0


def test_a_call_that_is_cut_off_leaves_no_job_without_a_list(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "DROP_AT_ONCE", 10)
    with CutOff.from_url(redis_url) as broken:
        for commands in range(6):
            enqueue_preannotation(redis, 3, range(60), VERSION)
            broken.left = commands
            with pytest.raises(QueueError):
                forget_tasks(broken, range(0, 60, 2))
            assert sorted(kept_of(redis, "rq:job:")) == sorted(f"rq:job:{id}" for id in open_queue(redis).get_job_ids())
