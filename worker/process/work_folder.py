"""Where the model's process puts the clips in hand: gone when the worker is, however it ended."""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from av2t_core.files import open_lock

_PREFIX = "av2t-worker-"


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder of this worker's own. Those of workers that were killed are removed before and after."""
    _remove_forsaken()
    made = Path(tempfile.mkdtemp(prefix=".av2t-"))
    with open_lock(made / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now by the name by which others look for what is forsaken.
        folder = made.rename(made.with_name(_PREFIX + made.name.rpartition("-")[2]))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _remove_forsaken()


def _remove_forsaken() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # The system unlocks what a dead process had locked, also beyond the borders of containers.
        with suppress(OSError), _lock_in(folder) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _lock_in(folder: Path) -> IO[bytes]:
    """The lock of a worker's folder. OSError: it is none that a worker of this user made, for anybody may put one of
    that name into a folder for temporary files."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, "not a folder of this user", str(folder))
    return open_lock(folder / "lock", make=False)
