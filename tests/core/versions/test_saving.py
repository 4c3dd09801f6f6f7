"""What pulling and importing do to the folder of model versions, as far as the commands' tests do not show it."""

import resource
import subprocess
from pathlib import Path

import pytest

from av2t_core.errors import WeightsError
from av2t_core.versions.saving import NewVersion, alone, encoder_parts, find_complete, save_encoder, save_model
from tests import micro_published as published

VERSION = NewVersion(name="sam2-l-s4", preset="sam2-l", feature="mul", source={"command": "av2t weights pull sam2-l"})


@pytest.fixture(autouse=True)
def _micro(monkeypatch: pytest.MonkeyPatch) -> None:
    published.install(monkeypatch)


def keep(folder: Path) -> None:
    parts = {
        "clip": save_encoder(folder, "a.bin", "clip", published.clip_state()),
        "ms-clap": save_encoder(folder, "b.pth", "ms-clap", published.ms_clap_with_merges()),
    }
    save_model(folder, "c.pth", "av2t-sam", published.av2t_sam(), VERSION, parts)


def test_a_version_is_whole_with_all_its_files(tmp_path: Path) -> None:
    assert find_complete(tmp_path, VERSION.name) is None
    keep(tmp_path)
    version = find_complete(tmp_path, VERSION.name)
    assert version is not None
    assert version.card.source == VERSION.source
    for path, _ in version.files:
        path.rename(path.with_suffix(".away"))
        assert find_complete(tmp_path, VERSION.name) is None
        path.with_suffix(".away").rename(path)
    assert find_complete(tmp_path, VERSION.name) is not None


def test_parts_are_known_by_their_content(tmp_path: Path) -> None:
    assert encoder_parts(tmp_path, "sam2-l") == {}
    kept = save_encoder(tmp_path, "b.pth", "ms-clap", published.ms_clap_with_merges())
    assert encoder_parts(tmp_path, "sam2-l") == {"ms-clap": kept}
    assert encoder_parts(tmp_path, "sam2-l-laion") == {}
    path = tmp_path / "parts" / kept.file
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert encoder_parts(tmp_path, "sam2-l") == {}


def test_a_conversion_that_fills_the_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        with pytest.raises(WeightsError, match=r"disk is full \(No space left on device\): make room"):
            keep(disk)
        left = [path for path in disk.rglob("*") if path.is_file() and not path.name.startswith("clip-vit-b-32-")]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert not left


def test_a_conversion_beyond_a_limit(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(WeightsError, match=r"is full \(File too large\)"):
            keep(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    keep(tmp_path)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(WeightsError, match="models cannot be written"), alone(tmp_path / "models"):
        pass


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(WeightsError, match="are pulled or imported into"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass
