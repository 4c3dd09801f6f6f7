"""What memory a job's process may take: of the machine, as the kernel counts it, and of a GPU that jobs share.

A GPU is known by its own number (UUID), through whatever container and whatever name for it a process sees it. Nothing
here imports torch before it is asked for a GPU.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from av2t_core.errors import MemoryShortError
from worker.queue import heartbeat
from worker.queue.connection import Lease

log = logging.getLogger("av2t.worker")

RENEW = 4  # seconds between two renewals of a GPU's lease
LOOK = 0.5  # seconds between two looks at its free memory
PATIENCE = 30 * 60  # seconds: longer than a task takes on a GPU, for who has one in hand ends it first

_SHARE = 0.9
"""Of the container's memory, or the machine's, that may be held: at all of it the kernel ends processes, and which of
them is its own choice, Redis among them. A training of the largest model has its room on the machine that it needs."""

# No rlimit serves: those that the kernel enforces count addresses, of which CUDA reserves more than there is memory.
_GROUPS = Path("/sys/fs/cgroup")
_COUNTED = ("RssAnon", "RssShmem")
"""Not the pages of files, as weights are mapped: those the kernel takes back."""


def most_memory(megabytes: int | None) -> int | None:
    """Bytes that a process may hold: so many megabytes, or a share of what there is; None where that is not told."""
    if megabytes is not None:
        return megabytes * 10**6
    known = [size for size in (_field(Path("/proc/meminfo"), "MemTotal"), *_containers()) if size is not None]
    return round(_SHARE * min(known)) if known else None


def held_by(pid: int) -> int | None:
    """Bytes that a process holds; None where that is not told, as where there is no /proc."""
    return _field(Path(f"/proc/{pid}/status"), *_COUNTED)


def _containers() -> list[int]:
    """The limits of the groups that this process is in, from its own to the outermost; in a container it sees one."""
    groups = [_GROUPS / "memory" / "memory.limit_in_bytes", _GROUPS / "memory.max"]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            inner = Path(path.lstrip("/"))
            if number == "0":
                groups += [_GROUPS / each / "memory.max" for each in (inner, *inner.parents)]
            elif "memory" in controllers.split(","):
                groups += [_GROUPS / "memory" / each / "memory.limit_in_bytes" for each in (inner, *inner.parents)]
    found = []
    for group in groups:
        with suppress(OSError, ValueError):  # of another version of groups, or "max", which is none
            found.append(int(group.read_text()))
    return found


def _field(path: Path, *names: str) -> int | None:
    """The sum of some of a file's fields, which are in kB."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return None
    found = [1024 * int(words[1]) for words in lines if words and words[0].rstrip(":") in names]
    return sum(found) if found else None


@dataclass(frozen=True)
class Gpu:
    """One that this process sees, there by its index."""

    uuid: str
    index: int

    def free(self) -> int:
        """Bytes."""
        import torch

        return torch.cuda.mem_get_info(self.index)[0]


def gpu_of(setting: str) -> Gpu | None:
    """The one that AV2T_DEVICE means in this process, None for a CPU."""
    import torch

    if setting == "cpu" or not torch.cuda.is_available():
        return None
    index = None if setting == "auto" else torch.device(setting).index
    index = torch.cuda.current_device() if index is None else index
    return Gpu(str(torch.cuda.get_device_properties(index).uuid), index)


def lease_key(uuid: str) -> str:
    """What is in Redis while a training has the GPU for itself."""
    return f"av2t:device:{uuid}"


@contextmanager
def gpu_lease(connection: Redis, device: Gpu | None, needed: int) -> Iterator[None]:
    """Within the block `needed` bytes of a GPU are free: where they are not, the workers that pre-annotate on it stop
    their models until the block ends. None is a CPU, on which both run side by side.

    Interrupted: the worker is to stop. MemoryShortError: there is no room even without pre-annotation.
    """
    if device is None or device.free() >= needed:
        yield
        return

    def state() -> str:
        return f"GPU {device.uuid} is free by {device.free() / 1e9:.1f} GB and {needed / 1e9:.1f} are needed"

    lease, ended = Lease(connection, lease_key(device.uuid)), threading.Event()
    while not lease.acquire():  # another training has it
        heartbeat.pause(LOOK)

    def renew() -> None:
        while not ended.wait(RENEW):
            try:
                lease.renew()
            except RedisError as error:
                log.warning("the lease of GPU %s was not renewed: %s", device.uuid, error)

    thread = threading.Thread(target=renew, name="av2t-lease", daemon=True)
    thread.start()
    try:
        log.info("%s: pre-annotation makes room", state())
        began = time.monotonic()
        while device.free() < needed:
            if time.monotonic() - began > PATIENCE:
                raise MemoryShortError(f"{state()}, although nothing is pre-annotated on it.")
            heartbeat.pause(LOOK)
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(RedisError):  # then it runs out
            lease.release()
