"""What a model version scores on composed frames that it was not trained on; the words of the numbers on its card."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from av2t_core.data.cutouts import SAMPLE_RATE, Cutouts
from av2t_core.evaluation.metrics import mask_iou
from av2t_core.media.clip import Keyframe, Window
from av2t_core.media.sound import Sound
from av2t_core.prediction.predictor import Predictor
from av2t_core.pretraining.samples import draw_frames, draw_sound, sounding_mask

SIZE = 256  # pixels of the frames' sides


def evaluate(predictor: Predictor, cutouts: Cutouts, frames: int = 150, seed: int = 1) -> dict[str, float]:
    """All through the predictor, so that what is measured is what ships. IoU in 0..1, the rest are shares.

    `single_iou`, `multi_iou`: of the mask of what sounds, with one thing or two to three in view.
    `*_all_objects_iou`: what a model scores that masks every thing in view and hears nothing; to be read beside it.
    `silent_false_masks`: windows in which nothing sounds but noise, and that got a mask.
    `label_accuracy`: masks (single) whose largest object carries the name of what sounds.
    """
    metrics: dict[str, float] = {}
    for kind, most in (("single", 1), ("multi", 3)):
        rng = np.random.default_rng([seed, most])
        ious, everything, named = [], [], []
        cases = list(_cases(rng, cutouts, frames, most, sounding=True))
        predictions = predictor.predict(case[0] for case in cases)
        for (_, owners, heard), prediction in zip(cases, predictions, strict=True):
            truth = sounding_mask(owners, heard)
            ious.append(mask_iou(prediction.mask, truth))
            everything.append(mask_iou(owners > 0, truth))
            if prediction.objects:
                largest = max(prediction.objects, key=lambda o: int(o.mask.sum()))
                named.append(largest.label in {cutouts.labels[i] for i in heard})
        metrics[f"{kind}_iou"] = _mean(ious)
        metrics[f"{kind}_all_objects_iou"] = _mean(everything)
        if kind == "single":
            metrics["label_accuracy"] = _mean(named)
    silent = (case[0] for case in _cases(np.random.default_rng(seed), cutouts, frames, 3, sounding=False))
    metrics["silent_false_masks"] = _mean([prediction.sounding for prediction in predictor.predict(silent)])
    return metrics


def _cases(
    rng: np.random.Generator, cutouts: Cutouts, count: int, most: int, sounding: bool
) -> Iterator[tuple[Window, NDArray[np.uint8], tuple[int, ...]]]:
    """Windows with the owners of their pixels and the labels that sound: one of those in view, or none."""
    index = 0
    while index < count:
        frames = draw_frames(rng, cutouts, 1, SIZE, most=most, none=0.0)
        in_view = frames.in_view[0]
        if len(in_view) < min(2, most):
            continue
        heard = (int(rng.choice(in_view)),) if sounding else ()
        window = Window(
            keyframe=Keyframe(index=index, frame=index, time=float(index)),
            image=frames.images[0],
            sound=Sound.alone(draw_sound(rng, cutouts, heard)[None], SAMPLE_RATE),
        )
        yield window, frames.owners[0], heard
        index += 1


def _mean(values: list[float] | list[bool]) -> float:
    return round(float(np.mean(values)), 3) if values else 0.0
