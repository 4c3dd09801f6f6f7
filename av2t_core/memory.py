"""What this process takes of memory, a machine's as Linux counts it or a GPU's, and whether torch says that it is too
little."""

from contextlib import suppress
from functools import partial
from pathlib import Path

import torch


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


resident = partial(_status, "VmRSS")
"""Bytes that are resident now, mapped files included."""
resident_files = partial(_status, "RssFile")
"""Bytes of them that are pages of files, which the kernel takes back when memory runs short."""
resident_peak = partial(_status, "VmHWM")
"""The most bytes that were resident since `start_peaks`."""


def device_peak(device: torch.device) -> int | None:
    """The most bytes that were allocated on a GPU since `start_peaks`, or ever; None for a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def start_peaks(device: torch.device) -> None:
    """From now on the kernel, and torch for a GPU, are to note the peaks."""
    # Where that is not allowed, the peak is that of the process's whole life, which is never less.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Of a GPU torch says so by a class of its own, or its libraries by a status; of a host's memory in words."""
    said = str(error)
    return type(error).__name__ == "OutOfMemoryError" or "ALLOC_FAILED" in said or "can't allocate memory" in said
