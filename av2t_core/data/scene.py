"""A scene: actors on paths over a background; drawn at any time, with the owner of every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from av2t_core.data.augmentation import vary
from av2t_core.data.cutouts import Cutouts, Image, shrunk

# Coverage from which a pixel belongs to the actor in front.
OPAQUE = 128
DRIFT_PERIOD = 8.0  # seconds
# An actor's longer side, as a fraction of the canvas's shorter one.
_SMALLEST, _LARGEST = 0.28, 0.8


@dataclass(frozen=True, kw_only=True)
class Actor:
    """`label` None: it makes no sound. Places are fractions of the canvas, the path is travelled once a `period`."""

    label: str | None
    image: Image  # (H, W, 4), premultiplied
    scale: float  # the longer side, as a fraction of the canvas's shorter one
    start: tuple[float, float]  # of the centre, (x, y)
    end: tuple[float, float]
    period: float  # seconds
    angle: float  # degrees
    swing: float  # degrees to either side
    flip: bool


@dataclass(frozen=True, kw_only=True)
class Scene:
    background: Image  # (H, W, 3), the size of the canvas
    actors: tuple[Actor, ...]  # from back to front
    shake: float = 0.0  # pixels, of the camera
    drift: tuple[float, float] = (0.0, 0.0)  # pixels, how far the background moves within DRIFT_PERIOD and back

    def draw(self, time: float) -> tuple[Image, NDArray[np.uint8]]:
        """The frame (H, W, 3) and the owner of each pixel (H, W): 0 the background, i + 1 actor i."""
        height, width = self.background.shape[:2]
        shift = self.shake * np.array([np.sin(9.1 * time), np.cos(7.3 * time)])
        frame = self.background
        moved = shift + np.array(self.drift) * (0.5 - 0.5 * np.cos(2 * np.pi * time / DRIFT_PERIOD))
        if moved.any():
            move = np.array([[1, 0, moved[0]], [0, 1, moved[1]]])
            frame = np.asarray(cv2.warpAffine(frame, move, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)
        frame = frame.copy()
        owner = np.zeros((height, width), np.uint8)
        for index, actor in enumerate(self.actors):
            layer = _place(actor, time, height, width, shift)
            alpha = layer[..., 3:].astype(np.uint16)
            frame = (layer[..., :3] + (frame * (255 - alpha) + 127) // 255).astype(np.uint8)
            owner[layer[..., 3] >= OPAQUE] = index + 1
        return frame, owner

    def visible(self, time: float) -> list[float]:
        """Of each actor, what share of its pixels on the canvas no other hides; 0 if it is not on it."""
        height, width = self.background.shape[:2]
        still = np.zeros(2)
        layers = [_place(actor, time, height, width, still)[..., 3] >= OPAQUE for actor in self.actors]
        shares = []
        in_front = np.zeros((height, width), np.bool_)
        for layer in reversed(layers):
            shares.append(float((layer & ~in_front).sum() / max(1, layer.sum())))
            in_front |= layer
        return shares[::-1]

    def mask(self, owner: NDArray[np.uint8], labels: Sequence[str]) -> NDArray[np.bool_]:
        """The pixels (H, W) of the actors that carry one of the labels."""
        sounding = [index + 1 for index, actor in enumerate(self.actors) if actor.label in labels]
        return np.isin(owner, sounding)


def _place(actor: Actor, time: float, height: int, width: int, shift: NDArray[np.float64]) -> Image:
    """The actor alone on a transparent canvas (H, W, 4)."""
    image = actor.image
    scale = actor.scale * min(height, width) / max(image.shape[:2])
    if scale < 0.7:  # warpAffine does not average
        image, scale = shrunk(image, scale), 1.0
    phase = 0.5 - 0.5 * np.cos(2 * np.pi * time / actor.period)
    x = (actor.start[0] + (actor.end[0] - actor.start[0]) * phase) * width + shift[0]
    y = (actor.start[1] + (actor.end[1] - actor.start[1]) * phase) * height + shift[1]
    angle = actor.angle + actor.swing * np.sin(2 * np.pi * time / actor.period)
    turn = cv2.getRotationMatrix2D((image.shape[1] / 2, image.shape[0] / 2), angle, scale)
    if actor.flip:
        image = image[:, ::-1]
    turn[:, 2] += (x - image.shape[1] / 2, y - image.shape[0] / 2)
    return np.asarray(cv2.warpAffine(np.ascontiguousarray(image), turn, (width, height)), np.uint8)


def draw_scene(
    rng: np.random.Generator,
    cutouts: Cutouts,
    labels: Sequence[str],
    *,
    silent: int,
    height: int,
    width: int,
    clear: float = 0.0,
    varied: bool = False,
) -> Scene:
    """A random scene in which one actor of each label and `silent` others are in view.

    `clear`: how far apart the actors start, as a fraction of the width; 0 lets them overlap as chance has it.
    `varied`: they look other than their photographs, as is good for training.
    """
    images: list[tuple[str | None, Image]] = [(label, _choice(rng, cutouts.images[label])) for label in labels]
    images += [(None, _choice(rng, cutouts.silent)) for _ in range(silent if cutouts.silent else 0)]
    images = [images[i] for i in rng.permutation(len(images))]
    centres = _centres(rng, len(images), clear)
    crowd = 1.0 if len(images) < 3 else 0.8
    actors = []
    for (label, image), (x, y) in zip(images, centres, strict=True):
        if varied:
            image = vary(rng, image, round(_LARGEST * crowd * min(height, width)))
        reach = rng.uniform(0, 0.12, 2) * rng.choice([-1, 1], 2)
        actors.append(
            Actor(
                label=label,
                image=_recolour(rng, image),
                scale=float(rng.uniform(_SMALLEST, _LARGEST) * crowd),
                start=(x, y),
                end=(x + reach[0], y + reach[1]),
                period=float(rng.uniform(2, 8)),
                angle=float(rng.normal(0, 10)),
                swing=float(rng.uniform(0, 8)),
                flip=bool(rng.random() < 0.5),
            )
        )
    shake = float(rng.uniform(0, height / 100)) if rng.random() < 0.3 else 0.0
    drift = (0.0, 0.0)
    if rng.random() < 0.3:
        reach = rng.uniform(0.02, 0.2, 2) * rng.choice([-1, 1], 2)
        drift = (float(reach[0] * width), float(reach[1] * height / 4))
    background = _background(rng, cutouts, height, width)
    return Scene(background=background, actors=tuple(actors), shake=shake, drift=drift)


def _choice(rng: np.random.Generator, items: Sequence[Image]) -> Image:
    return items[int(rng.integers(len(items)))]


def _centres(rng: np.random.Generator, count: int, clear: float) -> list[tuple[float, float]]:
    centres: list[tuple[float, float]] = []
    for _ in range(20):
        centres = [(float(rng.uniform(0.15, 0.85)), float(rng.uniform(0.2, 0.8))) for _ in range(count)]
        gaps = [abs(a[0] - b[0]) for i, a in enumerate(centres) for b in centres[:i]]
        if not gaps or min(gaps) >= clear:
            break
    return centres


def _recolour(rng: np.random.Generator, image: Image) -> Image:
    """Brightness, contrast and tint, without leaving the premultiplied range."""
    gain = rng.uniform(0.65, 1.3) * rng.uniform(0.9, 1.1, 3)
    colour = image[..., :3] * gain
    colour = np.minimum(colour, image[..., 3:]).astype(np.uint8)
    return np.concatenate([colour, image[..., 3:]], axis=2)


def _background(rng: np.random.Generator, cutouts: Cutouts, height: int, width: int) -> Image:
    """A random crop of a photograph, or, one time in eight or for want of any, a generated gradient with clouds."""
    if cutouts.backgrounds and rng.random() < 0.875:
        image = _choice(rng, cutouts.backgrounds)
        zoom = rng.uniform(1, 2) * max(height / image.shape[0], width / image.shape[1])
        crop_h, crop_w = int(height / zoom), int(width / zoom)
        top, left = rng.integers(image.shape[0] - crop_h + 1), rng.integers(image.shape[1] - crop_w + 1)
        crop = image[top : top + crop_h, left : left + crop_w]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        resized = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(np.clip(resized * rng.uniform(0.6, 1.2), 0, 255), np.uint8)
    corners = rng.uniform(60, 210, (2, 2, 1)) + rng.uniform(-30, 30, (2, 2, 3))
    smooth = np.asarray(cv2.resize(corners.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR))
    for cells in (4, 12, 32):
        clouds = rng.normal(0, 40 / np.sqrt(cells), (cells, cells, 1)) * rng.uniform(0.7, 1, 3)
        smooth = smooth + cv2.resize(clouds.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(smooth, 0, 255), np.uint8)
