"""Which version a project uses: files, several processes, kills in the middle."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from av2t.remedies import told
from av2t_core.errors import WeightsError
from av2t_core.versions.pointers import Pointer, current, delete, promote, read, read_all, rollback
from av2t_core.versions.saving import save_part, save_version
from av2t_core.versions.version import find, resolve
from tests.conftest import EMBEDDED, wait_until


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """With mine-1, and two that load onto it, one onto the other."""
    make(tmp_path, "mine-1")
    make(tmp_path, "mine-1-p3-1", parent="mine-1", onto_parent=True)
    make(tmp_path, "mine-1-p3-2", parent="mine-1-p3-1", onto_parent=True)
    return tmp_path


def make(models_dir: Path, name: str, **card: object) -> None:
    save_version(models_dir / name, {"preset": "tiny", "labels": [], **card}, {"model.weight": torch.ones(2)})


def test_a_project_that_nobody_has_given_a_version_has_none(models_dir: Path) -> None:
    assert current(models_dir, 3) is None
    assert current(models_dir / "none", 3) is None
    assert read_all(models_dir) == {}


def test_promoted_and_taken_back(models_dir: Path) -> None:
    promote(models_dir, 3, "mine-1-p3-1")
    promote(models_dir, 3, "mine-1-p3-2")
    promote(models_dir, 3, "mine-1-p3-2")
    assert current(models_dir, 3) == "mine-1-p3-2"
    assert json.loads((models_dir / "projects/3.json").read_text()) == {
        "current": "mine-1-p3-2",
        "history": ["mine-1", "mine-1-p3-1"],
    }
    assert current(models_dir, 4) is None
    assert rollback(models_dir, 3) == "mine-1-p3-1"
    assert rollback(models_dir, 3) == "mine-1"
    assert current(models_dir, 3) == "mine-1"
    with pytest.raises(WeightsError, match="project 3 has no earlier model version to go back to"):
        rollback(models_dir, 3)
    with pytest.raises(WeightsError, match="project 4 has no earlier model version"):
        rollback(models_dir, 4)


def test_the_embedded_version_can_be_promoted(models_dir: Path) -> None:
    promote(models_dir, 3, EMBEDDED)
    assert read(models_dir, 3) == Pointer(current=EMBEDDED)


@pytest.mark.parametrize(
    ("name", "why"),
    [("mine-9", "there is no model version 'mine-9'"), ("tiny", "there is no model"), ("../x", "'../x' is no model")],
)
def test_what_is_not_there_is_not_promoted(models_dir: Path, name: str, why: str) -> None:
    with pytest.raises(WeightsError, match=why):
        promote(models_dir, 3, name)
    assert current(models_dir, 3) is None


def test_what_cannot_predict_is_not_promoted(models_dir: Path) -> None:
    (models_dir / "mine-1/weights.safetensors").unlink()
    with pytest.raises(WeightsError, match="of model version mine-1, is missing"):
        promote(models_dir, 3, "mine-1-p3-1")
    assert current(models_dir, 3) is None


@pytest.mark.parametrize("harm", ["", "[]", "{", '{"current": "mine-1"}', '{"current": "../x", "history": []}'])
def test_a_damaged_pointer_is_told_and_can_be_set_again(models_dir: Path, harm: str) -> None:
    promote(models_dir, 3, "mine-1-p3-1")
    (models_dir / "projects/3.json").write_text(harm)
    looks: list[Callable[[], object]] = [
        lambda: current(models_dir, 3),
        lambda: rollback(models_dir, 3),
        lambda: read_all(models_dir),
    ]
    for look in looks:
        with pytest.raises(WeightsError, match=r"projects/3\.json does not say") as caught:
            look()
        assert told(caught.value).endswith("`av2t models promote NAME --project 3`")
    promote(models_dir, 3, "mine-1-p3-2")
    assert read(models_dir, 3) == Pointer(current="mine-1-p3-2", history=("mine-1",))


def test_a_rollback_to_what_is_gone_or_harmed(models_dir: Path) -> None:
    for name in ("mine-1-p3-1", "mine-1"):
        promote(models_dir, 3, name)
    (models_dir / "mine-1-p3-1/weights.safetensors").unlink()
    with pytest.raises(WeightsError, match="of model version mine-1-p3-1, is missing"):
        rollback(models_dir, 3)
    shutil.rmtree(models_dir / "mine-1-p3-1")
    with pytest.raises(WeightsError, match="project 3 used mine-1-p3-1 before, which is gone"):
        rollback(models_dir, 3)
    assert current(models_dir, 3) == "mine-1"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mine-1-p3-2", "is the current model version of project 3 and 12"),
        ("mine-1-p3-1", "mine-1-p3-2 loads onto mine-1-p3-1, and must be deleted first"),
        ("mine-1", "mine-1-p3-1 loads onto mine-1, and must"),
        (EMBEDDED, "ships with the package"),
        ("mine-9", "there is no model version"),
    ],
)
def test_what_is_used_is_not_deleted(models_dir: Path, name: str, why: str) -> None:
    promote(models_dir, 3, "mine-1-p3-2")
    promote(models_dir, 12, "mine-1-p3-2")
    with pytest.raises(WeightsError, match=why):
        delete(models_dir, name)
    resolve("mine-1-p3-2", models_dir).verify()


def test_what_is_deleted_is_gone_from_histories_too(models_dir: Path) -> None:
    for name in ("mine-1-p3-1", "mine-1-p3-2", "mine-1-p3-1"):
        promote(models_dir, 3, name)
    (models_dir / ".left-1.deleted").mkdir()  # by one that was killed
    size = (models_dir / "mine-1-p3-2/weights.safetensors").stat().st_size
    assert delete(models_dir, "mine-1-p3-2") == size
    assert read(models_dir, 3) == Pointer(current="mine-1-p3-1", history=("mine-1",))
    assert find("mine-1-p3-2", models_dir) is None
    assert sorted(path.name for path in models_dir.iterdir()) == ["mine-1", "mine-1-p3-1", "projects"]


def test_parts_that_others_need_stay(tmp_path: Path) -> None:
    ones, twos = (save_part(tmp_path, "frozen", {"model.x": torch.full((3,), value)}) for value in (1.0, 2.0))
    make(tmp_path, "mine-1", parts=[ones, twos])
    make(tmp_path, "mine-2", parts=[ones])
    assert delete(tmp_path, "mine-1") > 2 * 3 * 4  # its own weights, and one of the two parts
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [ones.file]
    resolve("mine-2", tmp_path).verify()


PROMOTE = """
import sys
from pathlib import Path
from av2t_core.versions.pointers import promote
for round in range(int(sys.argv[2])):
    for name in sys.argv[3:]:
        promote(Path(sys.argv[1]), 3, name)
assert "torch" not in sys.modules
"""


def promoting(models_dir: Path, rounds: int) -> subprocess.Popen[bytes]:
    """A process that promotes two versions in turn."""
    command = [sys.executable, "-c", PROMOTE, str(models_dir), str(rounds), "mine-1-p3-1", "mine-1-p3-2"]
    return subprocess.Popen(command)


def earlier(models_dir: Path) -> tuple[str, ...]:
    pointer = read(models_dir, 3)
    return pointer.history if pointer else ()


def test_several_processes_lose_nothing(models_dir: Path) -> None:
    promote(models_dir, 3, "mine-1")
    processes = [promoting(models_dir, 20) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    names = [*earlier(models_dir), current(models_dir, 3)]
    # Between two promotions of one process, which are of different versions, the version has changed.
    assert len(names) > 2 * 20
    assert all(one != other for one, other in pairwise(names))


@pytest.mark.parametrize("changes", [1, 7, 20])
def test_a_kill_leaves_a_whole_pointer_and_no_lock(models_dir: Path, changes: int) -> None:
    with promoting(models_dir, 10**6) as process:
        wait_until(lambda: len(earlier(models_dir)) >= changes)
        os.kill(process.pid, signal.SIGKILL)
    assert current(models_dir, 3) in {"mine-1-p3-1", "mine-1-p3-2"}
    promote(models_dir, 3, "mine-1")
    assert current(models_dir, 3) == "mine-1"
    assert sorted(path.name for path in (models_dir / "projects").iterdir()) == [".lock", "3.json"]
