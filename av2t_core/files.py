"""Files: room on a disk, errors of writing as sentences, and plain files in folders that others may write to, too."""

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import IO, Protocol

from av2t_core.errors import DiskFullError, Remedy, WeightsError
from av2t_core.limits import TENSOR_HEADER


class Bar(Protocol):
    def update(self, n: int, /) -> object:
        """So many bytes more; fewer where n is negative."""


Progress = Callable[[str, int], AbstractContextManager[Bar]]
"""Called for each step that takes its time, with what it does and the number of bytes."""


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """DiskFullError if `needed` bytes for `purpose` do not fit on the disk of `folder`, which need not exist."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        why = f"{purpose} needs {in_gigabytes(needed)} in {folder}, where {in_gigabytes(free)} are free: make room"
        raise DiskFullError(why, Remedy.MAKE_ROOM)


def in_gigabytes(size: float) -> str:
    """Bytes for a person: 3.7 GB, 12 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def disk_error(error: OSError, folder: Path) -> WeightsError:
    """The sentence for a write into `folder` that failed; a DiskFullError where that may pass."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        kind = WeightsError if error.errno == errno.EFBIG else DiskFullError
        return kind(f"{folder} is full ({os.strerror(error.errno)}): make room", Remedy.MAKE_ROOM)
    return WeightsError(f"{folder} cannot be written ({error.strerror})", Remedy.MOVE_DATA)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Within it, what a disk has against being written becomes the sentence of `disk_error`."""
    try:
        yield
    except Exception as error:
        # PyTorch's writer raises a RuntimeError, in whose context is what became of its file.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        # SafetensorError, by its name since the backend lacks that package, has the OSError's number in its text.
        if type(error).__name__ == "SafetensorError" and (found := re.search(r"os error (\d+)", str(error))):
            cause = OSError(int(found[1]), os.strerror(int(found[1])))
        if not isinstance(cause, OSError):
            raise
        raise disk_error(cause, folder) from error


def check_header(path: Path) -> None:
    """WeightsError: the header of a file of safetensors, which is read as a whole, is larger than that of any model."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > TENSOR_HEADER:
        why = f"its header has {length:,} bytes, and at most {TENSOR_HEADER:,} can be used"
        raise WeightsError(f"{path} is damaged or no file of safetensors: {why}; get it again")


def read_blocks(file: IO[bytes], bar: Bar | None = None) -> Iterator[bytes]:
    """All of the file."""
    while block := file.read(2**20):
        yield block
        if bar:
            bar.update(len(block))


def write_blocks(blocks: Iterable[bytes], file: IO[bytes]) -> str:
    """The sha256 of what was written."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
        file.write(block)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """Its sha256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def aside(path: Path, *, several: bool = False) -> Iterator[Path]:
    """A hidden name beside `path` for a file that is not whole yet. What still has that name in the end is deleted.

    `several`: whether several processes may write the file at the same time.
    """
    name = path.with_name(f".{path.name}.{os.getpid()}.part" if several else f".{path.name}.part")
    name.unlink(missing_ok=True)  # a kill may have left it, or somebody have put a link there
    try:
        yield name
    finally:
        name.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path, *, several: bool = False, sync: bool = False) -> Iterator[Path]:
    """Where to write a file that replaces `path` as a whole in the end, and not at all after an error.

    `several`: as for `aside`. `sync`: have the content on the disk first, which a rename may reach before it.
    """
    with aside(path, several=several) as name:
        yield name
        if sync:
            with name.open("rb") as file:
                os.fsync(file.fileno())
        name.replace(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` that is renamed to it in the end, and deleted after an error."""
    name = path.with_name(f".{path.name}.part")
    shutil.rmtree(name, ignore_errors=True)
    name.mkdir(parents=True)
    try:
        yield name
        name.rename(path)
    finally:
        shutil.rmtree(name, ignore_errors=True)


def read_plain(path: Path, most: int) -> bytes:
    """Up to `most` bytes of a file. OSError: it is not there, or no plain file."""
    with os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
        return file.read(most)


def locked(path: Path, *, wait: bool = True, make: bool = True) -> IO[bytes]:
    """The file, locked until it is closed, by a kill too. It is made where it is missing, and keeps its content.

    BlockingIOError: another process holds the lock, unless `wait`. OSError: it is no plain file.
    """
    file = os.fdopen(_opened(path, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if make else 0)), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        file.close()
        raise
    return file


def _opened(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        if S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
            raise
    raise OSError(errno.EINVAL, f"{path.name} is no plain file, delete it", str(path))
