"""Room on a disk."""

import errno
import os
from pathlib import Path

import pytest

from av2t_core.disk import disk_error, in_gigabytes, require_space
from av2t_core.errors import DiskFullError, WeightsError


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
    assert str(disk_error(OSError(number, os.strerror(number)), Path("x"))).startswith(words)


def test_a_disk_that_is_full_may_have_room_later() -> None:
    def kind(number: int) -> type:
        return type(disk_error(OSError(number, os.strerror(number)), Path("x")))

    assert kind(errno.ENOSPC) is kind(errno.EDQUOT) is DiskFullError
    assert kind(errno.EFBIG) is kind(errno.EACCES) is WeightsError
    with pytest.raises(DiskFullError):
        require_space(Path(), 10**15, "this")
