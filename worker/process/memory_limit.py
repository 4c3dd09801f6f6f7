"""How much memory the model's process holds, and how much it may: by what the kernel counts, and without torch.

Behind the bounds of what comes from outside (see `av2t_core.limits`) stands this one, for what nobody thought of. No
rlimit serves: those that the kernel enforces count addresses, of which CUDA reserves more than there is memory.
"""

from contextlib import suppress
from pathlib import Path

_SHARE = 0.9
"""Of the container's memory, or the machine's, that may be held: at all of it the kernel ends processes, and which of
them is its own choice, Redis among them. A training of the largest model has its room on the machine that it needs."""

_GROUPS = Path("/sys/fs/cgroup")
_COUNTED = ("RssAnon", "RssShmem")
"""Not the pages of files, as weights are mapped: those the kernel takes back."""


def most_memory(megabytes: int | None) -> int | None:
    """Bytes that a process may hold: so many megabytes, or a share of what there is; None where that is not told."""
    if megabytes is not None:
        return megabytes * 10**6
    known = [size for size in (_machine(), *_containers()) if size is not None]
    return round(_SHARE * min(known)) if known else None


def held_by(pid: int) -> int | None:
    """Bytes that a process holds; None where that is not told, as where there is no /proc."""
    return _field(Path(f"/proc/{pid}/status"), *_COUNTED)


def _machine() -> int | None:
    return _field(Path("/proc/meminfo"), "MemTotal")


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
