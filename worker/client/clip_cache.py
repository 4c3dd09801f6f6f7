"""Clips that were fetched, kept for the next model version or the next try; bounded, the longest unused go first."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from av2t_core.files import atomic_file


def content_key(address: str, headers: Mapping[str, str]) -> str | None:
    """What names the content behind an address, by the headers of its server; None where they do not say enough.

    Another content has another time or tag. `address` comes without what is another one each time, as a signature.
    """
    seen = {name.lower(): value for name, value in headers.items()}
    mark = seen.get("etag") or seen.get("last-modified")
    if not mark or "content-length" not in seen:
        return None
    return hashlib.sha256("\n".join([address, mark, seen["content-length"]]).encode()).hexdigest()


class ClipCache:
    """Files below `folder`, `limit` bytes together; several processes may share one."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def take(self, key: str, target: Path) -> bool:
        """Whether it holds that clip; then it is at `target`, and stays there whatever is dropped here."""
        path = self._folder / key
        try:
            _link(path, target)
            os.utime(path)
        except OSError:
            return False
        return True

    def put(self, key: str, clip: Path) -> None:
        """Keep a copy, and drop what was not used for longest until all fits. A disk that is full keeps nothing."""
        if clip.stat().st_size > self._limit:
            return
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._folder / key, several=True) as copy:
                _link(clip, copy)
        self._drop()

    def _drop(self) -> None:
        found = []
        for path in self._folder.glob("*"):
            with suppress(FileNotFoundError):  # another process may have dropped it
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        room = self._limit - sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if room >= 0:
                return
            path.unlink(missing_ok=True)
            room += size


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the folders are on two disks."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
