"""Small files of ours in folders that others may write to, too: only a plain file is opened, and none is waited for.

A pipe of the same name would be waited for without an end, and by a link another file would be written.
"""

import errno
import os
from pathlib import Path
from stat import S_ISREG
from typing import IO


def read_plain(path: Path, most: int) -> bytes:
    """Up to `most` bytes of a file. OSError: it is not there, or no plain file."""
    with os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
        return file.read(most)


def open_lock(path: Path, *, make: bool = True) -> IO[bytes]:
    """A file to be locked, made where it is missing; what is in it stays. OSError: it is no plain file."""
    return os.fdopen(_opened(path, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if make else 0)), "r+b")


def _opened(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
            raise _refused(path) from None
        raise
    if not S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refused(path)
    return descriptor


def _refused(path: Path) -> OSError:
    return OSError(errno.EINVAL, f"{path.name} is no plain file, delete it", str(path))
