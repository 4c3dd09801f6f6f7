"""What is kept of a job, in a real Redis."""

import zlib

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job

from av2t_core.labelstudio.tracks import Sighting
from tests.conftest import CutOff
from worker.jobs.prediction_pass import Checkpoint, Part, delete_checkpoint
from worker.queue.connection import connect
from worker.queue.job import open_queue


@pytest.fixture
def job(redis: Redis) -> Job:
    queue: Queue = open_queue(redis)
    return queue.create_job("worker.jobs.preannotate", job_id="preannotate-1-2-tiny-1")


def part(first: int, count: int = 2) -> Part:
    sighting = Sighting(number=1, names=("dog", "fox"), window=first, time=0.5, box=(1, 2, 3, 4), score=0.25)
    known = {1: ("dog", (1, 2, 3, 4)), 2: (None, (0, 0, 1, 1))}
    return Part(first=first, scores=[0.5] * count, result='{"id":"a"}', sightings=[sighting], known=known)


def test_what_is_kept_comes_back(job: Job) -> None:
    Checkpoint(job, "a").add(part(0))
    Checkpoint(job, "a").add(part(2))
    assert Checkpoint(job, "a").parts() == [part(0), part(2)]
    assert part(2).end == 4


def test_it_is_for_the_same_work_alone(job: Job) -> None:
    Checkpoint(job, "a").add(part(0))
    assert Checkpoint(job, "b").parts() == []
    assert Checkpoint(job, "a").parts() == []


def test_only_what_follows_one_another_counts(job: Job) -> None:
    """Two workers may have had the job at once, and a Redis that was away has left a gap."""
    for first in (0, 0, 2, 2, 6):
        Checkpoint(job, "a").add(part(first))
    assert Checkpoint(job, "a").parts() == [part(0), part(2)]


def test_it_is_forgotten_at_the_end_or_after_a_day(job: Job, redis: Redis) -> None:
    Checkpoint(job, "a").add(part(0))
    [key] = redis.keys("av2t:kept:*")
    assert 0 < redis.ttl(key) <= 24 * 3600
    delete_checkpoint(job)
    assert redis.keys("av2t:kept:*") == []


def test_a_redis_that_is_away_stops_nothing(redis: Redis) -> None:
    gone = connect("redis://127.0.0.1:1/0")
    job = open_queue(gone).create_job("worker.jobs.preannotate", job_id="preannotate-1-2-tiny-1")
    kept = Checkpoint(job, "a")
    kept.add(part(0))
    assert kept.parts() == []
    delete_checkpoint(job)


@pytest.mark.parametrize("garbage", ["", "[]", '{"first": 2, "scores": "many"}'])
def test_what_is_no_part_is_not_gone_on_from(job: Job, redis: Redis, garbage: str) -> None:
    Checkpoint(job, "a").add(part(0))
    redis.rpush(f"av2t:kept:{job.id}", zlib.compress(garbage.encode()) if garbage else b"x")
    Checkpoint(job, "a").add(part(2))
    assert Checkpoint(job, "a").parts() == [part(0)]


def test_it_is_never_without_an_end(job: Job, redis: Redis, redis_url: str) -> None:
    """After whichever command the connection breaks."""
    with CutOff.from_url(redis_url) as broken:
        cut = open_queue(broken).create_job("worker.jobs.preannotate", job_id=job.id)
        for commands in range(4):
            broken.left = commands
            Checkpoint(cut, "a").add(part(0))
            assert all(redis.ttl(key) > 0 for key in redis.keys("av2t:kept:*"))
