"""Jobs as an earlier release has queued them are read and run; tests/data/queued_jobs.json has their hashes."""

import base64
import json
from typing import Any

import pytest
from redis import Redis

from tests.conftest import ROOT, wait_until
from tests.worker.stub_worker import Start
from worker.queue import KINDS
from worker.queue.job import fetch, open_queue
from worker.queue.kind import Meta, State
from worker.queue.preannotation import ToPreannotate, job_id
from worker.queue.queue import enqueue_preannotation, enqueue_training
from worker.queue.training import TRAIN, ToTrain
from worker.queue.views import failed_jobs, finished_jobs, overview, states, trainings

JOBS: dict[str, dict[str, Any]] = json.loads((ROOT / "tests" / "data" / "queued_jobs.json").read_text())
LATER = "preannotate-3-15-tiny-1"


@pytest.fixture
def old(redis: Redis) -> Redis:
    for id, fields in JOBS.items():
        queue = open_queue(redis, fields["origin"])
        redis.hset(f"rq:job:{id}", mapping=fields)  # type: ignore[arg-type]
        redis.hset(f"rq:job:{id}", "data", base64.b64decode(fields["data"]))
        redis.sadd("rq:queues", queue.key)
        if id == LATER:
            redis.zadd(queue.scheduled_job_registry.key, {id: 1})
        else:
            redis.rpush(queue.key, id)
    redis.set("av2t:trainings", 2)
    return redis


def test_they_are_known(old: Redis) -> None:
    jobs = {job.id: job for job in fetch(old, JOBS)}
    assert [job.refusal for job in jobs.values()] == ["", "", "", ""]
    assert jobs["preannotate-3-14-tiny-1"].payload == ToPreannotate(project=3, task=14, model_version="tiny-1")
    assert jobs["train-3-1"].payload == ToTrain(project=3)
    assert jobs["train-4-2"].payload == ToTrain(project=4, base_version="tiny-1", epochs=5, also=["mask-decoder"])
    assert jobs[LATER].told == Meta(
        protocol=1, attempts=1, doubts=1, error="Label Studio answers 502.", done=3, total=5, uploading=True
    )
    assert jobs[LATER].id == job_id(3, 15, "tiny-1")


def test_they_count_as_there_already(old: Redis) -> None:
    assert overview(old, 3).queued == 2
    assert enqueue_preannotation(old, 3, [14, 15, 16], "tiny-1") == 1
    assert enqueue_training(old, 3) == ("train-3-1", False)
    assert [each.job for each in trainings(old)] == ["train-4-2", "train-3-1"]
    assert enqueue_training(old, 5) == ("train-5-3", True)


def test_they_are_run(old: Redis, start: Start) -> None:
    """Under the names of today, with the functions of the stand-in."""
    old.set("release", 1)
    start("--burst", "--as-today").ended()
    wait_until(lambda: overview(old).queued == 0, what="both tasks")
    assert failed_jobs(old) == []
    assert {each.task for each in finished_jobs(old, 5)} == {14, 15}
    assert set(states(old, 3, [14, 15], "tiny-1").values()) == {State.DONE}
    start("--burst", "--train", "--as-today").ended()
    assert {each.job: each.told for each in trainings(old)} == dict.fromkeys(
        ("train-3-1", "train-4-2"), "It is better."
    )
    assert open_queue(old, TRAIN).get_job_ids() == []
    assert KINDS.keys() >= {"worker.jobs.preannotate", "worker.finetuning.finetune"}
