"""`av2t submit` and `av2t finetune`: queue the work on a project, and watch it."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from redis import Redis

from av2t.console import note, progress_bar
from av2t.options import Count, count
from av2t.signature import Arg
from av2t.store import load_settings
from av2t_core.labelstudio.config import parse_label_config
from av2t_core.text import one_line
from av2t_core.versions.version import resolve
from worker.queue.connection import connect
from worker.queue.projects import Project
from worker.queue.queue import TRAIN, enqueue_preannotation
from worker.queue.trainings import MOST_EPOCHS, Extra, enqueue_training, training, trainings
from worker.queue.views import State, failed_jobs, overview, states, workers
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.client.label_studio import LabelStudioClient

INTERVAL = 0.5  # seconds between two looks at the queue
MAX_FAILURES = 20
ENDED = {State.DONE, State.FAILED, State.GONE}
UNITS = {"pulling": "clips", "training": "steps", "judging": "clips"}

ProjectNumber = Annotated[Count, Arg("its number, as its address shows it", "N")]


def submit(
    *,
    project: ProjectNumber,
    only_unlabeled: Annotated[bool, Arg("leave out tasks that have an annotation")] = False,
    limit: Annotated[Count | None, Arg("queue the first K tasks and no more", "K")] = None,
    model: Annotated[str | None, Arg("preset or model version (the project's own, else AV2T_MODEL)", "NAME")] = None,
    detach: Annotated[bool, Arg("queue them and do not watch")] = False,
) -> int:
    """Queue every task of a Label Studio project that has no prediction of the current model version yet, and show how
    they are worked off by the workers that `av2t worker` or `av2t up` has started.

    It can be stopped at any time: what is queued stays queued. Given again it queues only what is missing, and goes on
    to watch. What failed before is left to `av2t retry`.

    examples:
      av2t submit --project 3
      av2t submit --project 3 --only-unlabeled --limit 100
      av2t submit --project 3 --detach && av2t status --project 3

    The exit status is 1 if a task failed.
    """
    settings = load_settings(Settings, model=model)
    version = resolve(settings.model, settings.models_dir)
    version.check()
    connection = connect(settings.redis_url, timeout=5)
    overview(connection)  # a Redis that is away should not wait for Label Studio's list
    from worker.client.label_studio import LabelStudioClient  # seconds, which no help text should take

    with LabelStudioClient.of(settings) as client:
        state = client.project(project)
        parse_label_config(state.label_config)
        chosen = Project(
            id=project, label_config=state.label_config, chosen=state.model_version if state.pinned else ""
        )
        name = version.name if model else chosen.model_version(settings)
        found: Counter[str] = Counter()
        tasks = list(islice(_missing(client, project, name, found, only_unlabeled=only_unlabeled), limit))
    if found:
        print("Tasks left out: " + ", ".join(f"{number} {why}" for why, number in found.items()))
    new = enqueue_preannotation(connection, project, tasks, name).new
    earlier = len(tasks) - new
    print(f"Tasks queued for {name}: {new}" + (f"; queued earlier: {earlier}" if earlier else ""), flush=True)
    if detach or not tasks:
        return 0
    try:
        return _watch_tasks(connection, project, tasks, name)
    except KeyboardInterrupt:
        note(f"no longer watching; what is queued stays queued, see `av2t status --project {project}`")
        raise


def _missing(
    client: "LabelStudioClient", project: int, model_version: str, found: Counter[str], *, only_unlabeled: bool
) -> Iterator[int]:
    """The tasks that are to have a prediction of this model version and have none; `found` counts the others."""
    with progress_bar("looking through the project", None, "tasks") as bar:
        for task in client.tasks(project):
            bar.update()
            if model_version in task.model_versions:
                found["predicted already"] += 1
            elif only_unlabeled and task.labelled:
                found["labelled"] += 1
            else:
                yield task.id


def _watch_tasks(connection: Redis, project: int, tasks: Sequence[int], model_version: str) -> int:
    """Until all of them have ended; 1 if one failed."""
    if not overview(connection).workers:
        note("no worker listens, so nothing is done: start one with `av2t worker`")
    ended: Counter[State] = Counter()
    left = list(tasks)
    with progress_bar("pre-annotating", len(tasks), "tasks") as bar:
        while left:
            now = states(connection, project, left, model_version)
            ended.update(state for state in now.values() if state in ENDED)
            left = [task for task in left if now[task] not in ENDED]
            running = sum(state is State.RUNNING for state in now.values())
            bar.set_postfix_str(f"{running} running, {ended[State.FAILED]} failed", refresh=False)
            bar.update(ended.total() - bar.n)
            if left:
                time.sleep(INTERVAL)
    print(", ".join(f"{number} {state}" for state, number in sorted(ended.items())))
    mine = set(tasks)
    failures = [
        job for job in failed_jobs(connection, project) if job.task in mine and job.model_version == model_version
    ]
    for job in failures[:MAX_FAILURES]:
        print(f"task {job.task}: {one_line(job.error)}", file=sys.stderr)
    if len(failures) > MAX_FAILURES:
        note(f"and {len(failures) - MAX_FAILURES} more, see `av2t status --project {project} --json`")
    if failures:
        note(f"correct the cause, then `av2t retry --project {project}`")
    return 1 if ended[State.FAILED] else 0


def _epochs(text: str) -> int:
    if (epochs := count(text)) > MOST_EPOCHS:
        raise argparse.ArgumentTypeError(f"{text} are too many: at most {MOST_EPOCHS}")
    return epochs


def finetune(
    *,
    project: ProjectNumber,
    base_version: Annotated[
        str | None, Arg("the model version to start from (the project's current one)", "NAME")
    ] = None,
    epochs: Annotated[int | None, _epochs, Arg("how often each clip is looked at, at most", "N")] = None,
    also: Annotated[list[Extra] | None, Arg("train this, too, beside the adapters and the projector")] = None,
    no_wait: Annotated[bool, Arg("queue it and do not watch")] = False,
) -> int:
    """Train the model of a Label Studio project by its submitted annotations, and show how far it is. The result is a
    new model version; it becomes the project's own if it is better than the one before.

    The worker that `av2t worker` or `av2t up` has started does the work. This command can be stopped at any time: the
    training goes on. One training of a project waits at most, and this command shows that one if there is one.

    examples:
      av2t finetune --project 3
      av2t finetune --project 3 --no-wait && av2t status --project 3

    The exit status is 1 if the training failed.
    """
    settings = load_settings(Settings)
    base = None
    if base_version is not None:
        version = resolve(base_version, settings.models_dir)
        version.check()
        base = version.name
    connection = connect(settings.redis_url, timeout=5)
    listening = workers(connection, TRAIN)  # a Redis that is away should not wait for Label Studio
    from worker.client.label_studio import LabelStudioClient  # seconds, which no help text should take

    with LabelStudioClient.of(settings) as client:
        parse_label_config(client.label_config(project))
    job, new = enqueue_training(connection, project, base_version=base, epochs=epochs, also=also or ())
    print(f"Training {'queued' if new else 'queued earlier'}: {job}", flush=True)
    if not listening:
        note("no worker listens for trainings, so nothing is done: start one with `av2t worker`")
    if no_wait:
        return 0
    try:
        return _watch_training(connection, project, job)
    except KeyboardInterrupt:
        note(
            f"no longer watching; the training goes on, see `av2t status --project {project}`;"
            f" `av2t cancel --training {project}` stops it"
        )
        raise


def _watch_training(connection: Redis, project: int, job: str) -> int:
    """Until it has ended, with a bar for each stage; 1 if it failed."""
    running = [each.job for each in trainings(connection, project) if each.state is State.RUNNING and each.job != job]
    if running:
        note(f"it begins when {running[0]} has ended")
    shown, bar = None, None
    with ExitStack() as stack:
        while (now := training(connection, job)) is not None and now.state not in ENDED:
            stage = now.stage if now.state is State.RUNNING else None
            if shown != (stage, now.total):
                stack.close()
                shown, bar = (stage, now.total), _bar_of(stage, now.total, stack)
            if bar is not None:
                bar.set_postfix_str(one_line(now.measured), refresh=False)
                bar.n = now.done or 0
                bar.refresh()
            time.sleep(INTERVAL)
    if now is not None and now.state is State.DONE:
        print(one_line(now.told))
        return 0
    print(f"The training failed: {one_line(now.told) if now else 'nothing is known of it any more'}", file=sys.stderr)
    return 1


def _bar_of(stage: str | None, total: int | None, stack: ExitStack) -> Any:
    return stack.enter_context(progress_bar(stage, total, UNITS.get(stage, ""))) if stage else None
