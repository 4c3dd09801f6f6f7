"""How right masks are: the IoU of two masks, AVSBench's measures, and the scores of a data set of AVSBench's kind.

AVSBench's measures (Zhou et al., ECCV 2022) are computed as its authors' code does it, from logits (B, H, W) and
targets (B, H, W) in 0..1, as arrays or tensors. A data set is compared at SIZE x SIZE, where a model's logits are
brought as in training, without the rules by which `Predictor.predict` makes masks for people.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from av2t_core.data.avsbench import (
    SIZE,
    DataError,
    Hearing,
    LabelledClip,
    read_frame,
    read_sounds,
    read_target,
    shuffled,
)
from av2t_core.evaluation.naming_score import names_right
from av2t_core.evaluation.pictures import check_predictions, prediction_paths, read_probabilities, to_logits
from av2t_core.media.clip import KEYFRAME_OFFSET, Keyframe, Window

if TYPE_CHECKING:
    from av2t_core.prediction.predictor import Predictor  # takes seconds that saved masks need not wait for

Batch = Tensor | NDArray[np.float32] | NDArray[np.bool_]

BETA2 = 0.3  # recall counts that much beside precision
THRESHOLDS = 255  # i / 254


def mask_iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks (H, W); 1 where both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def avsbench_masks(logits: Batch) -> Tensor:
    """Logits of any shape to masks of booleans: where the sigmoid is above 0.5."""
    return torch.as_tensor(logits).float().sigmoid() > 0.5  # which is not logits > 0, by what fp32 rounds


def avsbench_iou(logits: Batch, targets: Batch) -> Tensor:
    """Of each frame (B,): I / (U + 1e-7), or where the target is empty the share of pixels that are not masked."""
    masks, targets = avsbench_masks(logits).double(), torch.as_tensor(targets).double()
    intersection = (masks * targets).sum(dim=(-2, -1))
    union = torch.maximum(masks, targets).sum(dim=(-2, -1))
    empty = targets.sum(dim=(-2, -1)) == 0
    return torch.where(empty, 1 - masks.mean(dim=(-2, -1)), intersection / (union + 1e-7))


def f_avsbench(logits: Batch, targets: Batch) -> float:
    """Of a clip's frames: the highest value of their mean F curve over thresholds of the sigmoid.

    Frames whose target is empty are left out; 0 where all are.
    """
    return f_reference(torch.as_tensor(logits).float().sigmoid(), targets)


def f_reference(logits: Batch, targets: Batch) -> float:
    """The same with the logits themselves held against the thresholds, as AV2T-SAM's authors compute it."""
    scores, targets = torch.as_tensor(logits).float(), torch.as_tensor(targets)
    sounding = targets.flatten(1).any(dim=-1)
    if not sounding.any():
        return 0.0
    precision, recall = precision_recall(scores[sounding], targets[sounding])
    f = (1 + BETA2) * precision * recall / (BETA2 * precision + recall).clamp_min(1e-20)
    return f.mean(dim=0).max().item()


def precision_recall(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """scores (B, H, W), masked where they reach a threshold, and targets to precision and recall (B, THRESHOLDS).

    Every pixel is counted once, for the highest threshold that it reaches, and the counts are then added up from above.
    """
    frames = len(scores)
    # Bin k holds what reaches k of the thresholds: the k-th (from 0) masks what lies in the bins above k.
    bins = torch.bucketize(scores.flatten(1), _thresholds(scores.device), right=True)  # (B, H W)
    bins += (THRESHOLDS + 1) * torch.arange(frames, device=scores.device)[:, None]

    def reaching(weights: Tensor | None) -> Tensor:
        counts = torch.bincount(bins.flatten(), weights, frames * (THRESHOLDS + 1)).double()
        return counts.view(frames, -1).flip(-1).cumsum(dim=-1).flip(-1)[:, 1:]

    hits = reaching(targets.double().flatten())
    precision = hits / reaching(None).clamp_min(1)
    recall = hits / targets.double().sum(dim=(-2, -1)).clamp_min(1e-20)[:, None]
    return precision, recall


@cache
def _thresholds(device: torch.device) -> Tensor:
    return torch.linspace(0, 1, THRESHOLDS, device=device)


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
    named: tuple[bool, ...] = ()  # of the objects at frames in which something sounds, whether their names are right
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
    false_positives_all: float | None  # of both
    names_right: float | None  # the share of the objects, of saved predictions that name them, see naming_score
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
        named = np.array([right for clip in clips for right in clip.named], np.bool_)
        return cls(
            clips=len(clips),
            frames=len(ious),
            miou=float(np.mean([np.mean(clip.ious) for clip in clips])),
            f_avsbench=float(np.mean([clip.f_avsbench for clip in clips])),
            f_reference=float(np.mean([clip.f_reference for clip in clips])),
            iou_sounding=_mean(ious[sounding]),
            false_positives=_mean(masked[silent]),
            false_positives_off_screen=_mean(masked[off_screen]),
            false_positives_all=_mean(masked[~sounding]),
            names_right=_mean(named),
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
        names = sorted({each.clip.category for each in self.clips} - {""})
        return {name: Scores.of([each for each in self.clips if each.clip.category == name]) for name in names}


OnClip = Callable[[ClipScores, NDArray[np.bool_]], object]
"""Called after each clip with its scores and its masks (frames, SIZE, SIZE), which nobody keeps."""


def windows(clips: Sequence[LabelledClip], hearing: Hearing, seed: int) -> Iterator[Window]:
    """Of every frame that has a mask, clip after clip. `muted`: digital silence at the recording's rate.

    DataError: a file cannot be read; or shuffled, and there is but one clip.
    """
    others = shuffled(clips, seed) if hearing == "shuffled" else clips
    for clip, heard in zip(clips, others, strict=True):
        sounds = read_sounds(heard.sound, len(clip.frames))
        for second in clip.labelled:
            sound = sounds[second]
            yield Window(
                keyframe=Keyframe(index=second, frame=second, time=second + KEYFRAME_OFFSET),
                image=read_frame(clip.frames[second]),
                sound=replace(sound, samples=np.zeros_like(sound.samples)) if hearing == "muted" else sound,
            )


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
    with closing(predictor.logits(windows(clips, sound, seed), (SIZE, SIZE))) as logits:
        return _evaluate(((clip, torch.stack(list(islice(logits, len(clip.labelled))))) for clip in clips), on_clip)


def score_predictions(
    directory: Path, clips: Sequence[LabelledClip], on_clip: OnClip = lambda scores, masks: None
) -> Evaluation:
    """The same of masks that were saved, see `pictures`. DataError: one is missing or cannot be read."""
    check_predictions(directory, clips)
    brightest = 0.0

    def saved(clip: LabelledClip) -> Tensor:
        nonlocal brightest
        probabilities = np.stack([read_probabilities(path) for path in prediction_paths(directory, clip)])
        brightest = max(brightest, float(probabilities.max()))
        return torch.from_numpy(to_logits(probabilities))

    evaluation = _evaluate(((clip, saved(clip)) for clip in clips), on_clip, partial(names_right, directory))
    if round(brightest * 255) == 1:
        raise DataError(f"the pictures in {directory} have no grey above 1 of 255; save masks as 0 and 255")
    return evaluation


def _evaluate(
    predicted: Iterable[tuple[LabelledClip, Tensor]],
    on_clip: OnClip,
    named: Callable[[LabelledClip], tuple[bool, ...]] = lambda clip: (),
) -> Evaluation:
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
            named=named(clip),
        )
        found.append(scores)
        on_clip(scores, masks)
    return Evaluation(scores=Scores.of(found), clips=tuple(found))


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if values.size else None
