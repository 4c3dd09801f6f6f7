"""What the commands say to a person: notes and progress on stderr, so that stdout stays what was asked for."""

import sys
from typing import Any

from tqdm import tqdm

_BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {unit} {elapsed}<{remaining}"


def note(sentence: str) -> None:
    print(f"av2t: {sentence}", file=sys.stderr, flush=True)


def progress_bar(what: str, total: int | None, unit: str) -> Any:
    """A tqdm bar; it shows itself on a terminal only."""
    return tqdm(desc=what, total=total, unit=unit, disable=None, file=sys.stderr, leave=False, bar_format=_BAR)
