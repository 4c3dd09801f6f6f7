"""`av2t models promote`, `rollback`, `delete`, `push`, `export` and `import`: what changes something."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from av2t.console import note
from av2t.options import Count, load_settings, share
from av2t.remedies import told
from av2t.signature import Arg
from av2t_core.errors import AV2TError, ConfigError, WeightsError
from av2t_core.files import in_gigabytes
from av2t_core.settings import ModelSettings
from av2t_core.versions import pointers
from av2t_core.versions.bundle import export_version, import_version
from av2t_core.versions.version import resolve
from worker.client.label_studio import LabelStudioClient
from worker.client.reconcile import outdated_tasks
from worker.failures import GoneError, TransientError
from worker.queue.connection import connect
from worker.queue.projects import model_version
from worker.queue.queue import enqueue_preannotation
from worker.settings import Settings

Name = Annotated[str, Arg(metavar="NAME")]
Project = Annotated[Count, Arg(metavar="N")]
File = Annotated[Path, Arg(metavar="FILE")]


def promote(name: Name, *, project: Project) -> None:
    """Have a project use this model version. Label Studio is told, and tasks that nobody has touched are queued for it,
    those of the lowest score first, if AV2T_REPREDICT is always; if it is ask, you are asked. Earlier predictions stay.

    examples:
      av2t models promote small-1-p3-7 --project 3
      av2t models promote small-1 --project 3          what the package ships

    Predictions that tasks have of a version already are not made again.
    """
    settings = load_settings(Settings)
    before = pointers.promote(settings.models_dir, project, name, settings.store)
    back = f"; `av2t models rollback --project {project}` goes back to {before}" if before else ""
    print(f"Project {project} uses {name}{back}", flush=True)
    _follow(settings, project, name)


def rollback(*, project: Project) -> None:
    """Have a project use the model version that it used before the current one. The current one stays, and can be
    promoted again. Tasks are queued as by `av2t models promote`."""
    settings = load_settings(Settings)
    left = pointers.current(settings.models_dir, project)
    name = pointers.rollback(settings.models_dir, project, settings.store)
    print(f"Project {project} uses {name} again, and no longer {left}", flush=True)
    _follow(settings, project, name)


def _follow(settings: Settings, project: int, name: str) -> None:
    """Tell Label Studio, and queue what nobody has touched if that is wanted. It is only noted if either is away: the
    workers and Label Studio find out by themselves."""
    try:
        connection = connect(settings.redis_url, timeout=5)
        with LabelStudioClient(settings) as client:
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
        print(f"Tasks queued for {name}: {enqueue_preannotation(connection, project, tasks, name)}")
    except (AV2TError, TransientError, GoneError) as error:
        note(f"Label Studio was not told, and no task was queued: {told(error)}")


def _agrees(tasks: int) -> bool:
    """Whether a person who is there says yes."""
    question = f"Predict {tasks} tasks that nobody has touched anew? [y/N] "
    return sys.stdin.isatty() and input(question).strip().lower() in {"y", "yes"}


def delete(name: Name) -> None:
    """Delete a model version, and the parts that no other one needs. One that a project uses, or that another version
    loads onto, is not deleted. Its predictions stay in Label Studio."""
    settings = load_settings(ModelSettings)
    if settings.model == name:
        raise WeightsError(f"AV2T_MODEL is {name}: set it to another one first")
    freed = pointers.delete(settings.models_dir, name, settings.store)
    print(f"{name} is gone, and {in_gigabytes(freed)} with it")


def push(names: Annotated[Sequence[str], Arg(metavar="NAME")]) -> None:
    """Bring model versions that are on this machine, and what they load onto, into the model store (AV2T_MODELS_URL).
    What is made while there is one gets there by itself; this is for what was there before, or could not be brought
    there."""
    settings = load_settings(ModelSettings)
    if settings.store is None:
        raise ConfigError("AV2T_MODELS_URL is not set: it names the model store that versions are pushed to")
    for version in [resolve(name, settings.models_dir) for name in names]:
        if version.is_built_in:
            raise WeightsError(f"{version.name} ships with the package: whoever installs that has it")
        share(version, settings)


def export(name: Name, file: Annotated[Path, Arg("that is made, for example barks.zip", "FILE")]) -> None:
    """Write a model version into one file, for `av2t models import` on another machine. It holds what is the version's
    own: that machine needs what it loads onto, too.

    examples:
      av2t models export small-1-p3-7 barks.zip
      unzip -l barks.zip
    """
    version = resolve(name, load_settings(ModelSettings).models_dir)
    export_version(version, file)
    needs = f"; the other machine needs {version.base.name}, too" if version.base else ""
    print(f"{file} holds {version.name}, {in_gigabytes(file.stat().st_size)}{needs}")


def import_file(file: File) -> None:
    """Take a model version out of a file that `av2t models export` wrote. Everything in it is checked: its hashes, its
    names, and that what it loads onto is here and is the same. Nothing that is here is replaced."""
    settings = load_settings(ModelSettings)
    version, new = import_version(file, settings.models_dir)
    then = " already"
    if new:
        then = f": `av2t models show {version.name}` tells of it, `av2t models promote {version.name} --project"
        then += f" {version.card.project or 'N'}` has a project use it"
    print(f"{version.name} is in {settings.models_dir}{then}", flush=True)
    share(version, settings)
