"""How right masks are on a data set of AVSBench's kind, by the measures of the literature.

Everything is compared at SIZE x SIZE, where a model's logits are brought as in training; without the rules by which
`Predictor.predict` makes masks for people (see Predictor.logits).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from av2t_core.data.avsbench import SIZE, DataError, LabelledClip, read_target
from av2t_core.evaluation import hearing
from av2t_core.evaluation.hearing import Hearing
from av2t_core.evaluation.metrics import avsbench_iou, avsbench_masks, f_avsbench, f_reference
from av2t_core.evaluation.saved_predictions import check_predictions, prediction_paths, read_probabilities, to_logits

if TYPE_CHECKING:
    from av2t_core.prediction.predictor import (
        Predictor,  # whose packages take seconds that saved masks need not wait for
    )

LEAST_MASK = 0.005
"""The share of a picture up to which what is masked counts as nothing."""


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """Of the frames of a clip that have a mask, in order; see `Scores`."""

    clip: LabelledClip
    ious: tuple[float, ...]  # AVSBench's, of each frame
    sounding: tuple[bool, ...]  # whether the truth has a pixel
    heard: tuple[bool, ...]  # whether it is known that something sounds, in view or not
    masked: tuple[bool, ...]  # whether the prediction has more than LEAST_MASK
    f_avsbench: float
    f_reference: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of a data set. All but the counts in 0..1; None where there is no frame of the kind."""

    clips: int
    frames: int  # that have a mask; the others are not computed
    miou: float  # AVSBench's: the mean over clips of the mean over frames, see metrics.avsbench_iou
    f_avsbench: float  # the mean over clips
    f_reference: float
    iou_sounding: float | None  # I / U, over the frames in which something sounds
    false_positives: float | None  # the share of the frames in which nothing sounds that are masked
    false_positives_off_screen: float | None  # of those in which only something sounds that is not in view
    masked: float  # the share of all frames that are masked
    frames_sounding: int
    frames_silent: int
    frames_off_screen: int  # as far as the data set tells; else they count as silent

    @classmethod
    def of(cls, clips: Sequence[ClipScores]) -> Self:
        """At least one clip."""
        ious = np.concatenate([clip.ious for clip in clips])
        masked = np.concatenate([clip.masked for clip in clips])
        sounding = np.concatenate([clip.sounding for clip in clips])
        heard = np.concatenate([clip.heard for clip in clips])
        off_screen, silent = heard & ~sounding, ~heard & ~sounding
        return cls(
            clips=len(clips),
            frames=len(ious),
            miou=float(np.mean([np.mean(clip.ious) for clip in clips])),
            f_avsbench=float(np.mean([clip.f_avsbench for clip in clips])),
            f_reference=float(np.mean([clip.f_reference for clip in clips])),
            iou_sounding=_mean(ious[sounding]),
            false_positives=_mean(masked[silent]),
            false_positives_off_screen=_mean(masked[off_screen]),
            masked=float(masked.mean()),
            frames_sounding=int(sounding.sum()),
            frames_silent=int(silent.sum()),
            frames_off_screen=int(off_screen.sum()),
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A data set's scores and those of its clips, in their order."""

    scores: Scores
    clips: tuple[ClipScores, ...]

    @property
    def categories(self) -> dict[str, Scores]:
        """By name, sorted; empty where the clips have none."""
        found: dict[str, list[ClipScores]] = defaultdict(list)
        for clip in self.clips:
            if clip.clip.category:
                found[clip.clip.category].append(clip)
        return {category: Scores.of(found[category]) for category in sorted(found)}


OnClip = Callable[[ClipScores, NDArray[np.bool_]], object]
"""Called after each clip with its scores and its masks (frames, SIZE, SIZE), which nobody keeps."""


def evaluate_clips(
    predictor: "Predictor",
    clips: Sequence[LabelledClip],
    *,
    sound: Hearing = "own",
    seed: int = 0,
    on_clip: OnClip = lambda scores, masks: None,
) -> Evaluation:
    """What the model makes of `clips` (one or more), each heard with its own sound or with what `sound` says.

    `seed` is that of the shuffling. Holds two batches of frames, which several clips share. DataError: a file of the
    data set cannot be read; or sounds are to be shuffled, and there is but one clip.
    """
    with closing(predictor.logits(hearing.windows(clips, sound, seed), (SIZE, SIZE))) as logits:
        return _evaluate(((clip, torch.stack(list(islice(logits, len(clip.labelled))))) for clip in clips), on_clip)


def score_predictions(
    directory: Path, clips: Sequence[LabelledClip], on_clip: OnClip = lambda scores, masks: None
) -> Evaluation:
    """The same of masks that were saved, see saved_predictions. DataError: one is missing or cannot be read."""
    check_predictions(directory, clips)
    brightest = 0.0

    def saved(clip: LabelledClip) -> Tensor:
        nonlocal brightest
        probabilities = np.stack([read_probabilities(path) for path in prediction_paths(directory, clip)])
        brightest = max(brightest, float(probabilities.max()))
        return torch.from_numpy(to_logits(probabilities))

    evaluation = _evaluate(((clip, saved(clip)) for clip in clips), on_clip)
    if round(brightest * 255) == 1:
        raise DataError(f"the pictures in {directory} have no grey above 1 of 255; save masks as 0 and 255")
    return evaluation


def _evaluate(predicted: Iterable[tuple[LabelledClip, Tensor]], on_clip: OnClip) -> Evaluation:
    """Clips with the logits (frames, SIZE, SIZE) of those frames that have a mask."""
    found = []
    for clip, logits in predicted:
        targets = np.stack([read_target(mask) for mask in clip.masks if mask is not None])
        masks = avsbench_masks(logits).numpy()
        scores = ClipScores(
            clip=clip,
            ious=tuple(avsbench_iou(logits, targets).tolist()),
            sounding=tuple(bool(target.any()) for target in targets),
            heard=tuple(second in clip.heard for second in clip.labelled),
            masked=tuple(bool(mask.mean() > LEAST_MASK) for mask in masks),
            f_avsbench=f_avsbench(logits, targets),
            f_reference=f_reference(logits, targets),
        )
        found.append(scores)
        on_clip(scores, masks)
    return Evaluation(scores=Scores.of(found), clips=tuple(found))


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if values.size else None
