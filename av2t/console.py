"""What the commands say to a person: notes and progress on stderr, so that stdout stays what was asked for."""

import errno
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from json import dumps
from pathlib import Path
from typing import Any

from tqdm import tqdm

from av2t_core.errors import AV2TError
from av2t_core.text import one_line

_REFUSALS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
}
_BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {unit} {elapsed}<{remaining}{postfix}"


def note(sentence: str) -> None:
    print(f"av2t: {one_line(sentence)}", file=sys.stderr, flush=True)


def report(found: object, lines: Iterable[str], *, json: bool, indent: int | None = None) -> None:
    """Print what was found, as JSON or in its lines."""
    print(dumps(found, indent=indent, default=datetime.isoformat) if json else "\n".join(lines))


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """AV2TError, which names the folder, where it cannot be written within."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise AV2TError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error


def progress_bar(what: str, total: int | None, unit: str) -> Any:
    """A tqdm bar; it shows itself on a terminal only. Bytes, of the unit "B", are scaled."""
    shown: dict[str, Any] = {"disable": None, "file": sys.stderr, "leave": False, "bar_format": _BAR}
    return tqdm(desc=one_line(what), total=total, unit=unit, unit_scale=unit == "B", **shown)


def table(title: str, rows: list[list[str]]) -> list[str]:
    """Lines of a table with aligned columns under its title, after an empty line; none without rows."""
    if not rows:
        return []
    # What they say may be from anybody.
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["", title, *("  " + "  ".join(row).rstrip() for row in cells)]


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
