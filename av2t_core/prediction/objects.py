"""What sounds at a keyframe, as things: parts of its mask that belong together, and each of them the same over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot

import cv2
import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""x, y, width and height in pixels."""

Known = Mapping[int, tuple[str | None, Box]]
"""The things of a clip by their numbers: what each is called, and where it was last."""

NEAR = 0.25
"""Parts of one name are one thing up to this distance of their boxes, as a share of the larger one's diagonal."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One thing that sounds, at one keyframe.

    `names`: what the model calls it with which probability, the likeliest first; empty where it cannot name anything.
    `score` in 0..1; mask (H, W). `number`: that of the thing among those of its clip, see Tracker.
    """

    names: Mapping[str, float] = field(default_factory=dict)
    score: float
    mask: NDArray[np.bool_]
    number: int = 1

    @property
    def label(self) -> str | None:
        return next(iter(self.names), None)

    @property
    def likelihood(self) -> float:
        """That of the label; 1 where there is none."""
        return next(iter(self.names.values()), 1.0)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width and height of the mask in pixels."""
        x, y, width, height = cv2.boundingRect(self.mask.view(np.uint8))
        return int(x), int(y), int(width), int(height)


def joined(parts: Sequence[Detection]) -> tuple[Detection, ...]:
    """Parts of one mask to things: those that share their likeliest name and lie near each other are one."""
    things: list[Detection] = []
    for part in parts:
        # It may lie between two that were apart without it.
        touching = [thing for thing in things if thing.label == part.label and _near(thing.box, part.box)]
        things = [thing for thing in things if all(thing is not other for other in touching)]
        for other in touching:
            part = replace(
                part,
                names=_likelier(part.names, other.names),
                score=max(part.score, other.score),
                mask=part.mask | other.mask,
            )
        things.append(part)
    return tuple(things)


class Tracker:
    """Numbers the things of one clip from 1 on: of one name, what is nearest to where a thing was last is that thing.

    A thing that falls silent and sounds again is the same thing.
    """

    def __init__(self, known: Known | None = None) -> None:
        """`known`: those of the keyframes before."""
        self._known = dict(known or {})

    @property
    def known(self) -> Known:
        return dict(self._known)

    def follow(self, seen: Sequence[Detection]) -> tuple[Detection, ...]:
        """The things of the next keyframe, numbered."""
        ways = sorted(
            (_distance(box, thing.box), number, index)
            for index, thing in enumerate(seen)
            for number, (label, box) in self._known.items()
            if label == thing.label
        )
        numbers: dict[int, int] = {}  # by index
        for _, number, index in ways:
            if index not in numbers and number not in numbers.values():
                numbers[index] = number
        numbered = []
        for index, thing in enumerate(seen):
            number = numbers.get(index, len(self._known) + 1)
            self._known[number] = (thing.label, thing.box)
            numbered.append(replace(thing, number=number))
        return tuple(numbered)


def _likelier(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    together = {name: max(first.get(name, 0.0), second.get(name, 0.0)) for name in {**first, **second}}
    return dict(sorted(together.items(), key=lambda item: -item[1]))


def _near(first: Box, second: Box) -> bool:
    (x1, y1, w1, h1), (x2, y2, w2, h2) = first, second
    apart = hypot(max(0, x1 - x2 - w2, x2 - x1 - w1), max(0, y1 - y2 - h2, y2 - y1 - h1))
    return apart <= NEAR * max(hypot(w1, h1), hypot(w2, h2))


def _distance(first: Box, second: Box) -> float:
    """Between the middles."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = first, second
    return hypot(x1 + w1 / 2 - x2 - w2 / 2, y1 + h1 / 2 - y2 - h2 / 2)
