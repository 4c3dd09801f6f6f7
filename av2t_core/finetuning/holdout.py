"""Which of a project's annotated clips measure a version, and are never learnt from."""

from collections.abc import Sequence, Set

RULE = (
    "A clip is held out if the sha256 of its file begins below a fifth of all values; if fewer than two are, those with"
    " the lowest ones; never a clip that a version it comes from has learnt, and three clips are always left to learn."
)

_SHARE = 0.2
_LEAST = 2
_LEFT = 3


def held_out(clips: Sequence[str], learnt: Set[str]) -> set[str]:
    """Of the sha256 of clips' files those that are held out. `learnt`: those that earlier versions have learnt.

    What it says of a clip hardly depends on the others, so that the hold-out grows with the project and stays fixed.
    """
    order = sorted(set(clips), key=_place)
    candidates = [clip for clip in order if clip not in learnt]
    by_rule = sum(_place(clip) < _SHARE for clip in candidates)
    count = min(max(by_rule, _LEAST), len(order) - _LEFT)
    return set(candidates[: max(0, count)])


def _place(sha256: str) -> float:
    """0..1, spread evenly."""
    return int(sha256[:12], 16) / 16**12
