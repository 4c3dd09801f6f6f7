"""What others may have put into the folder for temporary files."""

import os
import tempfile
from multiprocessing import get_context
from pathlib import Path

import pytest

from worker.process.model_process import work_folder


def _enter(temporary: Path) -> None:
    tempfile.tempdir = str(temporary)
    with work_folder() as folder:
        assert folder.parent == temporary


def test_no_pipe_and_no_link_is_waited_for_or_followed(tmp_path: Path) -> None:
    temporary, elsewhere = tmp_path / "tmp", tmp_path / "elsewhere"
    for folder in (temporary / "av2t-worker-pipe", temporary / "av2t-worker-link", elsewhere):
        folder.mkdir(parents=True)
    os.mkfifo(temporary / "av2t-worker-pipe" / "lock")
    (elsewhere / "lock").touch()
    (temporary / "av2t-worker-link" / "lock").symlink_to(elsewhere / "lock")
    (temporary / "av2t-worker-linked").symlink_to(elsewhere)
    (temporary / "av2t-worker-file").touch()
    forsaken = temporary / "av2t-worker-forsaken"
    forsaken.mkdir()
    (forsaken / "lock").touch()
    process = get_context("spawn").Process(target=_enter, args=(temporary,))
    process.start()
    process.join(30)
    hung = process.is_alive()
    process.kill()
    process.join()
    assert (hung, process.exitcode) == (False, 0)
    assert (elsewhere / "lock").exists()
    assert {each.name for each in temporary.iterdir()} == {
        f"av2t-worker-{name}" for name in ("pipe", "link", "linked", "file")
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of somebody else's")
def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    foreign = tmp_path / "av2t-worker-foreign"
    foreign.mkdir()
    (foreign / "lock").touch()
    os.chown(foreign, 12345, 12345)
    with work_folder():
        pass
    assert foreign.exists()
