"""`av2t retry`: put failed tasks back into the queue."""

import argparse

from worker.queue.connection import connect
from worker.queue.queue import retry_failed
from worker.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--project", type=int, metavar="N", help="only the tasks of project N")


def run(args: argparse.Namespace) -> int:
    count = retry_failed(connect(Settings.load().redis_url, timeout=5), args.project)
    where = "" if args.project is None else f" of project {args.project}"
    print(f"Failed tasks{where} queued again: {count}")
    return 0
