"""`av2t cancel`: stop tasks or a training that wait or run."""

import argparse

from worker.queue.connection import connect
from worker.queue.queue import stop_jobs
from worker.queue.trainings import stop_trainings
from worker.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Stop what waits or runs; a running task ends within seconds, without a prediction, and a training without a "
        "model version. What was stopped counts as failed; `av2t retry` queues stopped tasks again, `av2t finetune` "
        "asks for a new training."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--task", type=int, metavar="N", help="task N, for whatever model version")
    which.add_argument("--project", type=int, metavar="N", help="the tasks of project N")
    which.add_argument("--all", action="store_true", help="the tasks of all projects")
    which.add_argument("--training", type=int, metavar="N", help="the training of project N, and the one that waits")


def run(args: argparse.Namespace) -> int:
    connection = connect(Settings.load().redis_url, timeout=5)
    if args.training is not None:
        print(f"Trainings stopped: {stop_trainings(connection, args.training)}")
    else:
        print(f"Tasks stopped: {stop_jobs(connection, args.project, args.task)}")
    return 0
