"""A further kind of job costs one file, which this is, and the line that adds it to KINDS. Real worker, real Redis.

`python -m tests.worker.test_toy_kind REDIS_URL` is a worker of the toy's queue.
"""

import subprocess
import sys
import time
from pathlib import Path

from redis import Redis
from rq import get_current_job

from av2t_core.errors import AV2TError
from tests.conftest import ROOT, wait_until
from worker.failures import TransientError
from worker.process.worker import run_worker
from worker.queue import KINDS
from worker.queue.job import KnownJob, fetch
from worker.queue.kind import JobQueue, Kind, Payload, Result, Subject
from worker.queue.queue import enqueue, retry_failed, stop_jobs
from worker.queue.views import failed_jobs, finished_jobs, overview, workers
from worker.settings import Settings


class ToAdd(Payload):
    project: int
    numbers: list[int]

    @property
    def subject(self) -> Subject:
        return Subject(project=self.project)


class Added(Result):
    total: int = 0


def set_up(_settings: Settings) -> str | None:
    return None


def add(asked: ToAdd) -> Added:
    """The first two tries fail: one may pass, the other is final."""
    job = get_current_job()
    assert isinstance(job, KnownJob)
    job.note(done=0, total=len(asked.numbers))
    connection: Redis = job.connection
    match connection.incr("tries"):
        case 1:
            raise TransientError("The numbers are away.", retry_after=1)
        case 2:
            raise AV2TError("These numbers cannot be added.")
    while connection.exists("hold"):
        time.sleep(0.02)
    return Added(total=sum(asked.numbers))


TOY: Kind[ToAdd, Added] = Kind(
    name="tests.worker.test_toy_kind.add",
    function="tests.worker.test_toy_kind:add",
    payload=ToAdd,
    result=Added,
    queue=JobQueue(name="av2t-toy", option="toy", job="sum", set_up="tests.worker.test_toy_kind:set_up", warm=True),
    prefix="add",
    identity=lambda asked: f"{asked.project}-{'-'.join(map(str, asked.numbers))}",
    describe=lambda asked: f"add {len(asked.numbers)} numbers",
    outcome=lambda returned: f"the sum is {returned.total}",
    first=True,
    timeout=60,
)
KINDS[TOY.name] = TOY


def test_a_toy_kind(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.worker.test_toy_kind", redis_url], cwd=ROOT, stdout=log, stderr=log
        )
    try:
        asked = ToAdd(project=3, numbers=[1, 2])
        assert enqueue(redis, TOY, [asked]) == 1
        assert enqueue(redis, TOY, [asked]) == 0
        assert overview(redis).queued == overview(redis, 3).queued == 1
        assert overview(redis, 4).queued == 0
        wait_until(lambda: failed_jobs(redis), what="its failure")
        [failed] = failed_jobs(redis, 3)
        assert (failed.id, failed.project, failed.task) == ("add-3-1-2", 3, None)
        assert failed.error == "These numbers cannot be added."
        [job] = fetch(redis, [failed.id])
        assert (job.payload, job.told.attempts, job.description) == (asked, 1, "add 2 numbers")

        redis.set("hold", 1)
        assert retry_failed(redis, 3) == 1
        wait_until(lambda: overview(redis, 3).running, what="the next try")
        [running] = overview(redis).running
        assert (running.id, running.project, running.task, running.total) == ("add-3-1-2", 3, None, 2)
        [state] = overview(redis).workers
        assert (running.worker, workers(redis, "av2t-toy")) == (state.name, (state,))
        redis.delete("hold")
        wait_until(lambda: finished_jobs(redis, 5), what="its end")
        [finished] = finished_jobs(redis, 5)
        assert (finished.project, finished.task, finished.outcome) == (3, None, "the sum is 3")
        assert (overview(redis).finished, stop_jobs(redis, queue="av2t-toy")) == (1, 0)
    finally:
        worker.terminate()
        assert worker.wait(30) == 0


if __name__ == "__main__":
    run_worker(Settings.load(redis_url=sys.argv[1]), TOY.queue)
