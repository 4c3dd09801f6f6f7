"""`av2t cancel`: stop tasks that wait or run."""

import argparse

from worker.queue import connect, stop_jobs
from worker.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Stop what waits or runs; a running task ends within seconds, without a prediction. What was stopped counts as "
        "failed, and `av2t retry` queues it again."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--task", type=int, metavar="N", help="task N, for whatever model version")
    which.add_argument("--project", type=int, metavar="N", help="the tasks of project N")
    which.add_argument("--all", action="store_true", help="the tasks of all projects")


def run(args: argparse.Namespace) -> int:
    count = stop_jobs(connect(Settings.load().redis_url, timeout=5), args.project, args.task)
    print(f"Tasks stopped: {count}")
    return 0
