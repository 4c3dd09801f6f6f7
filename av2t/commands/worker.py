"""`av2t worker`: take tasks from the queue and pre-annotate them, take trainings and run them."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from av2t.options import count
from av2t.stack.process import Terminated, die_with, signals_raise
from av2t_core.errors import AV2TError
from av2t_core.versions.version import resolve
from worker.settings import Settings

QUEUES = ("preannotate", "train")
GRACE = 20.0  # seconds; a worker is gone within 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Take tasks from the queue, predict what sounds in their clips, and write frames and predictions into Label "
        "Studio; take trainings, and make model versions of what people corrected. Start one for each GPU, on as many "
        "machines as you like; they share the work. Ctrl-C or SIGTERM stops it within seconds and puts the job in hand "
        "back."
    )
    parser.add_argument("--model", metavar="NAME", help="preset or model version (AV2T_MODEL)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (AV2T_DEVICE)")
    parser.add_argument(
        "--queues",
        metavar="NAMES",
        type=_queues,
        default=QUEUES,
        help="what to take, separated by commas: preannotate, train (default: both, each in a process of its own)",
    )
    parser.add_argument("--burst", action="store_true", help="end when the queues are empty")
    parser.add_argument("--max-jobs", metavar="N", type=count, help="end after so many jobs of one of the queues")
    parser.add_argument("--name", help="what the status page calls it; a suffix makes it unique (the host's name)")


def run(args: argparse.Namespace) -> int:
    settings = Settings.load(model=args.model, device=args.device)
    settings.require_api_key()
    resolve(settings.model, settings.models_dir).check()  # before the model's process, which takes seconds to say it
    if len(args.queues) > 1:
        return _run_each(args)
    from worker.process.worker import DUTIES, run_worker  # only now, so that --help is quick

    [queue] = args.queues
    run_worker(settings, DUTIES[queue], name=args.name, burst=args.burst, max_jobs=args.max_jobs)
    return 0


def _queues(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in QUEUES:
            raise argparse.ArgumentTypeError(f"{name!r} is no queue: there are {' and '.join(QUEUES)}")
    return names


def _run_each(args: argparse.Namespace) -> int:
    """A worker for each queue, until one of them ends; in a burst, until all have."""
    options = {"--model": args.model, "--device": args.device, "--max-jobs": args.max_jobs, "--name": args.name}
    given = [word for option, value in options.items() if value is not None for word in (option, str(value))]
    if args.burst:
        given.append("--burst")
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        with signals_raise():
            for queue in args.queues:
                started[queue] = _start(queue, given)
            while None in (codes := [worker.poll() for worker in started.values()]):
                if any(codes) or (0 in codes and not args.burst):
                    break
                time.sleep(0.2)
            return _status(started)
    except (KeyboardInterrupt, Terminated):
        return 0
    finally:
        _stop(list(started.values()))


def _start(queue: str, options: Sequence[str]) -> subprocess.Popen[bytes]:
    starter = os.getpid()
    # -P: a folder of the same name where this was started is not what is meant.
    return subprocess.Popen(  # noqa: S603  # the command is a list of our own making, no shell
        [sys.executable, "-P", "-m", "av2t", "worker", "--queues", queue, *options],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this process, which tells the others
        preexec_fn=lambda: die_with(starter),
    )


def _status(started: dict[str, subprocess.Popen[bytes]]) -> int:
    """That of the worker that failed, which has said why, or 0. AV2TError: something has killed it."""
    for queue, worker in started.items():
        code = worker.returncode or 0
        if code < 0:
            raise AV2TError(f"the worker of the queue {queue} was ended by signal {signal.Signals(-code).name}")
        if code:
            return code
    return 0


def _stop(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """All at once, for each puts down what it has in hand."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        try:
            worker.wait(GRACE)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
