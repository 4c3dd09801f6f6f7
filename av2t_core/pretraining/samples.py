"""Endless training samples drawn from cut-outs: nothing is written to disk, and a seed and a step name every batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from av2t_core.data.augmentation import draw_camera, mix, sound_stretch, vary_sound
from av2t_core.data.cutouts import SAMPLE_RATE, Cutouts
from av2t_core.data.scene import Scene, draw_scene

_STRETCH = 3  # seconds


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
        owner = _by_label(scene, owner, cutouts.labels)
        images.append(np.asarray(cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA), np.uint8))
        owners.append(np.asarray(cv2.resize(owner, (size, size), interpolation=cv2.INTER_NEAREST), np.uint8))
        visible = np.bincount(owners[-1].ravel(), minlength=len(cutouts.labels) + 1)
        # less than this of it in view, and nobody could name it
        in_view.append(tuple(int(i) for i in indices if visible[i + 1] > 0.004 * size * size))
    return Frames(images=np.stack(images), owners=np.stack(owners), in_view=tuple(in_view))


def draw_sound(rng: np.random.Generator, cutouts: Cutouts, indices: Sequence[int]) -> NDArray[np.float32]:
    """One second (16000,) in which the labels of these indices sound together.

    It is cut out of a longer mixture, as a clip's are: no part is sure to be at its loudest.
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


def _by_label(scene: Scene, owner: NDArray[np.uint8], labels: Sequence[str]) -> NDArray[np.uint8]:
    table = np.zeros(len(scene.actors) + 1, np.uint8)
    for index, actor in enumerate(scene.actors):
        if actor.label is not None:
            table[index + 1] = labels.index(actor.label) + 1
    return table[owner]
