"""Where the model's process puts the clips in hand: gone when the worker is, however it ended."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from av2t_core.plain_file import open_lock

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
        with suppress(OSError), open_lock(folder / "lock", make=False) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
