"""Where the model's process puts the clips in hand: gone when the worker is, however it ended."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from av2t_core.files import locked

_PREFIX = "av2t-worker-"


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder of this worker's own. Those of workers that were killed are removed before and after."""
    _remove_forsaken()
    made = Path(tempfile.mkdtemp(prefix=".av2t-"))
    with locked(made / "lock"):
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
        with suppress(OSError), _lock_in(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _lock_in(folder: Path) -> IO[bytes]:
    """Its lock file, locked. OSError: its worker lives, or no worker of this user made it.

    Anybody may put a folder of that name among the temporary files.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, "not a folder of this user", str(folder))
    return locked(folder / "lock", wait=False, make=False)
