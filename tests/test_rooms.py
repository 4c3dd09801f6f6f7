"""The rooms of the house: who may import whom, and that each can be told apart from the others."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("av2t", "av2t_core", "backend", "worker")
FILES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# What the modules below a place may import of this project; the first that fits counts. What a person can do about an
# error is said by whoever shows it.
REMEDIES = "av2t.remedies"
MAY_IMPORT = {
    "av2t_core/media": ("av2t_core.errors", "av2t_core.limits", "av2t_core.media"),
    "av2t_core/data": ("av2t_core.errors", "av2t_core.files", "av2t_core.media", "av2t_core.data"),
    "av2t_core": ("av2t_core",),
    "worker/queue": ("av2t_core", "worker.queue", "worker.settings", REMEDIES),
    "worker/client": ("av2t_core", "worker.queue", "worker.settings", "worker.failures", "worker.client", REMEDIES),
    "worker": ("av2t_core", "worker", REMEDIES),
    "backend": ("av2t_core", "backend", "worker.queue", "worker.settings", REMEDIES),
    "av2t": PACKAGES,
}

MOST_FILES = 15

TWO_SIDES = {
    "annotations.py",  # of Label Studio, fetched; and read into masks
    "connection.py",  # to Label Studio, and to Redis
    "memory.py",  # what a process holds, and what a worker's may hold
    "preannotation.py",  # the kind of job, and what it does
    "projects.py",  # in Label Studio, and what the queue knows of them
    "queue.py",  # the commands, and what they do
    "settings.py",  # of the model, and of the service
    "train.py",  # the command, and what it does
}
"""Names of two files that are the same thing on two sides."""


def imported(file: Path) -> Iterator[str]:
    """The modules of this project that the file imports, wherever in it."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                # `from worker import settings` and `from worker.settings import Settings` name the same module.
                yield from (f"{module}.{each.name}" for each in names)
            case ast.Import(names=names):
                yield from (each.name for each in names)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_room_imports_only_what_it_may(file: Path) -> None:
    allowed = next(may for place, may in MAY_IMPORT.items() if file.is_relative_to(place))
    for name in imported(file):
        if name.split(".")[0] in PACKAGES:
            assert any(name == each or name.startswith(f"{each}.") for each in allowed), f"{file} imports {name}"


def test_no_room_has_more_files_than_one_can_overlook() -> None:
    rooms = Counter(file.parent for file in FILES if file.name != "__init__.py")
    assert {str(room): count for room, count in rooms.items() if count > MOST_FILES} == {}


def test_files_of_one_name_are_two_sides_of_one_thing() -> None:
    names = Counter(file.name for file in FILES if not file.name.startswith("__"))
    assert {name for name, count in names.items() if count > 1} == TWO_SIDES
