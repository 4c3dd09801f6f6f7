"""Who has a GPU that a training and pre-annotation share: a training for which the free memory does not suffice takes
it for itself, and the workers that pre-annotate on it put their models down until it gives it back.

A GPU is known by its own number (UUID), through whatever container and whatever name for it a process sees it. On a CPU
both run side by side.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from redis import Redis
from redis.exceptions import RedisError

from av2t_core.errors import MemoryShortError
from worker.failures import Interrupted
from worker.queue import heartbeat
from worker.queue.connection import Lease

log = logging.getLogger("av2t.worker")

RENEW = 4  # seconds between two renewals
LOOK = 0.5  # seconds between two looks at the free memory
PATIENCE = 30 * 60  # seconds: longer than a task takes on a GPU, for who has one in hand ends it first


class Device(Protocol):
    """What memory is shared on."""

    @property
    def uuid(self) -> str: ...

    def free(self) -> int:
        """Bytes."""
        ...


@dataclass(frozen=True)
class Gpu:
    """One that this process sees."""

    index: int

    @property
    def uuid(self) -> str:
        import torch

        return str(torch.cuda.get_device_properties(self.index).uuid)

    def free(self) -> int:
        import torch

        return torch.cuda.mem_get_info(self.index)[0]


def gpu_of(setting: str) -> Gpu | None:
    """The one that AV2T_DEVICE means in this process, None for a CPU."""
    import torch

    if setting == "cpu" or not torch.cuda.is_available():
        return None
    index = None if setting == "auto" else torch.device(setting).index
    return Gpu(torch.cuda.current_device() if index is None else index)


def lease_key(uuid: str) -> str:
    """What is in Redis while a training has the GPU for itself."""
    return f"av2t:device:{uuid}"


@contextmanager
def gpu_lease(connection: Redis, device: Device | None, needed: int) -> Iterator[None]:
    """Within the block `needed` bytes of a GPU are free: they are waited for, and kept free of others.

    None is a CPU, which is not waited for. Interrupted: the worker is to stop. MemoryShortError: there is no room even
    without pre-annotation.
    """
    if device is None or device.free() >= needed:
        yield
        return
    with _lease(connection, device.uuid):
        log.info("%s is free by %.1f GB and %.1f are needed: pre-annotation makes room", *_told(device, needed))
        began = time.monotonic()
        while device.free() < needed:
            if time.monotonic() - began > PATIENCE:
                raise MemoryShortError(
                    "{} is free by {:.1f} GB and {:.1f} are needed, although nothing is pre-annotated on it.".format(
                        *_told(device, needed)
                    )
                )
            _wait()
        yield


def _told(device: Device, needed: int) -> tuple[str, float, float]:
    return f"GPU {device.uuid}", device.free() / 1e9, needed / 1e9


@contextmanager
def _lease(connection: Redis, uuid: str) -> Iterator[None]:
    lease = Lease(connection, lease_key(uuid))
    while not lease.acquire():  # another training has it
        _wait()
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW):
            try:
                lease.renew()
            except RedisError as error:
                log.warning("the lease of GPU %s was not renewed: %s", uuid, error)

    thread = threading.Thread(target=renew, name="av2t-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(RedisError):  # then it runs out
            lease.release()


def _wait() -> None:
    heartbeat.beat()
    if heartbeat.cancelled():
        raise Interrupted
    time.sleep(LOOK)
