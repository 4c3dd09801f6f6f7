"""Which model version each project uses. Any process may change it, at any time, and the files are small to read.

    projects/<project>.json    {"current": name, "history": [what was current before, the newest last]}

A project without such a file uses what the settings name. Where there is a model store, its pointers are the ones that
count: they are changed there first, and what lies here follows. Nothing here imports torch.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from av2t_core.errors import Remedy, StoreAwayError, WeightsError
from av2t_core.files import atomic_file, locked, read_plain, writing
from av2t_core.limits import LARGEST_CARD
from av2t_core.versions.names import CARD_FILE, PROJECTS_FOLDER, REPLAY_FILE, check_name, pointer_file
from av2t_core.versions.store import Store
from av2t_core.versions.version import Version, damaged, find, installed


@dataclass(frozen=True, kw_only=True)
class Pointer:
    current: str
    history: tuple[str, ...] = ()


def current(models_dir: Path, project: int) -> str | None:
    """What it is to use, whether that is still there or not; None: nobody has said. WeightsError as for `read`."""
    pointer = read(models_dir, project)
    return pointer.current if pointer else None


def read(models_dir: Path, project: int) -> Pointer | None:
    """WeightsError: it is damaged."""
    path = models_dir / pointer_file(project)
    try:
        return _parsed(read_plain(path, LARGEST_CARD), str(path), project)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(str(path), project, error) from None


def read_all(models_dir: Path) -> dict[int, Pointer]:
    """Of all projects that have one, by their numbers. WeightsError: one is damaged."""
    projects = sorted(int(path.stem) for path in (models_dir / PROJECTS_FOLDER).glob("*.json") if path.stem.isdecimal())
    return {project: pointer for project in projects if (pointer := read(models_dir, project))}


def take(models_dir: Path, project: int, store: Store) -> None:
    """Have the project's pointer as the store has it, if it has one. WeightsError: it is damaged. StoreAwayError."""
    text = store.read(pointer_file(project))
    if text is not None:
        where = f"{pointer_file(project)} in the model store {store.url}"
        _write(models_dir, project, _parsed(text, where, project), None)


def promote(models_dir: Path, project: int, name: str, store: Store | None = None) -> str | None:
    """Have the project use this version from now on; to which one a rollback goes, None if to none.

    Before the first one the project used the root of that version's chain, as far as can be known here.
    WeightsError: there is no such version, it cannot predict, or it is not in the store. StoreAwayError.
    """
    with changing(models_dir):
        version = _existing(name, models_dir).check()
        if store and not version.is_built_in and not store.has(version):
            raise WeightsError(f"{name} is not in the model store {store.url}", Remedy.PUSH, name=name)
        try:
            if store:
                take(models_dir, project, store)
            before = read(models_dir, project)
        except StoreAwayError:
            raise
        except WeightsError:  # which says to do this
            before = None
        before = before or Pointer(current=version.chain[-1].name)
        history = before.history if before.current == name else (*before.history, before.current)
        _write(models_dir, project, Pointer(current=name, history=history), store)
    return history[-1] if history else None


def rollback(models_dir: Path, project: int, store: Store | None = None) -> str:
    """Have the project use what it used before; that one's name. WeightsError: it is gone or harmed. StoreAwayError."""
    with changing(models_dir):
        if store:
            take(models_dir, project, store)
        pointer = read(models_dir, project)
        if pointer is None or not pointer.history:
            why = f"project {project} has no earlier model version to go back to"
            raise WeightsError(why, Remedy.PROMOTE, project=project)
        name = pointer.history[-1]
        if (version := find(name, models_dir)) is None:
            raise WeightsError(f"project {project} used {name} before, which is gone", Remedy.PROMOTE, project=project)
        version.check()
        _write(models_dir, project, Pointer(current=name, history=pointer.history[:-1]), store)
        return name


def delete(models_dir: Path, name: str, store: Store | None = None) -> int:
    """Take the version away, and its parts that no other one names; how many bytes are free for it here.

    WeightsError: there is none, it ships with the package, a project uses it, or another version loads onto it.
    StoreAwayError.
    """
    with changing(models_dir):
        version = _existing(name, models_dir)
        if version.is_built_in:
            raise WeightsError(f"{name} ships with the package and stays")
        pointers = read_all(models_dir)
        if projects := [str(project) for project, pointer in pointers.items() if pointer.current == name]:
            why = f"{name} is the current model version of project {' and '.join(projects)}"
            raise WeightsError(why, Remedy.ROLLBACK, project=projects[0])
        if children := [each.name for each in installed(models_dir) if each.card.loads_onto == name]:
            verb = "loads" if len(children) == 1 else "load"
            raise WeightsError(f"{' and '.join(children)} {verb} onto {name}, and must be deleted first")
        for project, pointer in pointers.items():
            if name in pointer.history:
                _write(models_dir, project, _without(pointer, name), store)
        if store and store.has(version):
            files = [version.directory / CARD_FILE, *_own(version), version.directory / REPLAY_FILE]
            store.remove(version.member(path) for path in files)
        return remove_version(version)


def _existing(name: str, models_dir: Path) -> Version:
    if (version := find(name, models_dir)) is None:
        raise WeightsError(f"there is no model version {name!r}", Remedy.LIST_VERSIONS)
    return version


def remove_version(version: Version) -> int:
    """Delete it here, and its parts that no other version names; how many bytes that frees."""
    own, models_dir = _own(version), version.directory.parent
    freed = sum(path.stat().st_size for path in own if path.exists())
    version.directory.rename(models_dir / f".{version.name}.deleted")  # gone at once, whenever this process ends
    for left in models_dir.glob(".*.deleted"):
        shutil.rmtree(left)
    for path in own:
        path.unlink(missing_ok=True)
    return freed


def _own(version: Version) -> list[Path]:
    """Its weights, and its parts that no other version names."""
    models_dir = version.directory.parent
    if damaged(models_dir):  # whose cards may name any part
        return [version.weights]
    shared = {path for each in installed(models_dir) if each.name != version.name for path, _ in each.own_files}
    return [path for path, _ in version.own_files if path not in shared]


def _parsed(text: bytes, where: str, project: int) -> Pointer:
    try:
        fields = json.loads(text)
        return Pointer(current=check_name(fields["current"]), history=tuple(map(check_name, fields["history"])))
    except (ValueError, TypeError, KeyError, WeightsError) as error:
        raise _damaged(where, project, error) from None


def _damaged(where: str, project: int, error: Exception) -> WeightsError:
    said = f"{where} does not say which model version project {project} uses ({error})"
    return WeightsError(said, Remedy.PROMOTE, project=project)


def _without(pointer: Pointer, name: str) -> Pointer:
    """What was current before and after it may be the same, and is there once."""
    names = [each for each, _ in groupby(each for each in (*pointer.history, pointer.current) if each != name)]
    return Pointer(current=names[-1], history=tuple(names[:-1]))


@contextmanager
def changing(models_dir: Path) -> Iterator[None]:
    """Within it no other process changes a pointer, or deletes a version. WeightsError: the folder is not writable."""
    folder = models_dir / PROJECTS_FOLDER
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            yield


def _write(models_dir: Path, project: int, pointer: Pointer, store: Store | None) -> None:
    member, text = pointer_file(project), json.dumps(asdict(pointer))
    if store:
        store.write_text(member, text.encode())
    with atomic_file(models_dir / member, sync=True) as aside:
        aside.write_text(text)
