"""What a model says of its masks → probabilities, by two logistic regressions that were fitted on known masks.

The weights are on the model version's card.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Self

from av2t_core.prediction.objects import Evidence
from av2t_core.versions.card import Card


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
