"""`av2t models promote`, `rollback`, `delete`, `push`, `export` and `import`: what changes something."""

import argparse
import sys

from av2t.console import note
from av2t.mirror import share
from av2t.remedies import told
from av2t_core.errors import AV2TError, ConfigError, WeightsError
from av2t_core.files import in_gigabytes
from av2t_core.versions import pointers
from av2t_core.versions.bundle import export_version, import_version
from av2t_core.versions.version import BUILT_IN, resolve
from worker.client.reconcile import outdated_tasks
from worker.failures import GoneError, TransientError
from worker.queue.connection import connect
from worker.queue.projects import model_version
from worker.queue.queue import enqueue_preannotation
from worker.settings import Settings


def promote(args: argparse.Namespace) -> int:
    settings = Settings.load()
    before = pointers.promote(settings.models_dir, args.project, args.name, settings.store)
    back = f"; `av2t models rollback --project {args.project}` goes back to {before}" if before else ""
    print(f"Project {args.project} uses {args.name}{back}", flush=True)
    _follow(settings, args.project, args.name)
    return 0


def rollback(args: argparse.Namespace) -> int:
    settings = Settings.load()
    left = pointers.current(settings.models_dir, args.project)
    name = pointers.rollback(settings.models_dir, args.project, settings.store)
    print(f"Project {args.project} uses {name} again, and no longer {left}", flush=True)
    _follow(settings, args.project, name)
    return 0


def _follow(settings: Settings, project: int, name: str) -> None:
    """Tell Label Studio, and queue what nobody has touched if that is wanted. It is only noted if either is away: the
    workers and Label Studio find out by themselves."""
    try:
        connection = connect(settings.redis_url, timeout=5)
        from worker.client.label_studio import LabelStudioClient  # seconds, and most of these commands need none

        with LabelStudioClient.of(settings) as client:
            client.is_connected(project)  # by which Label Studio asks the backend what it has
            used = model_version(connection, project, settings)
            if used != name:
                note(
                    f"in Label Studio the project is pinned to {used} and goes on with that: choose the backend in the"
                    " project's Settings > Predictions to end that"
                )
                return
            tasks = [] if settings.repredict == "never" else outdated_tasks(connection, client, settings, project)[1]
        if not tasks:
            return
        if settings.repredict == "ask" and not _agrees(len(tasks)):
            note(
                f"predictions of earlier versions stay as they are on {len(tasks)} tasks that nobody has touched;"
                f" `av2t submit --project {project} --only-unlabeled` has them predicted by {name}"
            )
            return
        print(f"Tasks queued for {name}: {enqueue_preannotation(connection, project, tasks, name).new}")
    except (AV2TError, TransientError, GoneError) as error:
        note(f"Label Studio was not told, and no task was queued: {told(error)}")


def _agrees(tasks: int) -> bool:
    """Whether a person who is there says yes."""
    if not sys.stdin.isatty():
        return False
    return input(f"Predict {tasks} tasks that nobody has touched anew? [y/N] ").strip().lower() in {"y", "yes"}


def delete(args: argparse.Namespace) -> int:
    settings = Settings.load()
    if settings.model == args.name:
        raise WeightsError(f"AV2T_MODEL is {args.name}: set it to another one first")
    freed = pointers.delete(settings.models_dir, args.name, settings.store)
    print(f"{args.name} is gone, and {in_gigabytes(freed)} with it")
    return 0


def push(args: argparse.Namespace) -> int:
    settings = Settings.load()
    if settings.store is None:
        raise ConfigError("AV2T_MODELS_URL is not set: it names the model store that versions are pushed to")
    for version in [resolve(name, settings.models_dir) for name in args.names]:
        if version.directory.parent == BUILT_IN:
            raise WeightsError(f"{version.name} ships with the package: whoever installs that has it")
        share(version)
    return 0


def export(args: argparse.Namespace) -> int:
    version = resolve(args.name, Settings.load().models_dir)
    export_version(version, args.file)
    needs = f"; the other machine needs {version.base.name}, too" if version.base else ""
    print(f"{args.file} holds {version.name}, {in_gigabytes(args.file.stat().st_size)}{needs}")
    return 0


def bring(args: argparse.Namespace) -> int:
    models_dir = Settings.load().models_dir
    version, new = import_version(args.file, models_dir)
    if not new:
        print(f"{version.name} is in {models_dir} already")
        share(version)
        return 0
    project = version.card.project or "N"
    print(
        f"{version.name} is in {models_dir}: `av2t models show {version.name}` tells of it,"
        f" `av2t models promote {version.name} --project {project}` has a project use it",
        flush=True,
    )
    share(version)
    return 0
