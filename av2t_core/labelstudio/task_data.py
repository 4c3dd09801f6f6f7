"""What a label config takes from a task's data, read as the page of Label Studio 1.23.2 reads it.

A variable is a key of the data (`$video`) or a path (`$media.video`, `$videos[0]`); a key of that very name goes before
the path. What is not a variable alone is text that has some in it, as `/data/upload/$file`.
"""

import re
from collections.abc import Mapping
from math import inf
from typing import Any

DEFAULT_RATE = 24.0  # frames a second by which the page counts on a Video without a frame rate
_VARIABLE = re.compile(r"\$([\w[\].{}]+)", re.ASCII)
_INDEX = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def variable(text: str) -> str | None:
    """`$frames` → `frames`; None for whatever is not a variable alone."""
    found = _VARIABLE.fullmatch(text)
    return found[1] if found else None


def variables(text: str) -> list[str]:
    """All that it holds."""
    return _VARIABLE.findall(text)


def look_up(data: Mapping[str, Any], name: str) -> Any:
    """The value of a variable; None where there is none."""
    if name in data:
        return data[name]
    found: Any = data
    for key in re.sub(r"\[([^\]]*)\]", r".\1", name).removeprefix(".").split("."):
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, list) and _INDEX.fullmatch(key) and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found


def fill(data: Mapping[str, Any], text: str) -> str:
    """The text with its variables' values. ValueError names one that is neither text nor a number."""

    def value(found: re.Match[str]) -> str:
        value = look_up(data, found[1])
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise ValueError(found[1])
        return str(value)

    return _VARIABLE.sub(value, text)


def frame_rate(data: Mapping[str, Any], text: str) -> float:
    """Frames a second by which the page counts on a Video with this `framerate`, which is a number or a variable.

    Below one it is the seconds that a frame takes; what is no number is DEFAULT_RATE.
    """
    try:
        rate = fill(data, text).strip()
    except ValueError:
        return DEFAULT_RATE
    number = float(rate) if _NUMBER.fullmatch(rate) else 0.0
    if 0 < number < 1:
        number = 1 / number
    return number if 0 < number < inf else DEFAULT_RATE
