"""The worker's processes against a real Redis, with real kills."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from redis import Redis
from rq import Queue, Retry
from rq.job import Job, JobStatus

from av2t.stack.redis_server import redis_url as url_of_redis
from av2t.stack.redis_server import start_redis
from tests.conftest import ROOT, wait_until
from tests.ports import free_port
from tests.worker.stub import SECRET
from tests.worker.stub_worker import Process, Start, done, names
from worker.process.memory import held_by, most_memory
from worker.queue.connection import connect
from worker.queue.job import EXCEPTION, PROTOCOL, open_queue
from worker.queue.preannotation import job_id
from worker.queue.queue import stop_job
from worker.queue.upkeep import forget_tasks


@pytest.fixture
def queue(redis: "Redis") -> Queue:
    return open_queue(redis)


def put(queue: Queue, function: str, *, retries: int = 3, **kwargs: object) -> Job:
    return queue.enqueue(f"tests.worker.stub.{function}", kwargs=kwargs, retry=Retry(max=retries))


def finished(job: Job) -> bool:
    return bool(job.get_status() == JobStatus.FINISHED)


def test_twenty_jobs_in_one_warm_process(redis: "Redis", queue: Queue, start: Start) -> None:
    jobs = [put(queue, "note", name=str(n)) for n in range(20)]
    worker = start("--burst")
    assert worker.ended() == 0
    assert redis.llen("loaded") == 1
    assert names(done(redis)) == [str(n) for n in range(20)]
    assert len({entry.split()[1] for entry in done(redis)}) == 1
    assert all(finished(job) for job in jobs)
    assert queue.finished_job_registry.get_job_count() == 20
    assert queue.started_job_registry.get_job_count(cleanup=False) == 0
    assert redis.llen(queue.intermediate_queue_key) == 0


def test_the_parent_imports_no_torch() -> None:
    code = (
        "import sys, worker.process.worker;"
        "print({'torch', 'av', 'worker.jobs.preannotation', 'label_studio_sdk.client'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "set()"


def test_a_killed_worker_takes_its_model_along_and_its_job_goes_to_the_next(
    redis: "Redis", queue: Queue, start: Start
) -> None:
    job = put(queue, "hold", name="a")
    first = start()
    wait_until(lambda: done(redis, "begun"), what="the job in the first worker")
    model = first.model
    first.popen.send_signal(signal.SIGKILL)
    wait_until(
        lambda: not model.is_running() or model.status() == psutil.STATUS_ZOMBIE, 10, "the end of the model's process"
    )
    redis.set("release", 1)
    start()
    wait_until(lambda: finished(job), what="the job in the second worker")
    assert names(done(redis)) == ["a"]
    assert names(done(redis, "begun")) == ["a", "a"]
    assert redis.llen(queue.intermediate_queue_key) == 0


def test_what_a_job_starts_does_not_inherit_the_key(redis: "Redis", queue: Queue, start: Start) -> None:
    put(queue, "hold", name="a")
    worker = start(LABEL_STUDIO_API_KEY=SECRET)
    wait_until(lambda: done(redis, "begun"), what="the job")
    assert SECRET not in worker.model.environ().values()


def test_two_workers_share(redis: "Redis", queue: Queue, start: Start) -> None:
    start()
    start()
    jobs = [put(queue, "hold", name=name) for name in "ab"]
    wait_until(lambda: len(done(redis, "begun")) == 2, what="one job in each worker")
    redis.set("release", 1)
    wait_until(lambda: all(finished(job) for job in jobs), what="both jobs")
    assert len({entry.split()[1] for entry in done(redis)}) == 2
    assert sorted(names(done(redis))) == ["a", "b"]


def test_a_job_whose_model_process_is_killed_is_tried_again(redis: "Redis", queue: Queue, start: Start) -> None:
    job = put(queue, "hold", name="a")
    worker = start()
    wait_until(lambda: done(redis, "begun"), what="the job")
    worker.model.kill()
    wait_until(lambda: len(done(redis, "begun")) == 2, what="the job again")
    redis.set("release", 1)
    wait_until(lambda: finished(job), what="its end")
    assert worker.popen.poll() is None
    assert redis.llen("loaded") == 2


def test_poison_is_given_up_and_the_rest_goes_on(redis: "Redis", queue: Queue, start: Start) -> None:
    poison = put(queue, "die")
    rest = put(queue, "note", name="rest")
    worker = start("--burst")
    assert worker.ended() == 0
    assert poison.get_status() == JobStatus.FAILED
    assert "died 3 times on this task (signal SIGKILL" in poison.get_meta()["error"]
    assert finished(rest)
    # Three deaths, and one process more for what came after the last.
    assert redis.llen("loaded") <= 4


def test_sigterm_puts_the_job_back_and_ends_soon(redis: "Redis", queue: Queue, start: Start) -> None:
    job = put(queue, "hold", name="a")
    later = put(queue, "note", name="later")
    worker = start()
    wait_until(lambda: done(redis, "begun"), what="the job")
    model = worker.model
    worker.popen.send_signal(signal.SIGTERM)
    assert worker.ended() == 0
    assert not psutil.pid_exists(model.pid)
    assert job.get_status() == JobStatus.QUEUED
    assert queue.get_job_ids() == [job.id, later.id]
    assert queue.started_job_registry.get_job_count(cleanup=False) == 0
    job.refresh()
    assert job.retries_left == 3


def test_a_person_can_stop_a_job_and_the_rest_goes_on(redis: "Redis", queue: Queue, start: Start) -> None:
    job = put(queue, "hold", name="a")
    put(queue, "note", name="later")
    start()
    wait_until(lambda: done(redis, "begun"), what="the job")
    assert stop_job(redis, job.id)
    wait_until(lambda: done(redis), what="the next job")
    job.refresh()
    assert (job.get_status(), job.meta["error"]) == (JobStatus.STOPPED, "Stopped by a person.")
    assert queue.failed_job_registry.get_job_ids(cleanup=False) == [job.id]
    assert not stop_job(redis, job.id)


def test_sigterm_lets_a_job_end_that_is_about_to(redis: "Redis", queue: Queue, start: Start) -> None:
    job = put(queue, "hold", name="a")
    worker = start()
    wait_until(lambda: done(redis, "begun"), what="the job")
    worker.popen.send_signal(signal.SIGTERM)
    redis.set("release", 1)
    assert worker.ended() == 0
    assert finished(job)


def test_sigterm_lets_a_job_keep_what_it_has(redis: "Redis", queue: Queue, start: Start, tmp_path: Path) -> None:
    job = put(queue, "work", name="a")
    worker = start()
    wait_until(lambda: done(redis, "begun"), what="the job")
    worker.popen.send_signal(signal.SIGTERM)
    assert worker.ended() == 0
    assert done(redis, "stopped") == ["a"]
    assert queue.get_job_ids() == [job.id]
    assert queue.started_job_registry.get_job_count(cleanup=False) == 0
    job.refresh()
    assert (job.get_status(), job.retries_left, "error" in job.meta) == (JobStatus.QUEUED, 3, False)
    redis.set("release", 1)
    start("--burst").ended()
    assert finished(job)
    assert not list(tmp_path.glob("av2t-worker-*"))


def test_a_job_that_hangs_is_ended_and_tried_again(redis: "Redis", queue: Queue, start: Start) -> None:
    job = put(queue, "work", name="a")
    worker = start(AV2T_HANG_SECONDS="5")
    wait_until(lambda: done(redis, "begun"), what="the job")
    hung = worker.model
    hung.suspend()  # as a CUDA call that never returns: no signal but SIGKILL reaches it
    wait_until(lambda: len(done(redis, "begun")) == 2, what="the second try")
    assert not psutil.pid_exists(hung.pid)
    assert "ended after 5 s without a sign of life" in worker.text()
    redis.set("release", 1)
    wait_until(lambda: finished(job), what="the end of the job")


def test_a_process_that_holds_too_much_memory_is_ended(redis: "Redis", queue: Queue, start: Start) -> None:
    job = put(queue, "hold", name="a")
    worker = start("--burst", AV2T_MEMORY_MB="10")  # less than the interpreter takes
    assert worker.ended() == 0
    assert job.get_status() == JobStatus.FAILED
    assert len({entry.split()[1] for entry in done(redis, "begun")}) == 3
    words = r"died 3 times on this task \(it held \d+ MB of memory, more than the 10 MB that AV2T_MEMORY_MB allows\)"
    assert re.search(words, job.get_meta()["error"])


def test_how_much_memory_there_is() -> None:
    machine = psutil.virtual_memory().total
    assert most_memory(12) == 12_000_000
    assert 0 < (most_memory(None) or 0) <= 0.9 * machine + 1
    held, again = held_by(os.getpid()), psutil.Process().memory_info()
    assert held is not None
    assert held <= again.rss
    assert held_by(2**30) is None


def test_signs_of_life_keep_a_long_job(redis: "Redis", queue: Queue, start: Start) -> None:
    job = put(queue, "work", name="a")
    worker = start(AV2T_HANG_SECONDS="5")
    wait_until(lambda: done(redis, "begun"), what="the job")
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 8, what="more time than a hung job has")
    redis.set("release", 1)
    wait_until(lambda: finished(job), what="the end of the job")
    assert len(done(redis, "begun")) == 1
    assert "sign of life" not in worker.text()


def test_a_job_of_another_protocol_is_left_to_others(redis: "Redis", queue: Queue, start: Start) -> None:
    foreign = queue.enqueue("tests.worker.stub.note", kwargs={"name": "foreign"}, meta={"protocol": PROTOCOL + 1})
    own = put(queue, "note", name="own")
    worker = start()
    wait_until(lambda: finished(own), what="the worker's own job")
    wait_until(lambda: queue.get_job_ids() == [foreign.id], what="the other back in the queue")
    assert f"is of protocol {PROTOCOL + 1} and this worker of {PROTOCOL}" in worker.text()
    assert names(done(redis)) == ["own"]
    assert foreign.get_status() == JobStatus.QUEUED


def test_it_ends_after_as_many_jobs_as_it_was_told(redis: "Redis", queue: Queue, start: Start) -> None:
    jobs = [put(queue, "note", name=name) for name in "ab"]
    assert start("--one").ended() == 0
    assert [finished(job) for job in jobs] == [True, False]
    assert queue.get_job_ids() == [jobs[1].id]


def test_of_a_running_job_whose_task_is_gone_nothing_is_left(redis: "Redis", queue: Queue, start: Start) -> None:
    job = queue.enqueue("tests.worker.stub.work", kwargs={"name": "a"}, job_id=job_id(1, 7, "tiny-1"))
    later = put(queue, "note", name="later")
    start()
    wait_until(lambda: done(redis, "begun"), what="the job")
    assert forget_tasks(redis, [7]) == 1
    wait_until(lambda: finished(later), what="the next job")
    assert not redis.exists(job.key)
    assert queue.failed_job_registry.get_job_ids(cleanup=False) == []
    assert queue.started_job_registry.get_job_count(cleanup=False) == 0


def test_what_a_killed_worker_left_on_the_disk_goes_with_the_next(
    redis: "Redis", queue: Queue, start: Start, tmp_path: Path
) -> None:
    job = put(queue, "work", name="a")
    worker = start()
    wait_until(lambda: list(tmp_path.glob("av2t-worker-*/files/clip")), what="the job's file")
    worker.popen.send_signal(signal.SIGKILL)
    worker.popen.wait()
    assert list(tmp_path.glob("av2t-worker-*/files/clip"))
    redis.set("release", 1)
    start("--burst").ended()
    wait_until(lambda: finished(job) or start("--burst").ended() is None, what="the job")
    assert not list(tmp_path.glob("av2t-worker-*"))


def test_a_worker_that_is_told_to_stop_while_it_starts_leaves_nothing(start: Start, tmp_path: Path) -> None:
    worker = start()
    wait_until(lambda: list(tmp_path.glob("av2t-worker-*/files")), what="the model's process")
    children = psutil.Process(worker.popen.pid).children()
    worker.popen.terminate()
    assert worker.ended() == 0
    assert not list(tmp_path.glob("av2t-worker-*"))
    assert psutil.wait_procs(children, timeout=60)[1] == []


def test_a_redis_that_comes_back_is_worked_with_again(tmp_path: Path) -> None:
    port = free_port()
    server = start_redis(tmp_path / "data", port, tmp_path / "redis.log")
    url = url_of_redis(tmp_path / "data", port)
    worker = Process(url, tmp_path / "worker.log", TMPDIR=str(tmp_path))
    try:
        with connect(url, timeout=5) as redis:
            first = put(open_queue(redis), "wait_for", path=str(tmp_path / "end"))
            wait_until(lambda: done(redis, "begun"), what="the job")
            server.stop()
            wait_until(lambda: "no heartbeat" in worker.text(), what="a heartbeat that fails")
            (tmp_path / "end").touch()
            wait_until(lambda: "its end could not be noted" in worker.text(), what="the end of the job")
            wait_until(lambda: "looking again" in worker.text(), what="the wait for Redis")
            server = start_redis(tmp_path / "data", port, tmp_path / "redis.log")
            second = put(open_queue(redis), "note", name="b")
            wait_until(lambda: finished(first) and finished(second), 120, "both jobs")
            assert redis.llen("loaded") == 1
            worker.popen.send_signal(signal.SIGTERM)
            assert worker.ended() == 0
    finally:
        worker.popen.kill()
        worker.popen.wait()
        server.stop()


def test_sigterm_ends_an_idle_worker(redis: "Redis", queue: Queue, start: Start) -> None:
    worker = start()
    wait_until(lambda: "waits for jobs" in worker.text(), what="an idle worker")
    worker.popen.send_signal(signal.SIGTERM)
    assert worker.ended() == 0


def test_a_mistake_in_what_came_from_outside_fails_the_job_once_in_one_line(
    redis: "Redis", queue: Queue, start: Start
) -> None:
    job = put(queue, "refuse")
    worker = start("--burst")
    assert worker.ended() == 0
    sentence = "There is no sound in clip.mp4, and there is nothing to find."
    assert job.get_status() == JobStatus.FAILED
    assert job.get_meta()["error"] == sentence
    assert [line for line in worker.text().splitlines() if sentence in line] == [
        line for line in worker.text().splitlines() if job.id in line
    ]
    assert "Traceback" not in worker.text()
    assert redis.hget(job.key, EXCEPTION) == sentence.encode()


def test_what_can_pass_is_tried_again_after_a_while(redis: "Redis", queue: Queue, start: Start) -> None:
    job = put(queue, "pass_later")
    worker = start()
    wait_until(lambda: finished(job), what="the second try")
    assert redis.get("tries") == b"2"
    assert "error" not in job.get_meta()
    assert "Label Studio answers 502. Trying again in 1 s." in worker.text()


def test_clocks_that_differ_by_an_hour_do_not_put_off_the_next_try(redis: "Redis", queue: Queue, start: Start) -> None:
    """The model's process is ahead, the worker that looks for what is due is behind."""
    redis.set("ahead", 1)
    job = put(queue, "pass_later")
    start("--behind")
    wait_until(lambda: finished(job), what="the second try")


@pytest.mark.parametrize(("holder", "other"), [("--behind", ""), ("", "--ahead")])
def test_clocks_that_differ_by_an_hour_take_no_job_from_who_runs_it(
    redis: "Redis", queue: Queue, start: Start, holder: str, other: str
) -> None:
    job = put(queue, "hold", name="a")
    start(*filter(None, [holder]))
    wait_until(lambda: done(redis, "begun"), what="the job in the first worker")
    # It looks for what was left behind before it finds nothing to do.
    assert start("--burst", *filter(None, [other])).ended() == 0
    assert len(done(redis, "begun")) == 1
    redis.set("release", 1)
    wait_until(lambda: finished(job), what="its end")


def test_a_defect_is_told_with_its_traceback_and_without_the_token(redis: "Redis", queue: Queue, start: Start) -> None:
    job = put(queue, "crash", retries=1)
    job.retries_left = 0
    job.save()
    worker = start("--burst")
    assert worker.ended() == 0
    assert job.get_meta()["error"] == "Unexpected RuntimeError: not foreseen, with *** in it"
    assert "Traceback" in worker.text()
    recorded = str(redis.hget(job.key, EXCEPTION))
    assert "Traceback" in recorded
    assert SECRET not in worker.text() + recorded


def test_a_log_for_machines_says_what_each_line_is_about(
    queue: Queue, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AV2T_LOG_FORMAT", "json")
    job = put(queue, "crash", retries=1, project=3, task=14)
    worker = start("--burst")
    assert worker.ended() == 0
    lines = [json.loads(line) for line in worker.text().splitlines()]
    assert {"time", "level", "message"} <= set.intersection(*map(set, lines))
    about = [line for line in lines if line.get("job") == job.id]
    assert {(line["project"], line["task"]) for line in about} == {(3, 14)}
    assert "RuntimeError: not foreseen" in " ".join(line["message"] for line in about)
    assert SECRET not in worker.text()


def test_a_job_over_its_time_is_given_up(redis: "Redis", queue: Queue, start: Start) -> None:
    job = queue.enqueue("tests.worker.stub.hold", kwargs={"name": "a"}, job_timeout=1, retry=Retry(max=3))
    start()
    wait_until(lambda: job.get_status() == JobStatus.FAILED, what="its end")
    assert job.get_meta()["error"] == "The job took longer than 1 s and was ended."


def test_a_popped_job_that_nobody_began_goes_back(redis: "Redis", queue: Queue, start: Start) -> None:
    job = put(queue, "note", name="a")
    # What a worker does first, and then it dies.
    assert redis.lmove(queue.key, queue.intermediate_queue_key, "LEFT", "RIGHT") == job.id.encode()
    start()
    wait_until(lambda: finished(job), what="the job")
    assert names(done(redis)) == ["a"]


def test_a_model_that_cannot_be_used_ends_the_worker_with_the_reason(redis: "Redis", start: Start) -> None:
    redis.set("refuse", 1)
    worker = start()
    assert worker.ended() == 1
    assert worker.text().splitlines()[-1] == "av2t: error: The model is not there."


def test_no_redis_is_said(tmp_path: Path) -> None:
    worker = Process("redis://127.0.0.1:1/0", tmp_path / "log")
    assert worker.ended() == 1
    assert "Redis at 127.0.0.1:1/0 cannot be used" in worker.text()


def test_sigterm_while_the_model_comes_back(redis: "Redis", queue: Queue, start: Start) -> None:
    worker = start()
    wait_until(lambda: "waits for jobs" in worker.text(), what="an idle worker")
    redis.set("slow", 1)
    worker.model.kill()
    job = put(queue, "note", name="a")
    wait_until(lambda: redis.llen("loaded") == 2, what="the next process")
    worker.popen.send_signal(signal.SIGTERM)
    assert worker.ended() == 0
    assert queue.get_job_ids() == [job.id]


def test_a_model_that_fails_later_ends_the_worker_and_keeps_the_job(redis: "Redis", queue: Queue, start: Start) -> None:
    worker = start()
    wait_until(lambda: "waits for jobs" in worker.text(), what="an idle worker")
    redis.set("refuse", 1)
    os.kill(worker.model.pid, signal.SIGKILL)
    job = put(queue, "note", name="a")
    assert worker.ended() == 1
    assert "The model is not there." in worker.text()
    assert queue.get_job_ids() == [job.id]
