"""`av2t worker`: take tasks from the queue and pre-annotate them."""

import argparse

from av2t.options import count
from av2t_core.versions import resolve
from worker.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Take tasks from the queue, predict what sounds in their clips, and write frames and predictions into Label "
        "Studio. Start one for each GPU, on as many machines as you like; they share the work. Ctrl-C or SIGTERM stops "
        "it within seconds and puts the task in hand back."
    )
    parser.add_argument("--model", metavar="NAME", help="preset or model version (AV2T_MODEL)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (AV2T_DEVICE)")
    parser.add_argument("--burst", action="store_true", help="end when the queue is empty")
    parser.add_argument("--max-jobs", metavar="N", type=count, help="end after so many tasks")
    parser.add_argument("--name", help="what the status page calls it; a suffix makes it unique (the host's name)")


def run(args: argparse.Namespace) -> int:
    from worker.worker import run_worker  # only now, so that --help is quick

    settings = Settings.load(model=args.model, device=args.device)
    settings.require_api_key()
    resolve(settings.model, settings.models_dir).check()  # before the model's process, which takes seconds to say it
    run_worker(settings, name=args.name, burst=args.burst, max_jobs=args.max_jobs)
    return 0
