"""The queue on a real Redis, with RQ's own workers."""

import json
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event, Thread

import pytest
from redis import Redis
from rq import SimpleWorker
from rq.executions import Execution
from rq.job import Job
from rq.results import Result

from tests.conftest import fail, work
from worker.queue import queue
from worker.queue.connection import QueueError, connect
from worker.queue.job import PROTOCOL, KnownJob, open_queue
from worker.queue.preannotation import job_id
from worker.queue.queue import enqueue_preannotation, retry_failed
from worker.queue.upkeep import forget_tasks
from worker.queue.views import PAGE, failed_jobs, overview

VERSION = "tiny-1.2"


def waiting(redis: Redis) -> list[str]:
    return list(open_queue(redis).get_job_ids())


def start(redis: Redis, job: Job) -> None:
    """What a worker writes when it begins a job."""
    with redis.pipeline() as pipe:
        Execution.create(job, ttl=60, pipeline=pipe)
        job.prepare_for_execution("worker-1", pipeline=pipe)
        pipe.execute()


def fetch(redis: Redis, task: int, project: int = 3) -> KnownJob:
    job: KnownJob = KnownJob.fetch(job_id(project, task, VERSION), connection=redis, serializer="json")
    return job


def test_id_has_only_characters_that_rq_allows() -> None:
    assert job_id(3, 14, "tiny-1.2") == "preannotate-3-14-tiny-1_2"


def test_enqueuing_twice_is_enqueuing_once(redis: Redis) -> None:
    assert enqueue_preannotation(redis, 3, range(1, 501), VERSION) == 500
    assert enqueue_preannotation(redis, 3, range(1, 501), VERSION) == 0
    assert waiting(redis) == [job_id(3, task, VERSION) for task in range(1, 501)]


def test_identity_is_project_task_and_version(redis: Redis) -> None:
    assert enqueue_preannotation(redis, 3, [1, 1], VERSION) == 1
    assert enqueue_preannotation(redis, 4, [1], VERSION) == 1
    assert enqueue_preannotation(redis, 3, [1], "tiny-2") == 1


def test_no_tasks(redis: Redis) -> None:
    assert enqueue_preannotation(redis, 3, [], VERSION) == 0


def test_what_a_person_waits_for_comes_first(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1, 2, 3], VERSION)
    assert enqueue_preannotation(redis, 3, [9], VERSION, first=True) == 1
    assert enqueue_preannotation(redis, 3, [3], VERSION, first=True) == 0
    assert waiting(redis) == [job_id(3, task, VERSION) for task in (3, 9, 1, 2)]


def test_stopping_what_waits(redis: Redis) -> None:
    for project in (3, 4):
        enqueue_preannotation(redis, project, [10 * project, 10 * project + 1], VERSION)
    assert queue.stop_jobs(redis, task=31) == 1
    assert queue.stop_jobs(redis, project=4) == 2
    assert waiting(redis) == [job_id(3, 30, VERSION)]
    assert {(job.task, job.error) for job in failed_jobs(redis)} == {(t, queue.STOPPED) for t in (31, 40, 41)}
    assert queue.stop_jobs(redis) == 1
    assert queue.stop_jobs(redis) == 0
    assert all(redis.ttl(key) > 0 for key in redis.keys("rq:job:*"))
    assert retry_failed(redis) == 4
    assert all(redis.ttl(key) == -1 for key in redis.keys("rq:job:*"))


def test_job_is_plain_json(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [14], VERSION)
    data = redis.hget("rq:job:preannotate-3-14-tiny-1_2", "data")
    assert isinstance(data, bytes)
    arguments = {"project": 3, "task": 14, "model_version": VERSION}
    assert json.loads(zlib.decompress(data)) == ["worker.jobs.preannotate", None, [], arguments]
    assert fetch(redis, 14).description == "pre-annotate task 14 of project 3 with tiny-1.2"
    assert fetch(redis, 14).meta == {"protocol": PROTOCOL}


def test_callers_at_the_same_moment(redis: Redis, redis_url: str) -> None:
    """Four processes and four threads enqueue the same tasks: each task gets one job, and one caller is told so."""
    script = (
        "import sys; from worker.queue.connection import connect\n"
        "from worker.queue.queue import enqueue_preannotation\n"
        "print(enqueue_preannotation(connect(sys.argv[1], timeout=30), 3, range(200), sys.argv[2]))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, redis_url, VERSION], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    with ThreadPoolExecutor(4) as pool:
        threads = pool.map(lambda _: enqueue_preannotation(redis, 3, range(200), VERSION), range(4))
        new = [*threads, *(int(process.communicate()[0]) for process in processes)]
    assert sum(new) == 200
    assert sorted(waiting(redis)) == sorted(job_id(3, task, VERSION) for task in range(200))


def test_running_job_is_not_enqueued_again(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1], VERSION)
    taken = open_queue(redis).dequeue_any([open_queue(redis)], None, redis)
    assert taken is not None
    start(redis, taken[0])
    assert enqueue_preannotation(redis, 3, [1], VERSION) == 0
    assert waiting(redis) == []


def test_finished_job_is_enqueued_anew(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1], VERSION)
    work(redis, dict)
    assert overview(redis).finished == 1
    assert enqueue_preannotation(redis, 3, [1], VERSION) == 1
    state = overview(redis)
    assert (state.queued, state.finished) == (1, 0)
    # The finished job's hash had a time to live, which the new one must not inherit.
    assert redis.ttl(fetch(redis, 1).key) == -1
    work(redis, dict)
    assert overview(redis).finished == 1


def test_failed_job_waits_for_retry(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1], VERSION)
    enqueue_preannotation(redis, 4, [2], VERSION)
    work(redis, fail)
    assert fetch(redis, 1).retries_left == 0
    assert enqueue_preannotation(redis, 3, [1], VERSION) == 0

    assert retry_failed(redis, project=3) == 1
    assert retry_failed(redis, project=3) == 0
    assert waiting(redis) == [job_id(3, 1, VERSION)]
    assert fetch(redis, 1).retries_left == queue.RETRIES
    assert [job.project for job in failed_jobs(redis)] == [4]
    assert retry_failed(redis) == 1
    work(redis, dict)
    state = overview(redis)
    assert (state.queued, state.finished, state.failed) == (0, 2, 0)


def test_reason_of_a_failure(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1, 2, 3], VERSION)
    work(redis, fail)
    said = fetch(redis, 1)
    said.note(error="clip.mp4 has no video stream")
    abandoned = fetch(redis, 2)
    Result.create_failure(abandoned, 60, exc_string="Moved to FailedJobRegistry, due to AbandonedJobError, at now")
    reasons = {job.task: job.error for job in failed_jobs(redis)}
    assert reasons[1] == "clip.mp4 has no video stream"
    assert reasons[2].startswith("The worker died")
    assert reasons[3].startswith("TypeError: ")
    assert all(job.failed_at for job in failed_jobs(redis))


def put_off(redis: Redis, task: int) -> None:
    """As a worker does that is to try it again later."""
    jobs, job = open_queue(redis), fetch(redis, task)
    jobs.remove(job)
    jobs.schedule_job(job, datetime.now(UTC) + timedelta(minutes=1))


def test_jobs_of_deleted_tasks_go(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1], VERSION)
    work(redis, fail)
    enqueue_preannotation(redis, 3, [2, 5, 12, 20], VERSION)
    put_off(redis, 5)
    assert forget_tasks(redis, [1, 2, 5, 20, 99]) == 4
    assert waiting(redis) == [job_id(3, 12, VERSION)]
    assert overview(redis).queued == 1
    assert failed_jobs(redis) == []
    assert enqueue_preannotation(redis, 3, [1], VERSION) == 1


def test_what_is_tried_again_later_still_waits(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1, 2], VERSION)
    put_off(redis, 1)
    assert overview(redis).queued == 2
    assert enqueue_preannotation(redis, 3, [1], VERSION) == 0


def test_overview_shows_progress_and_workers(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, [1, 2], VERSION)
    job = fetch(redis, 1)
    redis.lrem(open_queue(redis).key, 1, job.id)
    start(redis, job)
    job.note(done=3, total=5)
    worker = SimpleWorker([open_queue(redis)], name="one", connection=redis, serializer="json")
    worker.register_birth()
    state = overview(redis)
    [running], [listening] = state.running, state.workers
    assert (state.queued, running.task, running.done, running.total) == (1, 1, 3, 5)
    assert (running.worker, running.model_version) == ("worker-1", VERSION)
    assert (listening.name, listening.pid) == ("one", worker.pid)
    worker.register_death()


def test_redis_down_is_one_sentence() -> None:
    with connect("redis://user:hunter2@127.0.0.1:1/2") as nowhere, pytest.raises(QueueError) as error:
        enqueue_preannotation(nowhere, 3, [1], VERSION)
    assert str(error.value).startswith("Redis at 127.0.0.1:1/2 cannot be used (")
    assert "REDIS_URL" in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("project", [None, 3])
def test_a_job_that_is_put_back_is_never_out_of_sight(redis: Redis, redis_url: str, project: int | None) -> None:
    """Taken and put back again and again, as by workers that die, it waits or runs whenever one looks."""
    enqueue_preannotation(redis, 3, [1], "tiny-1")
    waiting, stopped = open_queue(redis), Event()
    [id] = waiting.get_job_ids()

    def take_and_put_back() -> None:
        with connect(redis_url, timeout=5) as other:
            while not stopped.is_set():
                other.lmove(waiting.key, waiting.intermediate_queue_key, "LEFT", "RIGHT")
                other.zadd(waiting.started_job_registry.key, {f"{id}:execution": time.time() + 60})
                other.lrem(waiting.intermediate_queue_key, 0, id)
                with other.pipeline(transaction=True) as pipe:
                    pipe.zrem(waiting.started_job_registry.key, f"{id}:execution")
                    pipe.lpush(waiting.key, id)
                    pipe.execute()

    thread = Thread(target=take_and_put_back)
    thread.start()
    try:
        seen = [overview(redis, project) for _ in range(300)]
    finally:
        stopped.set()
        thread.join()
    assert {state.queued + len(state.running) for state in seen} == {1}
    assert {state.queued for state in seen} == {0, 1}


def test_only_what_is_shown_of_many_failures_is_read(redis: Redis) -> None:
    enqueue_preannotation(redis, 3, range(1000), VERSION)
    assert queue.stop_jobs(redis) == 1000
    enqueue_preannotation(redis, 4, [1], VERSION)
    queue.stop_jobs(redis)
    redis.config_resetstat()
    assert [job.project for job in failed_jobs(redis, limit=20)][:2] == [4, 3]
    assert len(failed_jobs(redis, limit=20)) == 20
    calls = redis.info("commandstats")
    assert sum(calls.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("hgetall", "hmget")) <= 4 * PAGE
    assert [job.project for job in failed_jobs(redis, project=4)] == [4]
    assert len(failed_jobs(redis, project=3)) == 1000
