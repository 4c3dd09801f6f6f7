"""Where the model's process puts the clips in hand: gone when the worker is, however it ended."""

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "av2t-worker-"
_SETTLED = 10  # seconds


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder of this worker's own. Those of workers that were killed are removed on the way."""
    for other in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # The system unlocks what a dead process had locked, also beyond the borders of containers.
        with suppress(OSError), (other / "lock").open() as lock:
            if time.time() - other.stat().st_mtime < _SETTLED:
                continue  # it may not have got to its lock yet
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name, (Path(name) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)
