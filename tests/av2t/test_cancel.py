import pytest
from redis import Redis

from av2t.__main__ import main
from worker.queue.queue import enqueue_preannotation, enqueue_training, is_training
from worker.queue.views import failed_jobs


def test_tasks_are_stopped_and_can_be_queued_again(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    enqueue_preannotation(redis, 3, [31, 32, 33], "tiny-1")
    assert main(["cancel", "--task", "32"]) == 0
    assert main(["cancel", "--project", "4"]) == 0
    assert main(["cancel", "--all"]) == 0
    assert capsys.readouterr().out == "Tasks stopped: 1\nTasks stopped: 0\nTasks stopped: 2\n"
    assert len(failed_jobs(redis)) == 3
    assert main(["retry"]) == 0
    assert capsys.readouterr().out == "Failed tasks queued again: 3\n"


def test_a_training_is_stopped_by_its_project(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    enqueue_training(redis, 3)
    # What is said of tasks is not said of trainings.
    assert main(["cancel", "--all"]) == 0
    assert main(["cancel", "--training", "4"]) == 0
    assert main(["cancel", "--training", "3"]) == 0
    assert capsys.readouterr().out == "Tasks stopped: 0\nTrainings stopped: 0\nTrainings stopped: 1\n"
    assert not is_training(redis)
    assert main(["retry"]) == 0
    assert capsys.readouterr().out == "Failed tasks queued again: 0\n"


def test_what_is_to_be_stopped_has_to_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cancel"]) == 2
    assert "one of the arguments --task --project --all --training is required" in capsys.readouterr().err
