"""`av2t submit`, `finetune`, `status`, `cancel` and `retry`: what the queue is given, what it holds, and what of it is
stopped or done again."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

from redis import Redis

from av2t.console import note, progress_bar, report, table
from av2t.options import Count, load_settings, reading
from av2t.signature import Arg
from av2t_core.errors import AV2TError
from av2t_core.labelstudio.label_config import parse_label_config
from av2t_core.text import one_line
from av2t_core.versions.version import resolve
from worker.client.label_studio import LabelStudioClient
from worker.client.projects import project_state
from worker.queue.connection import connect
from worker.queue.kind import State
from worker.queue.projects import Project, is_kept
from worker.queue.queue import enqueue_preannotation, enqueue_training, retry_failed, stop_jobs
from worker.queue.training import MOST_EPOCHS, TRAIN, Extra, Training
from worker.queue.views import (
    FailedJob,
    Overview,
    RetriedJob,
    RunningJob,
    WorkerState,
    failed_jobs,
    overview,
    retried_jobs,
    states,
    training,
    trainings,
    workers,
)
from worker.settings import Settings

MAX_FAILURES = 20
MAX_TRAININGS = 5
INTERVAL = 0.5  # seconds between two looks at the queue
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
    version = resolve(settings.model, settings.models_dir).check()
    connection = connect(settings.redis_url, timeout=5)
    overview(connection)  # a Redis that is away should not wait for Label Studio's list
    with LabelStudioClient(settings) as client:
        state = project_state(client.api, project)
        parse_label_config(state.label_config)
        chosen = Project(id=project, label_config=state.label_config, chosen=state.chosen)
        name = version.name if model else chosen.model_version(settings)
        found: Counter[str] = Counter()
        tasks = list(islice(_missing(client, project, name, found, only_unlabeled=only_unlabeled), limit))
    if found:
        print("Tasks left out: " + ", ".join(f"{number} {why}" for why, number in found.items()))
    new = enqueue_preannotation(connection, project, tasks, name)
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
    client: LabelStudioClient, project: int, model_version: str, found: Counter[str], *, only_unlabeled: bool
) -> Iterator[int]:
    """The tasks that are to have a prediction of this model version and have none; `found` counts the others."""
    with progress_bar("looking through the project", None, "tasks") as bar:
        for task in client.tasks(project):
            bar.update()
            if model_version in task.predictions_model_versions:
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
            later = [] if running else retried_jobs(connection, project, limit=1)
            waits = f", tries again in {later[0].seconds} s: {one_line(later[0].error)}" if later else ""
            bar.set_postfix_str(f"{running} running, {ended[State.FAILED]} failed{waits}", refresh=False)
            bar.update(ended.total() - bar.n)
            if left:
                time.sleep(INTERVAL)
    print(", ".join(f"{number} {state}" for state, number in sorted(ended.items())))
    mine = {(task, model_version) for task in tasks}
    failures = [job for job in failed_jobs(connection, project) if (job.task, job.model_version) in mine]
    for job in failures[:MAX_FAILURES]:
        print(f"task {job.task}: {one_line(job.error)}", file=sys.stderr)
    if len(failures) > MAX_FAILURES:
        note(f"and {len(failures) - MAX_FAILURES} more, see `av2t status --project {project} --json`")
    if failures:
        note(f"correct the cause, then `av2t retry --project {project}`")
    return 1 if ended[State.FAILED] else 0


Epochs = Annotated[int, reading(int, lambda value: 1 <= value <= MOST_EPOCHS, f"must be 1 to {MOST_EPOCHS}")]


def finetune(
    *,
    project: ProjectNumber,
    base_version: Annotated[str | None, Arg("model version to start from (the project's current one)", "NAME")] = None,
    epochs: Annotated[Epochs | None, Arg("how often each clip is looked at, at most", "N")] = None,
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
    if base_version is not None:
        base_version = resolve(base_version, settings.models_dir).check().name
    connection = connect(settings.redis_url, timeout=5)
    listening = workers(connection, TRAIN)  # a Redis that is away should not wait for Label Studio
    with LabelStudioClient(settings) as client:
        parse_label_config(client.label_config(project))
    job, new = enqueue_training(connection, project, base_version=base_version, epochs=epochs, also=also or ())
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
                shown = (stage, now.total)
                bar = stage and stack.enter_context(progress_bar(stage, now.total, UNITS.get(stage, "")))
            if bar:
                bar.set_postfix_str(one_line(now.measured), refresh=False)
                bar.n = now.done or 0
                bar.refresh()
            time.sleep(INTERVAL)
    if now is not None and now.state is State.DONE:
        print(one_line(now.told))
        return 0
    print(f"The training failed: {one_line(now.told) if now else 'nothing is known of it any more'}", file=sys.stderr)
    return 1


def status(
    *,
    project: Annotated[int | None, Arg("only the tasks and trainings of project N", "N")] = None,
    json: Annotated[bool, Arg("print JSON, with every failed task")] = False,
) -> None:
    """Show what is queued, running and failed.

    The exit status is 2 if nothing is known of project N.
    """
    connection = _redis()
    state = overview(connection, project)
    failures = failed_jobs(connection, project, limit=None if json else MAX_FAILURES)
    retried = retried_jobs(connection, project, limit=None if json else MAX_FAILURES)
    learnt = trainings(connection, project, limit=None if json else MAX_TRAININGS)
    if project is not None and not (any(state.by_state.values()) or learnt or is_kept(connection, project)):
        raise AV2TError(
            f"Nothing is known of project {project}: Label Studio has not connected it to the backend, and neither a"
            f" task nor a training of it was queued. The number is in its address, as in /projects/{project}/data"
        )
    trainers = workers(connection, TRAIN)
    lists: dict[str, Sequence[Any]] = {
        "retried": retried,
        "failures": failures,
        "trainings": learnt,
        "trainers": trainers,
    }
    found = {**asdict(state), **{name: [asdict(each) for each in its] for name, its in lists.items()}}
    report(found, _lines(state, retried, failures, learnt, trainers), json=json, indent=2)


def cancel(
    *,
    task: Annotated[int | None, Arg("task N, for whatever model version", "N", exclusive=True)] = None,
    project: Annotated[int | None, Arg("the tasks of project N", "N", exclusive=True)] = None,
    all: Annotated[bool, Arg("the tasks of all projects", exclusive=True)] = False,
    training: Annotated[int | None, Arg("project N's training, and the one that waits", "N", exclusive=True)] = None,
) -> None:
    """Stop what waits or runs. A running task ends within seconds, without a prediction, and a training without a
    model version. What was stopped counts as failed: `av2t retry` queues stopped tasks again, `av2t finetune` asks for
    a new training."""
    connection = _redis()
    if training is not None:
        print(f"Trainings stopped: {stop_jobs(connection, training, queue=TRAIN)}")
    else:
        print(f"Tasks stopped: {stop_jobs(connection, project, task)}")


def retry(*, project: Annotated[int | None, Arg("only the tasks of project N", "N")] = None) -> None:
    """Queue failed tasks again."""
    where = "" if project is None else f" of project {project}"
    print(f"Failed tasks{where} queued again: {retry_failed(_redis(), project)}")


def _redis() -> Redis:
    return connect(Settings.load().redis_url, timeout=5)


def _lines(
    state: Overview,
    retried: list[RetriedJob],
    failures: list[FailedJob],
    learnt: list[Training],
    trainers: Sequence[WorkerState],
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
    lines += table("Running", [_job(job, _progress(job)) for job in state.running])
    lines += table("Tried again later", [_job(job, f"in {job.seconds} s: {job.error}") for job in retried])
    newest = [[f"project {each.project}", each.version or "", each.state, each.told] for each in learnt]
    lines += table("Trainings, the newest first", newest)
    shown = "" if len(failures) == state.failed else f" (the newest {len(failures)} of {state.failed})"
    failed = [[job.id, "", "", job.error] if job.task is None else _job(job, job.error) for job in failures]
    return lines + table(f"Failed{shown}, `av2t retry` queues them again", failed)


def _worker(worker: WorkerState) -> list[str]:
    counts = f"{worker.succeeded} done, {worker.failed} failed"
    return [worker.name, f"{worker.host}:{worker.pid}", worker.state, counts]


def _progress(job: RunningJob) -> str:
    return "starting" if job.done is None else f"{job.done} of {job.total or '?'} keyframes"


def _job(job: RunningJob | RetriedJob | FailedJob, said: str) -> list[str]:
    return [f"project {job.project}", f"task {job.task}", job.model_version or "", said]
