"""`av2t submit`: queue a whole project, and watch it."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from redis import Redis

from av2t.console import note, progress_bar
from av2t.options import count
from av2t_core.labelstudio.config import parse_label_config
from av2t_core.text import one_line
from av2t_core.versions.version import resolve
from worker.queue.connection import connect
from worker.queue.projects import Project
from worker.queue.queue import enqueue_preannotation
from worker.queue.views import State, failed_jobs, overview, states
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.client.label_studio import LabelStudioClient

DESCRIPTION = """\
Queue every task of a Label Studio project that has no prediction of the current model version yet, and show how they
are worked off by the workers that `av2t worker` or `av2t up` has started.

It can be stopped at any time: what is queued stays queued. Given again it queues only what is missing, and goes on to
watch. What failed before is left to `av2t retry`."""

EXAMPLES = """\
examples:
  av2t submit --project 3
  av2t submit --project 3 --only-unlabeled --limit 100
  av2t submit --project 3 --detach && av2t status --project 3

The exit status is 1 if a task failed."""

INTERVAL = 0.5  # seconds between two looks at the queue
MAX_FAILURES = 20
ENDED = {State.DONE, State.FAILED, State.GONE}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument("--project", type=count, metavar="N", required=True, help="its number, as its address shows it")
    parser.add_argument("--only-unlabeled", action="store_true", help="leave out tasks that have an annotation")
    parser.add_argument("--limit", type=count, metavar="K", help="queue the first K tasks and no more")
    parser.add_argument("--model", metavar="NAME", help="preset or model version (the project's own, else AV2T_MODEL)")
    parser.add_argument("--detach", action="store_true", help="queue them and do not watch")


def run(args: argparse.Namespace) -> int:
    settings = Settings.load(model=args.model)
    version = resolve(settings.model, settings.models_dir)
    version.check()
    connection = connect(settings.redis_url, timeout=5)
    overview(connection)  # a Redis that is away should not wait for Label Studio's list
    from worker.client.label_studio import LabelStudioClient  # seconds, which no help text should take

    with LabelStudioClient.of(settings) as client:
        project = client.project(args.project)
        parse_label_config(project.label_config)
        pinned = project.model_version if project.pinned else ""
        chosen = Project(id=args.project, label_config=project.label_config, chosen=pinned)
        model_version = version.name if args.model else chosen.model_version(settings)
        tasks = _wanted(client, args, model_version)
    new = enqueue_preannotation(connection, args.project, tasks, model_version).new
    earlier = len(tasks) - new
    print(f"Tasks queued for {model_version}: {new}" + (f"; queued earlier: {earlier}" if earlier else ""), flush=True)
    if args.detach or not tasks:
        return 0
    try:
        return _watch(connection, args.project, tasks, model_version)
    except KeyboardInterrupt:
        note(f"no longer watching; what is queued stays queued, see `av2t status --project {args.project}`")
        raise


def _wanted(client: "LabelStudioClient", args: argparse.Namespace, model_version: str) -> list[int]:
    """The tasks that are to have a prediction of this model version and have none; it says how many are left out."""
    found: Counter[str] = Counter()

    def missing() -> Iterator[int]:
        with progress_bar("looking through the project", None, "tasks") as bar:
            for task in client.tasks(args.project):
                bar.update()
                if model_version in task.model_versions:
                    found["predicted already"] += 1
                elif args.only_unlabeled and task.labelled:
                    found["labelled"] += 1
                else:
                    yield task.id

    wanted = list(islice(missing(), args.limit))
    if found:
        print("Tasks left out: " + ", ".join(f"{number} {why}" for why, number in found.items()))
    return wanted


def _watch(connection: Redis, project: int, tasks: Sequence[int], model_version: str) -> int:
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
