"""Simulated projects whose annotators accept masks that are good enough: is a version that is better promoted?

Masks are their errors: what of the truth they miss, and what they add. So the IoU of any two is known without a pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from av2t_core.finetuning.judging import ACCEPTED, Keyframes, compare, credited

Floats = NDArray[np.float64]
PROJECTS, FRAMES = 60, 5  # 200 are in docs/fine-tuning.md


@dataclass(frozen=True)
class Simulated:
    """Projects' held-out clips, (projects, clips, FRAMES): IoU with the truth, and of the new masks with the old."""

    old: Floats
    new: Floats
    both: Floats

    def promoted(self) -> float:
        """In how large a share of the projects."""
        return float(np.mean([self._better(number) for number in range(len(self.old))]))

    def _better(self, number: int) -> bool:
        accepted = self.old[number] >= ACCEPTED
        before = np.where(accepted, 1.0, self.old[number])
        after = np.where(accepted, self.both[number], self.new[number])
        clips = ([_clip(*each) for each in zip(ious, accepted, strict=True)] for ious in (before, after))
        return compare(*credited(*clips)).better


def _clip(ious: Sequence[float], accepted: Sequence[bool]) -> Keyframes:
    left = frozenset(np.flatnonzero(accepted).tolist())
    return Keyframes(ious=tuple(ious), fs=tuple(ious), masked=(), accepted=left)


def _quality(latent: Floats) -> Floats:
    return 0.01 + 0.98 / (1 + np.exp(-1.5 * latent))


@cache
def _level(mean: float) -> float:
    """At which the IoUs of a version have this mean."""
    latents, levels = np.random.default_rng(0).normal(size=20_000), np.linspace(-5, 5, 401)
    return float(np.interp(mean, [_quality(level + latents).mean() for level in levels], levels))


def simulate(mean: float, gain: float, alike: float, clips: int = 20, projects: int = PROJECTS) -> Simulated:
    """`mean`: of the old version's IoU. `alike`: how far both versions fail at the same clips and pixels, 0..1."""
    rng = np.random.default_rng(1)

    def latents() -> Floats:
        clip, frame = rng.normal(size=(projects, clips, 1)), rng.normal(size=(projects, clips, FRAMES))
        mixed: Floats = np.sqrt(0.6) * clip + np.sqrt(0.4) * frame
        return mixed

    first = latents()
    second = alike * first + (1 - alike**2) ** 0.5 * latents()
    old, new = _quality(_level(mean) + first), _quality(_level(mean + gain) + second)
    missing = rng.random((projects, clips, 1))  # the share of an error that is missed, not added
    (missed, added), (missed_too, added_too) = (
        (missing * (1 - q), (1 - missing * (1 - q)) / q - 1) for q in (old, new)
    )
    missed_by_both = alike * np.minimum(missed, missed_too) + (1 - alike) * missed * missed_too
    added_by_both = alike * np.minimum(added, added_too)
    common = 1 - missed - missed_too + missed_by_both + added_by_both
    both = common / (1 - missed_by_both + added + added_too - added_by_both)
    return Simulated(old, new, np.clip(both, 0, 1))


@pytest.mark.parametrize("alike", [0.5, 0.9])
@pytest.mark.parametrize("mean", [0.7, 0.8, 0.85])
def test_of_versions_better_by_ten_points_most_are_promoted(mean: float, alike: float) -> None:
    assert simulate(mean, 0.1, alike).promoted() >= 0.8


@pytest.mark.parametrize("alike", [0, 0.5, 0.9])
@pytest.mark.parametrize("mean", [0.55, 0.7, 0.8, 0.85])
def test_of_versions_worse_by_ten_points_hardly_any_is(mean: float, alike: float) -> None:
    assert simulate(mean, -0.1, alike).promoted() <= 0.05


@pytest.mark.parametrize(("mean", "least"), [(0.06, 0.8), (0.3, 0.9), (0.55, 0.8)])
def test_thirty_points_from_twenty_corrected_clips_are_enough(mean: float, least: float) -> None:
    """Four of them are held out."""
    assert simulate(mean, 0.3, 0.9, clips=4).promoted() >= least
