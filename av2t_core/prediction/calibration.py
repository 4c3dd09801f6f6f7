"""What a model says of its masks → probabilities, by two logistic regressions that were fitted on known masks.

The weights are on the model version's card.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import Self

from av2t_core.prediction.objects import Detection
from av2t_core.versions.card import Card

FEATURES = ("iou", "peak", "heard", "match", "share")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the model says of a mask, or of a part of it. `heard` and `match` are 1 where it cannot name anything."""

    iou: float  # that the decoder expects, 0..1
    peak: float  # the highest logit of the mask; at most 0 where there is none
    heard: float  # probability of the likeliest name by the sound alone
    match: float  # of the likeliest by sound and sight; of a mask the highest of its parts', 0 where it has none
    share: float  # of the picture

    def of(self, detection: Detection) -> Self:
        """Of one object of the mask."""
        return replace(self, match=detection.likelihood, share=float(detection.mask.mean()))

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
class Calibration:
    """`presence`: of something in view that sounds; `right`: of a mask that overlaps what sounds by more than half.

    Each is the weights of FEATURES and an offset: the log-odds are their sum.
    """

    presence: tuple[float, ...]
    right: tuple[float, ...]

    @classmethod
    def of(cls, card: Card) -> Self | None:
        """That of a model version; None where its card has none."""
        lines = card.calibration
        return cls(presence=lines.presence, right=lines.right) if lines else None

    def presence_of(self, mask: Evidence) -> float:
        """0..1, for the whole mask of a keyframe."""
        return probability(self.presence, mask.features)

    def right_of(self, part: Evidence) -> float:
        """0..1, for one object of it."""
        return probability(self.right, part.features)


def probability(line: Sequence[float], features: Sequence[float]) -> float:
    log_odds = line[-1] + sum(weight * feature for weight, feature in zip(line[:-1], features, strict=True))
    return 1 / (1 + exp(-max(-30.0, min(30.0, log_odds))))
