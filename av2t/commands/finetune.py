"""`av2t finetune`: make a project's model better by what people corrected in it."""

import argparse
import sys
import time
from contextlib import ExitStack
from typing import Any, get_args

from redis import Redis

from av2t.console import note, progress_bar
from av2t.options import count
from av2t_core.labelstudio.config import parse_label_config
from av2t_core.text import one_line
from av2t_core.versions.version import resolve
from worker.queue.connection import connect
from worker.queue.queue import TRAIN
from worker.queue.trainings import MOST_EPOCHS, Extra, Training, enqueue_training, training, trainings
from worker.queue.views import State, workers
from worker.settings import Settings

DESCRIPTION = """\
Train the model of a Label Studio project by its submitted annotations, and show how far it is. The result is a new
model version; it becomes the project's own if it is better than the one before.

The worker that `av2t worker` or `av2t up` has started does the work. This command can be stopped at any time: the
training goes on. One training of a project waits at most, and this command shows that one if there is one."""

EXAMPLES = """\
examples:
  av2t finetune --project 3
  av2t finetune --project 3 --no-wait && av2t status --project 3

The exit status is 1 if the training failed."""

INTERVAL = 0.5  # seconds between two looks at the queue
UNITS = {"pulling": "clips", "training": "steps", "judging": "clips"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument("--project", type=count, metavar="N", required=True, help="its number, as its address shows it")
    parser.add_argument(
        "--base-version", metavar="NAME", help="the model version to start from (the project's current one)"
    )
    parser.add_argument("--epochs", type=_epochs, metavar="N", help="how often each clip is looked at, at most")
    parser.add_argument(
        "--also",
        choices=get_args(Extra),
        action="append",
        default=[],
        help="train this, too, beside the adapters and the projector",
    )
    parser.add_argument("--no-wait", action="store_true", help="queue it and do not watch")


def run(args: argparse.Namespace) -> int:
    settings = Settings.load()
    base = None
    if args.base_version is not None:
        version = resolve(args.base_version, settings.models_dir)
        version.check()
        base = version.name
    connection = connect(settings.redis_url, timeout=5)
    listening = workers(connection, TRAIN)  # a Redis that is away should not wait for Label Studio
    from worker.client.label_studio import LabelStudioClient  # seconds, which no help text should take

    with LabelStudioClient.of(settings) as client:
        parse_label_config(client.label_config(args.project))
    job, new = enqueue_training(connection, args.project, base_version=base, epochs=args.epochs, also=args.also)
    print(f"Training {'queued' if new else 'queued earlier'}: {job}", flush=True)
    if not listening:
        note("no worker listens for trainings, so nothing is done: start one with `av2t worker`")
    if args.no_wait:
        return 0
    try:
        return _watch(connection, args.project, job)
    except KeyboardInterrupt:
        note(
            f"no longer watching; the training goes on, see `av2t status --project {args.project}`;"
            f" `av2t cancel --training {args.project}` stops it"
        )
        raise


def _epochs(text: str) -> int:
    epochs = count(text)
    if epochs > MOST_EPOCHS:
        raise argparse.ArgumentTypeError(f"{text} are too many: at most {MOST_EPOCHS}")
    return epochs


def _watch(connection: Redis, project: int, job: str) -> int:
    """Until it has ended; 1 if it failed."""
    if others := [
        each.job for each in trainings(connection, project) if each.state is State.RUNNING and each.job != job
    ]:
        note(f"it begins when {others[0]} has ended")
    with _Bar() as bar:
        while (now := training(connection, job)) is not None and now.state in (State.WAITING, State.RUNNING):
            bar.show(now)
            time.sleep(INTERVAL)
    if now is not None and now.state is State.DONE:
        print(one_line(now.told))
        return 0
    print(f"The training failed: {one_line(now.told) if now else 'nothing is known of it any more'}", file=sys.stderr)
    return 1


class _Bar:
    """A bar for each stage, one after the other."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._of: tuple[str | None, int | None] = (None, None)
        self._bar: Any = None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def show(self, now: Training) -> None:
        stage = now.stage if now.state is State.RUNNING else None
        if (stage, now.total) != self._of:
            self._open.close()
            self._of = (stage, now.total)
            self._bar = (
                self._open.enter_context(progress_bar(stage, now.total, UNITS.get(stage, ""))) if stage else None
            )
        if self._bar is not None:
            self._bar.set_postfix_str(one_line(now.measured), refresh=False)
            self._bar.n = now.done or 0
            self._bar.refresh()
