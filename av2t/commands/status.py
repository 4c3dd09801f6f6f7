"""`av2t status`: what runs, what waits and what failed, in the terminal."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from av2t.console import table
from worker.queue.connection import connect
from worker.queue.queue import TRAIN
from worker.queue.trainings import Training, trainings
from worker.queue.views import FailedJob, Overview, RunningJob, State, WorkerState, failed_jobs, overview, workers
from worker.settings import Settings

MAX_FAILURES = 20
MAX_TRAININGS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--project", type=int, metavar="N", help="only the tasks and trainings of project N")
    parser.add_argument("--json", action="store_true", help="print JSON, with every failed task")


def run(args: argparse.Namespace) -> int:
    connection = connect(Settings.load().redis_url, timeout=5)
    state = overview(connection, args.project)
    failures = failed_jobs(connection, args.project, limit=None if args.json else MAX_FAILURES)
    learnt = trainings(connection, args.project, limit=None if args.json else MAX_TRAININGS)
    trainers = workers(connection, TRAIN)
    if args.json:
        data = {
            **asdict(state),
            "failures": [asdict(failure) for failure in failures],
            "trainings": [asdict(training) for training in learnt],
            "trainers": [asdict(trainer) for trainer in trainers],
        }
        print(json.dumps(data, indent=2, default=datetime.isoformat))
    else:
        print("\n".join(_lines(state, failures, learnt, trainers)))
    return 0


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
    lines += table("Trainings, the newest first", [_training(training) for training in learnt])
    shown = "" if len(failures) == state.failed else f" (the newest {len(failures)} of {state.failed})"
    lines += table(f"Failed{shown}, `av2t retry` queues them again", [_failed(job) for job in failures])
    return lines


def _worker(worker: WorkerState) -> list[str]:
    return [
        worker.name,
        f"{worker.host}:{worker.pid}",
        worker.state,
        f"{worker.succeeded} done, {worker.failed} failed",
    ]


def _running(job: RunningJob) -> list[str]:
    progress = "starting" if job.done is None else f"{job.done} of {job.total or '?'} keyframes"
    return [f"project {job.project}", f"task {job.task}", job.model_version, progress]


def _training(training: Training) -> list[str]:
    return [f"project {training.project}", training.version or "", training.state, training.told]


def _failed(job: FailedJob) -> list[str]:
    if job.task is None:
        return [job.id, "", "", job.error]
    return [f"project {job.project}", f"task {job.task}", job.model_version or "", job.error]
