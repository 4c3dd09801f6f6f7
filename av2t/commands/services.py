"""`av2t backend` and `av2t worker`: what runs until it is told to end."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Annotated

from av2t.options import Count, load_settings
from av2t.signature import Arg
from av2t.stack.process import Terminated, die_with, signals_raise
from av2t_core.errors import AV2TError
from av2t_core.versions.version import resolve
from worker.queue import queues
from worker.settings import Settings

QUEUES = {queue.option: queue for queue in queues()}
GRACE = 20.0  # seconds; a worker is gone within 10


def backend(
    *,
    host: Annotated[str | None, Arg("the address to listen on (AV2T_BACKEND_HOST, 127.0.0.1)")] = None,
    port: Annotated[int | None, Arg("the port to listen on (AV2T_BACKEND_PORT, 9090)")] = None,
) -> None:
    """Serve the ML backend that Label Studio connects to."""
    # Imported here, for they take a second that `--help` can do without.
    from backend.server import serve
    from worker.logs import log_to_stderr
    from worker.queue.connection import connect

    settings = load_settings(Settings, backend_host=host, backend_port=port)
    log_to_stderr(settings)
    serve(settings, connect(settings.redis_url))


def _queues(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in QUEUES:
            raise argparse.ArgumentTypeError(f"{name!r} is no queue: there are {' and '.join(QUEUES)}")
    return names


def worker(
    *,
    model: Annotated[str | None, Arg("preset or model version (AV2T_MODEL)", "NAME")] = None,
    device: Annotated[str | None, Arg("auto, cpu, cuda or cuda:N (AV2T_DEVICE)")] = None,
    queues: Annotated[
        tuple[str, ...],
        _queues,
        Arg(f"what to take, separated by commas: {', '.join(QUEUES)} (default: both, in a process each)", "NAMES"),
    ] = tuple(QUEUES),
    burst: Annotated[bool, Arg("end when the queues are empty")] = False,
    max_jobs: Annotated[Count | None, Arg("end after so many jobs of one of the queues", "N")] = None,
    name: Annotated[str | None, Arg("how the status page calls it, with a suffix (the host's name)")] = None,
) -> int:
    """Take tasks from the queue, predict what sounds in their clips, and write frames and predictions into Label
    Studio; take trainings, and make model versions of what people corrected.

    Start one for each GPU, on as many machines as you like; they share the work. Ctrl-C or SIGTERM stops it within
    seconds and puts the job in hand back.
    """
    settings = load_settings(Settings, model=model, device=device)
    settings.require_api_key()
    resolve(settings.model, settings.models_dir).check()  # before the model's process, which takes seconds to say it
    if len(queues) > 1:
        options = {"model": model, "device": device, "max-jobs": max_jobs, "name": name}
        given = [f"--{option}={value}" for option, value in options.items() if value is not None]
        return _run_each(queues, [*given, *(["--burst"] if burst else [])], burst=burst)
    from worker.process.worker import run_worker  # only now, so that --help is quick

    [queue] = queues
    run_worker(settings, QUEUES[queue], name=name, burst=burst, max_jobs=max_jobs)
    return 0


def _run_each(queues: Sequence[str], options: Sequence[str], *, burst: bool) -> int:
    """A worker for each queue, until one of them ends; in a burst, until all have. The status of the one that failed,
    which has said why, or 0. AV2TError: something has killed one."""
    starter = os.getpid()
    workers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        with signals_raise():
            for queue in queues:
                workers[queue] = subprocess.Popen(  # noqa: S603  # the command is a list of our own making, no shell
                    # -P: a folder of the same name where this was started is not what is meant.
                    [sys.executable, "-P", "-m", "av2t", "worker", "--queues", queue, *options],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for this process, which tells the others
                    preexec_fn=lambda: die_with(starter),
                )
            while None in (codes := [worker.poll() for worker in workers.values()]):
                if any(codes) or (0 in codes and not burst):
                    break
                time.sleep(0.2)
            for queue, worker in workers.items():
                code = worker.returncode or 0
                if code < 0:
                    name = signal.Signals(-code).name
                    raise AV2TError(f"the worker of the queue {queue} was ended by signal {name}")
                if code:
                    return code
    except (KeyboardInterrupt, Terminated):
        pass
    finally:
        for worker in workers.values():  # all at once, for each puts down what it has in hand
            worker.terminate()
        for worker in workers.values():
            try:
                worker.wait(GRACE)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
    return 0
