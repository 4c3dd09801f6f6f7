"""A bounded store of tensors on disk, by key; several processes may use one at the same time."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from av2t_core.files import atomic_file, writing


class TensorStore:
    """Entries that nobody has used since this store was opened make room for new ones, the oldest first.

    Entries in use stay, and when they fill the store, nothing is added: a training reads them in the same order every
    epoch, so that dropping the oldest would leave it no hit at all.
    """

    def __init__(self, folder: Path, limit: int, *, process: int = 0, processes: int = 1) -> None:
        """`limit`: bytes of all entries together. The processes share what is free, and what may be dropped, evenly."""
        self.folder = folder
        self._opened = time.time()
        self.full = False
        found = {}
        for path in folder.glob("??/*.safetensors"):
            with suppress(FileNotFoundError):  # another training may drop it meanwhile
                found[path] = path.stat()
        self._room = (limit - sum(status.st_size for status in found.values())) // processes
        mine = [path for path in found if int(path.stem[:8], 16) % processes == process]
        self._droppable = sorted(mine, key=lambda path: found[path].st_mtime, reverse=True)

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of this key (hexadecimal, 8 digits or more); None if there are none, or they are damaged."""
        path = self._path(key)
        try:
            tensors: dict[str, Tensor] = load_file(path)
            # That it is used shows in its time, for the other processes too. By the clock that `_opened` was read from:
            # the file system's own is some milliseconds behind it.
            os.utime(path, ns=(time.time_ns(), time.time_ns()))
        except FileNotFoundError:
            return None
        except SafetensorError:
            path.unlink(missing_ok=True)
            return None
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keeps them if they fit; else the store is `full`. WeightsError: the folder cannot be written."""
        size = sum(tensor.nbytes for tensor in tensors.values())
        while self._room < size and self._droppable:
            self._drop(self._droppable.pop())
        if self._room < size:
            self.full = True
            return
        path = self._path(key)
        with writing(self.folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, several=True) as aside:
                save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, aside)
                self._room -= aside.stat().st_size

    def _drop(self, path: Path) -> None:
        try:
            status = path.stat()
            if status.st_mtime < self._opened:
                path.unlink()
                self._room += status.st_size
        except FileNotFoundError:
            return

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"
