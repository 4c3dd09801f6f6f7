"""Is a version better than the one it came from? Both are measured on held-out clips, from which neither has learned.

Masks are the predictor's, as an annotator gets them, against people's, at native size. Confidence comes from drawing
the clips again and again (the bootstrap, Efron 1979): keyframes of one clip are alike, so whole clips are drawn.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Self

import numpy as np
from numpy.typing import NDArray

from av2t_core.evaluation.scores import BETA2, LEAST_MASK, mask_iou
from av2t_core.media.clip import Window
from av2t_core.prediction.predictor import Predictor

HELD_OUT_RULE = (
    "A clip is held out if the sha256 of its file begins below a fifth of all values; if fewer than two are, those with"
    " the lowest ones; never a clip that a version it comes from has learnt, and three clips are always left to learn."
)

_DRAWS = 10_000
_SURE = 0.95
"""In so large a share of the draws a version must be better than the other."""
_STUDENT = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
"""The quantile _SURE of Student's distribution of 1, 2, … degrees of freedom; of the normal one it is 1.645."""

Mask = NDArray[np.bool_]


def choose_held_out(clips: Sequence[str], learnt: Set[str]) -> set[str]:
    """Those of the sha256 of clips' files that are held out. `learnt`: those that earlier versions have learned from.

    A clip's place hardly depends on the others, so the hold-out grows with the project and stays fixed.
    """
    order = sorted(set(clips), key=lambda sha256: sha256[:12])
    candidates = [clip for clip in order if clip not in learnt]
    count = min(max(sum(int(clip[:12], 16) < 0.2 * 16**12 for clip in candidates), 2), len(order) - 3)
    return set(candidates[: max(0, count)])


@dataclass(frozen=True, kw_only=True)
class Keyframes:
    """A version's keyframes of one clip: IoU and F of each that sounds, and the masked share of all others."""

    ious: tuple[float, ...]
    fs: tuple[float, ...]
    masked: tuple[float, ...]  # shares of the picture where nothing sounds

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
    predictor: Predictor, windows: Iterable[Window], masks: Mapping[int, Mask], names: Sequence[str] = ()
) -> Keyframes:
    """`masks`: by the number of the window, from 0, at native size; nothing sounds in a window without one.

    `names`: as for `Predictor.predict`.
    """
    ious, fs, masked = [], [], []
    with closing(predictor.predict(windows, names)) as predictions:
        for number, seen in enumerate(predictions):
            truth = masks.get(number)
            if truth is not None and truth.any():
                ious.append(mask_iou(seen.mask, truth))
                hits = int((seen.mask & truth).sum())
                precision, recall = hits / max(1, int(seen.mask.sum())), hits / int(truth.sum())
                fs.append((1 + BETA2) * precision * recall / (BETA2 * precision + recall) if hits else 0.0)
            else:
                masked.append(float(seen.mask.mean()))
    return Keyframes(ious=tuple(ious), fs=tuple(fs), masked=tuple(masked))


def compare(old: Sequence[Keyframes], new: Sequence[Keyframes], seed: int = 0) -> Verdict:
    """Of the same clips, one or more, in the same order."""
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
