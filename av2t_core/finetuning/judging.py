"""Is a version better than the one it came from? Both are measured on held-out clips, from which neither has learned.

Masks are the predictor's, as an annotator gets them, against people's, at native size. Confidence comes from drawing
the clips again and again (the bootstrap, Efron 1979): keyframes of one clip are alike, so whole clips are drawn.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Self

import numpy as np
from numpy.typing import NDArray

from av2t_core.evaluation.scores import BETA2, LEAST_MASK, mask_iou
from av2t_core.media.clip import Window
from av2t_core.prediction.predictor import Predictor

HELD_OUT_RULE = (
    "A fifth of the clips is held out, and two at least: those that were held out before, then those whose file's"
    " sha256 is lowest; never a clip that a version it comes from has learnt, and three clips are always left to learn."
)

ACCEPTED = 0.8
"""The IoU that a mask is taken to have at least if people left it as it was predicted."""
_SAME = 0.99
"""The IoU above which people's mask is the old version's own, for nobody draws one so alike."""

_DRAWS = 10_000
_SURE = 0.95
"""In so large a share of the draws a version must be better than the other."""
_STUDENT = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
"""The quantile _SURE of Student's distribution of 1, 2, … degrees of freedom; of the normal one it is 1.645."""

Mask = NDArray[np.bool_]


def choose_held_out(clips: Sequence[str], learnt: Set[str], before: Set[str] = frozenset()) -> set[str]:
    """Those of the sha256 of clips' files that are held out. `learnt`: those that earlier versions have learned from.

    `before`: those that were held out for earlier versions; they stay so.
    """
    order = sorted(set(clips), key=lambda sha256: (sha256 not in before, sha256))
    candidates = [clip for clip in order if clip not in learnt]
    stay = sum(clip in before for clip in candidates)
    count = min(max(stay, round(len(order) / 5), 2), len(order) - 3)
    return set(candidates[: max(0, count)])


@dataclass(frozen=True, kw_only=True)
class Keyframes:
    """A version's keyframes of one clip: IoU and F of each that sounds, and the masked share of all others."""

    ious: tuple[float, ...]
    fs: tuple[float, ...]
    masked: tuple[float, ...]  # shares of the picture where nothing sounds
    accepted: frozenset[int] = frozenset()  # of `ious` those whose masks people left as they were predicted

    @property
    def all_ious(self) -> list[float]:
        """Of a keyframe without anything that sounds the share that is not masked (as AVSBench has it)."""
        return [*self.ious, *(1 - share for share in self.masked)]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Means over the keyframes of all clips, in 0..1; None where there is no keyframe of the kind."""

    iou: float  # over all keyframes, see Keyframes.all_ious
    f: float | None
    sounding_iou: float | None
    silent_false_positives: float | None  # the share of the keyframes without anything that sounds that are masked
    keyframes_sounding: int
    keyframes_silent: int

    @classmethod
    def of(cls, clips: Sequence[Keyframes]) -> Self:
        """One or more, with one keyframe at least."""
        ious = [iou for clip in clips for iou in clip.ious]
        masked = [share for clip in clips for share in clip.masked]
        return cls(
            iou=round(float(np.mean(ious + [1 - share for share in masked])), 4),
            f=_mean([f for clip in clips for f in clip.fs]),
            sounding_iou=_mean(ious),
            silent_false_positives=_mean([float(share > LEAST_MASK) for share in masked]),
            keyframes_sounding=len(ious),
            keyframes_silent=len(masked),
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`difference` of the IoU over all keyframes, new less old, and its bounds in 90 of 100 draws."""

    better: bool
    difference: float
    low: float
    high: float
    sentence: str


def judge_clip(
    predictor: Predictor,
    windows: Iterable[Window],
    masks: Mapping[int, Mask],
    names: Sequence[str] = (),
    accepted: Set[int] = frozenset(),
) -> Keyframes:
    """`masks`: by the number of the window, from 0, at native size; nothing sounds in a window without one.

    `names`: as for `Predictor.predict`. `accepted`: the windows whose masks people left as they were predicted.
    """
    ious: list[float] = []
    fs, masked, left = [], [], set()
    with closing(predictor.predict(windows, names)) as predictions:
        for number, seen in enumerate(predictions):
            truth = masks.get(number)
            if truth is not None and truth.any():
                if number in accepted:
                    left.add(len(ious))
                ious.append(mask_iou(seen.mask, truth))
                hits = int((seen.mask & truth).sum())
                precision, recall = hits / max(1, int(seen.mask.sum())), hits / int(truth.sum())
                fs.append((1 + BETA2) * precision * recall / (BETA2 * precision + recall) if hits else 0.0)
            else:
                masked.append(float(seen.mask.mean()))
    return Keyframes(ious=tuple(ious), fs=tuple(fs), masked=tuple(masked), accepted=frozenset(left))


def credited(old: Sequence[Keyframes], new: Sequence[Keyframes]) -> tuple[list[Keyframes], list[Keyframes]]:
    """The same clips' keyframes, in the same order, as they can be compared and averaged.

    A mask that people left as it was predicted is not the truth, and the version it came from would always win. So
    there an IoU counts as ACCEPTED at most, for either version, and F not at all. A mask whose label alone was changed
    is known by being the old version's.
    """
    pairs = [(before, after, _as_predicted(before)) for before, after in zip(old, new, strict=True)]
    return [_capped(clip, at) for clip, _, at in pairs], [_capped(clip, at) for _, clip, at in pairs]


def _as_predicted(old: Keyframes) -> frozenset[int]:
    return old.accepted | {number for number, iou in enumerate(old.ious) if iou > _SAME}


def _capped(clip: Keyframes, accepted: frozenset[int]) -> Keyframes:
    return replace(
        clip,
        ious=tuple(min(iou, ACCEPTED) if number in accepted else iou for number, iou in enumerate(clip.ious)),
        fs=tuple(f for number, f in enumerate(clip.fs) if number not in accepted),
        accepted=accepted,
    )


def compare(old: Sequence[Keyframes], new: Sequence[Keyframes], seed: int = 0) -> Verdict:
    """Of the same clips, one or more, in the same order, as `credited` returns them."""
    count = len(old)
    weights = np.array([len(clip.all_ious) for clip in old])
    before, after = (np.array([np.mean(clip.all_ious or [0.0]) for clip in clips]) for clips in (old, new))
    gains = after - before
    drawn = np.random.default_rng(seed).integers(count, size=(_DRAWS, count))
    differences = (gains[drawn] * weights[drawn]).sum(axis=1) / weights[drawn].sum(axis=1)
    difference = float((gains * weights).sum() / weights.sum())
    # Draws of few clips vary less than clips do, and look too sure.
    freedom = max(1, count - 1)
    quantile = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1.645 + 1.524 / freedom
    differences = difference + (differences - difference) * (sqrt((freedom + 1) / freedom) * quantile / 1.645)
    low, high = np.quantile(differences, [1 - _SURE, _SURE])
    better = bool(count > 1 and low > 0)
    said = f"{difference:+.3f} IoU on {count} held-out clip{'' if count == 1 else 's'}"
    between = f"between {low:+.3f} and {high:+.3f} in 90 of 100 draws of them"
    if better:
        sentence = f"It is better: {said}, {between}."
    elif count == 1:
        sentence = f"One held-out clip is too few to tell: {said}; annotate more clips, or promote it by hand."
    elif difference > 0:
        sentence = f"It may be better, but the clips are too few to be sure: {said}, {between}; annotate more of them."
    else:
        sentence = f"It is not better: {said}, {between}."
    difference, low, high = (round(float(bound), 4) for bound in (difference, low, high))
    return Verdict(better=better, difference=difference, low=low, high=high, sentence=sentence)


def as_card(before: Metrics, after: Metrics, verdict: Verdict, clips: int) -> dict[str, object]:
    """For a version's card."""
    return {
        "held_out_clips": clips,
        "before": asdict(before),
        "after": asdict(after),
        "difference": {"iou": verdict.difference, "low": verdict.low, "high": verdict.high},
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None
