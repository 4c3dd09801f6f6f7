"""`av2t status`, `cancel` and `retry`: what the queue holds, and how a person stops or repeats some of it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from redis import Redis

from av2t.console import print_json, table
from av2t.signature import Arg
from worker.queue.connection import connect
from worker.queue.queue import TRAIN, retry_failed, stop_jobs
from worker.queue.trainings import Training, stop_trainings, trainings
from worker.queue.views import FailedJob, Overview, RunningJob, State, WorkerState, failed_jobs, overview, workers
from worker.settings import Settings

MAX_FAILURES = 20
MAX_TRAININGS = 5


def status(
    *,
    project: Annotated[int | None, Arg("only the tasks and trainings of project N", "N")] = None,
    json: Annotated[bool, Arg("print JSON, with every failed task")] = False,
) -> int:
    """Show what is queued, running and failed."""
    connection = _redis()
    state = overview(connection, project)
    failures = failed_jobs(connection, project, limit=None if json else MAX_FAILURES)
    learnt = trainings(connection, project, limit=None if json else MAX_TRAININGS)
    trainers = workers(connection, TRAIN)
    if json:
        lists: dict[str, Sequence[Any]] = {"failures": failures, "trainings": learnt, "trainers": trainers}
        print_json({**asdict(state), **{name: [asdict(each) for each in its] for name, its in lists.items()}}, indent=2)
    else:
        print("\n".join(_lines(state, failures, learnt, trainers)))
    return 0


def cancel(
    *,
    task: Annotated[int | None, Arg("task N, for whatever model version", "N", exclusive=True)] = None,
    project: Annotated[int | None, Arg("the tasks of project N", "N", exclusive=True)] = None,
    all: Annotated[bool, Arg("the tasks of all projects", exclusive=True)] = False,
    training: Annotated[
        int | None, Arg("the training of project N, and the one that waits", "N", exclusive=True)
    ] = None,
) -> int:
    """Stop what waits or runs. A running task ends within seconds, without a prediction, and a training without a
    model version. What was stopped counts as failed: `av2t retry` queues stopped tasks again, `av2t finetune` asks for
    a new training."""
    connection = _redis()
    if training is not None:
        print(f"Trainings stopped: {stop_trainings(connection, training)}")
    else:
        print(f"Tasks stopped: {stop_jobs(connection, project, task)}")
    return 0


def retry(*, project: Annotated[int | None, Arg("only the tasks of project N", "N")] = None) -> int:
    """Queue failed tasks again."""
    where = "" if project is None else f" of project {project}"
    print(f"Failed tasks{where} queued again: {retry_failed(_redis(), project)}")
    return 0


def _redis() -> Redis:
    return connect(Settings.load().redis_url, timeout=5)


def _lines(
    state: Overview, failures: list[FailedJob], learnt: list[Training], trainers: Sequence[WorkerState]
) -> list[str]:
    lines = [
        f"{state.queued} waiting, {len(state.running)} running, "
        f"{state.finished} done in 24 hours, {state.failed} failed"
    ]
    if not state.workers:
        lines += ["", "No worker listens, so nothing is done: start one with `av2t worker`"]
    if not trainers and any(training.state is State.WAITING for training in learnt):
        lines += ["", "No worker listens for trainings: start one with `av2t worker --queues train`"]
    lines += table("Workers", [_worker(worker) for worker in state.workers])
    lines += table("Workers for trainings", [_worker(worker) for worker in trainers])
    lines += table("Running", [_running(job) for job in state.running])
    newest = [[f"project {each.project}", each.version or "", each.state, each.told] for each in learnt]
    lines += table("Trainings, the newest first", newest)
    shown = "" if len(failures) == state.failed else f" (the newest {len(failures)} of {state.failed})"
    return lines + table(f"Failed{shown}, `av2t retry` queues them again", [_failed(job) for job in failures])


def _worker(worker: WorkerState) -> list[str]:
    counts = f"{worker.succeeded} done, {worker.failed} failed"
    return [worker.name, f"{worker.host}:{worker.pid}", worker.state, counts]


def _running(job: RunningJob) -> list[str]:
    progress = "starting" if job.done is None else f"{job.done} of {job.total or '?'} keyframes"
    return [f"project {job.project}", f"task {job.task}", job.model_version, progress]


def _failed(job: FailedJob) -> list[str]:
    if job.task is None:
        return [job.id, "", "", job.error]
    return [f"project {job.project}", f"task {job.task}", job.model_version or "", job.error]
