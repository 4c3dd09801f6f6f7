"""The objects that sound at a keyframe: parts of its mask that belong together, and each of them the same over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot, log

import cv2
import numpy as np
from numpy.typing import NDArray

from av2t_core.prediction import Box

Known = Mapping[int, tuple[str | None, Box]]
"""The objects of a clip by their numbers: the label of each, and where it was last."""

# Parts of one label are one object up to this distance of their boxes, as a share of the larger one's diagonal.
NEAR = 0.25


FEATURES = ("iou", "peak", "heard", "match", "share")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the model says of a mask, or of a part of it. `heard` and `match` are 1 where it cannot name anything."""

    iou: float  # that the decoder expects, 0..1
    peak: float  # the highest logit of the mask; at most 0 where there is none
    heard: float  # probability of the likeliest name by the sound alone
    match: float  # of the likeliest by sound and sight; of a mask the highest of its parts', 0 where it has none
    share: float  # of the picture

    @property
    def features(self) -> tuple[float, ...]:
        """In the order of FEATURES, all of them within some units of 0."""
        heard = min(max(self.heard, 1e-3), 1 - 1e-3)
        return (
            4 * self.iou,
            max(-4.0, min(4.0, self.peak / 3)),
            log(heard / (1 - heard)),
            max(-5.0, log(self.match)) if self.match > 0 else -5.0,
            max(-5.0, log(self.share)) if self.share > 0 else -5.0,
        )


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One object that sounds, at one keyframe.

    `names`: what it may be, with the probabilities, the likeliest first; empty where the model cannot name anything.
    `score` in 0..1; mask (H, W). `evidence`: what the model says of it alone; None if it says the same of the whole
    mask. `number`: that of the object in its clip, see Tracker.
    """

    names: Mapping[str, float] = field(default_factory=dict)
    score: float
    mask: NDArray[np.bool_]
    evidence: Evidence | None = None
    number: int = 1

    @property
    def label(self) -> str | None:
        return next(iter(self.names), None)

    @property
    def likelihood(self) -> float:
        """That of the label; 1 where there is none."""
        return next(iter(self.names.values()), 1.0)

    def evidence_of(self, whole: Evidence) -> Evidence:
        """What the model says of it, as a part of a mask."""
        return self.evidence or replace(whole, match=self.likelihood, share=float(self.mask.mean()))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width and height of the mask in pixels."""
        x, y, width, height = cv2.boundingRect(self.mask.view(np.uint8))
        return int(x), int(y), int(width), int(height)


def joined(parts: Sequence[Detection]) -> tuple[Detection, ...]:
    """Parts of one mask to objects: those that have the same label and lie near each other are one."""
    objects: list[Detection] = []
    for part in parts:
        # It may lie between two that were apart without it.
        near = [each for each in objects if each.label == part.label and _near(each.box, part.box)]
        objects = [each for each in objects if all(each is not other for other in near)]
        for other in near:
            names = {name: max(part.names.get(name, 0.0), p) for name, p in other.names.items()}
            part = replace(
                part,
                names=dict(sorted({**part.names, **names}.items(), key=lambda item: -item[1])),
                score=max(part.score, other.score),
                mask=part.mask | other.mask,
            )
        objects.append(part)
    return tuple(objects)


class Tracker:
    """Numbers the objects of one clip from 1 on: with one label, what is nearest to where an object was is that object.

    An object that falls silent and sounds again is the same object.
    """

    def __init__(self, known: Known | None = None) -> None:
        """`known`: those of the keyframes before."""
        self._known = dict(known or {})

    @property
    def known(self) -> Known:
        return dict(self._known)

    def follow(self, detections: Sequence[Detection]) -> tuple[Detection, ...]:
        """The objects of the next keyframe, numbered."""
        distances = sorted(
            (_distance(box, each.box), number, index)
            for index, each in enumerate(detections)
            for number, (label, box) in self._known.items()
            if label == each.label
        )
        numbers: dict[int, int] = {}  # by index
        for _, number, index in distances:
            if index not in numbers and number not in numbers.values():
                numbers[index] = number
        numbered = []
        for index, each in enumerate(detections):
            number = numbers.get(index, len(self._known) + 1)
            self._known[number] = (each.label, each.box)
            numbered.append(replace(each, number=number))
        return tuple(numbered)


def _near(first: Box, second: Box) -> bool:
    (x1, y1, w1, h1), (x2, y2, w2, h2) = first, second
    apart = hypot(max(0, x1 - x2 - w2, x2 - x1 - w1), max(0, y1 - y2 - h2, y2 - y1 - h1))
    return apart <= NEAR * max(hypot(w1, h1), hypot(w2, h2))


def _distance(first: Box, second: Box) -> float:
    """Between the middles."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = first, second
    return hypot(x1 + w1 / 2 - x2 - w2 / 2, y1 + h1 / 2 - y2 - h2 / 2)
