"""Room on a disk; and pipes, links and folders in the place of files of ours: real ones, and nobody waits for them."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from av2t.remedies import told
from av2t.stack import label_studio_server
from av2t.stack.up import _owned
from av2t_core.errors import AV2TError, DiskFullError, WeightsError
from av2t_core.files import atomic_file, atomic_folder, disk_error, in_gigabytes, locked, read_plain, require_space
from av2t_core.training.run_folder import RunFolder
from av2t_core.versions.pointers import changing, read
from av2t_core.versions.saving import alone
from av2t_core.versions.store import fetch, mark_of
from av2t_core.versions.version import damaged, find, installed, resolve
from worker.process.model_process import work_folder


def test_space_is_looked_for_before_the_folder_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    require_space(folder, 1, "this")
    with pytest.raises(WeightsError, match=r"this needs 1000000\.0 GB in .*/not/yet, where .* are free: make room"):
        require_space(folder, 10**15, "this")
    assert not folder.exists()


@pytest.mark.parametrize(("size", "words"), [(3.71e9, "3.7 GB"), (605e6, "0.6 GB"), (25e6, "25 MB"), (2e3, "2 kB")])
def test_sizes_for_a_person(size: float, words: str) -> None:
    assert in_gigabytes(size) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "x is full (No space left on device): make room"),
        (errno.EDQUOT, "x is full (Disk quota exceeded): make room"),
        (errno.EFBIG, "x is full (File too large): make room"),
        (errno.EROFS, "x cannot be written (Read-only file system): set AV2T_DATA_DIR"),
    ],
)
def test_errors_say_what_to_do(number: int, words: str) -> None:
    assert told(disk_error(OSError(number, os.strerror(number)), Path("x"))).startswith(words)


def test_a_disk_that_is_full_may_have_room_later() -> None:
    def kind(number: int) -> type:
        return type(disk_error(OSError(number, os.strerror(number)), Path("x")))

    assert kind(errno.ENOSPC) is kind(errno.EDQUOT) is DiskFullError
    assert kind(errno.EFBIG) is kind(errno.EACCES) is WeightsError
    with pytest.raises(DiskFullError):
        require_space(Path(), 10**15, "this")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to(path.parent / "precious")


def folder(path: Path) -> None:
    path.mkdir()


def enter_alone(there: Path) -> None:
    with alone(there):
        pytest.fail("it was locked")


def enter_changing(there: Path) -> None:
    with changing(there):
        pytest.fail("it was locked")


def enter_run(there: Path) -> None:
    with RunFolder(there).alone({}):
        pytest.fail("it was locked")


def enter_fetching(there: Path) -> None:
    (there / "mine-1").mkdir()
    (there / "mine-1/card.json").write_text(json.dumps({"preset": "tiny", "labels": [], "sha256": "0" * 64}))
    (there / "mine-1/.store").write_text(json.dumps({"url": "file:///nowhere", "stamp": ""}))
    fetch(resolve("mine-1", there))


def enter_up(there: Path) -> None:
    with _owned(there):
        pytest.fail("it was locked")


LOCKS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "of the model versions": (".lock", enter_alone),
    "of the pointers": ("projects/.lock", enter_changing),
    "of a training": (".lock", enter_run),
    "of what is fetched": (".fetching/lock", enter_fetching),
    "of av2t up": ("up.lock", enter_up),
    "of Label Studio's environment": (
        "env.lock",
        lambda there: label_studio_server.install(there / "env", there / "log"),
    ),
}


@pytest.mark.parametrize("make", [pipe, link, folder])
@pytest.mark.parametrize("what", LOCKS)
def test_a_lock_that_is_no_file_is_told(tmp_path: Path, what: str, make: Callable[[Path], None]) -> None:
    name, enter = LOCKS[what]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    (path.parent / "precious").write_text("kept")
    make(path)
    with pytest.raises(AV2TError, match=rf"{path.name} is no plain file, delete it"):
        enter(tmp_path)
    assert (path.parent / "precious").read_text() == "kept"


def test_a_lock_is_made_and_keeps_what_is_in_it(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as lock:
        lock.write(b"12")
    with locked(tmp_path / "lock") as lock:
        assert lock.read() == b"12"
    with pytest.raises(FileNotFoundError):
        locked(tmp_path / "none", make=False)


def test_a_forsaken_folder_with_a_pipe_for_a_lock_hangs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "av2t-worker-x").mkdir()
    os.mkfifo(tmp_path / "av2t-worker-x" / "lock")
    with work_folder() as made:
        assert made.is_dir()


def test_what_is_read_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"abcdef")
    assert read_plain(tmp_path / "text", 4) == b"abcd"
    models_dir = tmp_path / "models"
    for name in ("mine-1", "projects", "parts"):
        (models_dir / name).mkdir(parents=True)
    for name in ("mine-1/card.json", "mine-1/.store", "projects/3.json", "parts/card.json"):
        os.mkfifo(models_dir / name)
    assert [each.name for each in installed(models_dir)] == [each.name for each in installed(tmp_path / "none")]
    assert list(damaged(models_dir)) == ["mine-1"]
    assert find("mine-1", models_dir) is None
    for reading in (lambda: mark_of(models_dir / "mine-1"), lambda: read(models_dir, 3)):
        with pytest.raises(WeightsError, match="is no plain file, delete it"):
            reading()


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a"
    (tmp_path / ".a.part").symlink_to(tmp_path / "precious")
    with atomic_file(path, sync=True) as aside:
        aside.write_text("first")
        assert not path.exists()
    with pytest.raises(FileNotFoundError), atomic_file(path, several=True) as aside:
        aside.joinpath("no folder").write_text("second")
    assert path.read_text() == "first"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_folder_appears_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a"
    (path.parent / ".a.part").mkdir(parents=True)
    (path.parent / ".a.part" / "of a kill").touch()
    with pytest.raises(FileNotFoundError), atomic_folder(path) as aside:
        (aside / "none" / "b").touch()
    assert not list(path.parent.iterdir())
    with atomic_folder(path) as aside:
        (aside / "b").touch()
        assert not path.exists()
    assert [each.name for each in path.parent.rglob("*")] == ["a", "b"]


def test_a_lock_is_held_by_one_process_until_it_is_closed(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"), pytest.raises(BlockingIOError):
        locked(tmp_path / "lock", wait=False)
    locked(tmp_path / "lock", wait=False).close()
