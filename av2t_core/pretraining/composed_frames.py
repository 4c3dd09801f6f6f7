"""Frames and sounds composed of cut-outs, without end and in memory: to train `tiny` on, and to score a model by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from av2t_core.data.augmentation import draw_camera, mix, sound_stretch, vary_sound
from av2t_core.data.cutouts import SAMPLE_RATE, Cutouts
from av2t_core.data.scene import draw_scene
from av2t_core.evaluation.scores import mask_iou
from av2t_core.media.clip import Keyframe, Window
from av2t_core.media.sound import Sound
from av2t_core.prediction.predictor import Predictor

_STRETCH = 3  # seconds of sound, of which one is cut out
_SIDE = 256  # pixels of the frames that score


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Square frames with what is known of them. `owners`: per pixel 0 for the background or label index + 1."""

    images: NDArray[np.uint8]  # (B, S, S, 3)
    owners: NDArray[np.uint8]  # (B, S, S)
    in_view: tuple[tuple[int, ...], ...]  # label indices, for each frame


def draw_frames(
    rng: np.random.Generator,
    cutouts: Cutouts,
    count: int,
    size: int,
    *,
    most: int = 3,
    none: float = 0.05,
    varied: bool = False,
) -> Frames:
    """Frames with 1 to `most` sounding things (a share `none` of them with none at all) and up to two silent ones.

    They are drawn at aspect ratios from 1 to 1.8 and squeezed to the square, as a clip's frames are.
    `varied`: see `draw_scene`.
    """
    images, owners, in_view = [], [], []
    for _ in range(count):
        number = 0 if rng.random() < none else int(rng.integers(1, most + 1))
        indices = rng.choice(len(cutouts.labels), number, replace=False)
        width = size if rng.random() < 0.3 else round(size * rng.uniform(1, 1.8))
        silent = int(rng.integers(0, 3)) if number < 3 else int(rng.integers(0, 2))
        names = [cutouts.labels[i] for i in indices]
        scene = draw_scene(rng, cutouts, names, silent=silent, height=size, width=width, varied=varied)
        frame, owner = scene.draw(float(rng.uniform(0, 8)))
        frame = draw_camera(rng).shoot(rng, frame)
        by_actor = [0, *(cutouts.labels.index(actor.label) + 1 if actor.label else 0 for actor in scene.actors)]
        owner = np.array(by_actor, np.uint8)[owner]
        images.append(np.asarray(cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA), np.uint8))
        owners.append(np.asarray(cv2.resize(owner, (size, size), interpolation=cv2.INTER_NEAREST), np.uint8))
        visible = np.bincount(owners[-1].ravel(), minlength=len(cutouts.labels) + 1)
        # less than this of it in view, and nobody could name it
        in_view.append(tuple(int(i) for i in indices if visible[i + 1] > 0.004 * size * size))
    return Frames(images=np.stack(images), owners=np.stack(owners), in_view=tuple(in_view))


def draw_sound(rng: np.random.Generator, cutouts: Cutouts, indices: Sequence[int]) -> NDArray[np.float32]:
    """One second (16000,) in which the labels of these indices sound together.

    Cut out of a longer mixture, as a clip's are: no part is sure to be at its loudest.
    """
    parts = []
    for i in indices:
        recordings = cutouts.sounds[cutouts.labels[i]]
        recording = vary_sound(rng, recordings[rng.integers(len(recordings))])
        parts.append(sound_stretch(rng, recording, _STRETCH))
    start = int(rng.integers(_STRETCH)) * SAMPLE_RATE
    return mix(rng, parts, _STRETCH * SAMPLE_RATE)[start : start + SAMPLE_RATE]


def draw_hearing(rng: np.random.Generator, in_view: Sequence[int], labels: int) -> tuple[int, ...]:
    """Which labels sound over a frame: some of what is in view, now and then something out of view, or nothing."""
    chance = rng.random()
    if chance < 0.1:
        return ()
    off_screen = [i for i in rng.integers(0, labels, 2) if i not in in_view]
    if chance < 0.25 or not in_view:
        return tuple(off_screen[:1])
    count = 1 if rng.random() < 0.5 else int(rng.integers(1, len(in_view) + 1))
    heard = [int(i) for i in rng.choice(list(in_view), count, replace=False)]
    if rng.random() < 0.1:
        heard += off_screen[:1]
    return tuple(heard)


def sounding_mask(owners: NDArray[np.uint8], heard: Sequence[int]) -> NDArray[np.bool_]:
    """(S, S) owners and the labels that sound to the mask (S, S)."""
    return np.isin(owners, [i + 1 for i in heard])


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
        frames = draw_frames(rng, cutouts, 1, _SIDE, most=most, none=0.0)
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
