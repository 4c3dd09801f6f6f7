"""Fits a model version's Calibration where the truth is known, and measures how far its probabilities can be trusted.

The clips are composed as by `composed_clip`, in memory, of backgrounds and silent things that no stage has seen.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from av2t_core.data.avsbench import FRAMES
from av2t_core.data.composed_clip import scene_of, soundtrack
from av2t_core.data.composed_set import SetRecipe, draw_clip
from av2t_core.data.cutouts import SAMPLE_RATE, Cutouts
from av2t_core.evaluation.metrics import mask_iou
from av2t_core.media.clip import KEYFRAME_OFFSET, Keyframe, Window
from av2t_core.media.sound import Sound
from av2t_core.prediction.calibration import FEATURES, Calibration
from av2t_core.prediction.predictor import KeyframePrediction, Predictor

CLIPS = 200
RIGHT = 0.5
"""A mask is right from this IoU with what sounds on."""

_DECAY = 1.0

Mask = NDArray[np.bool_]


def fit(predictor: Predictor, cutouts: Cutouts, clips: int = CLIPS, seed: int = 1) -> Calibration:
    """On the validation part of `cutouts`. What calibration the predictor has plays no part."""
    bare = Predictor(predictor.model_version, predictor.loaded, batch_size=predictor.batch_size)
    presence, present, right, was_right = [], [], [], []
    for seen, truth in _observe(bare, cutouts.part("val"), clips, seed):
        if seen.evidence is None:
            continue
        presence.append(seen.evidence.features)
        present.append(bool(truth))
        for thing in seen.objects:
            right.append(seen.evidence.of(thing).features)
            was_right.append(_is_right(thing.mask, truth))
    return Calibration(presence=_line(presence, present), right=_line(right, was_right))


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Of the cases whose probability lies in one tenth: how many, their mean, and the share that was the case."""

    count: int
    said: float
    was: float


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How far a probability can be trusted. `error`: the mean distance of said and was, over all cases."""

    bins: tuple[Bin, ...]
    error: float

    @classmethod
    def of(cls, said: Sequence[float], was: Sequence[bool]) -> Self:
        """At least one case."""
        probabilities, outcomes = np.array(said), np.array(was, np.float64)
        tenths = np.minimum((probabilities * 10).astype(int), 9)
        bins = tuple(
            Bin(count=int(some.sum()), said=float(probabilities[some].mean()), was=float(outcomes[some].mean()))
            for some in (tenths == tenth for tenth in range(10))
            if some.any()
        )
        return cls(bins=bins, error=sum(each.count * abs(each.said - each.was) for each in bins) / len(outcomes))


def measure(
    predictor: Predictor,
    cutouts: Cutouts,
    clips: int = CLIPS,
    seed: int = 2,
    done: Callable[[], object] = lambda: None,
) -> dict[str, Reliability]:
    """On the test part of `cutouts`, of a predictor with a calibration: `presence`, `object` and `keyframe`.

    `done` is called after each keyframe.
    """
    cases: dict[str, tuple[list[float], list[bool]]] = {"presence": ([], []), "object": ([], []), "keyframe": ([], [])}
    for seen, truth in _observe(predictor, cutouts.part("test"), clips, seed):
        assert seen.presence is not None, f"{predictor.model_version} has no calibration"
        found = [("presence", seen.presence, bool(truth))]
        found += [("object", thing.score, _is_right(thing.mask, truth)) for thing in seen.objects]
        union = np.logical_or.reduce([*truth, np.zeros_like(seen.mask)])
        keyframe = mask_iou(seen.mask, union) > RIGHT if seen.sounding else not truth
        found.append(("keyframe", seen.score, keyframe))
        for kind, said, was in found:
            cases[kind][0].append(said)
            cases[kind][1].append(was)
        done()
    return {kind: Reliability.of(*both) for kind, both in cases.items() if both[0]}


def _observe(
    predictor: Predictor, cutouts: Cutouts, clips: int, seed: int
) -> Iterator[tuple[KeyframePrediction, list[Mask]]]:
    """Each keyframe's prediction, and the masks of the things in view that sound there."""
    truths: deque[list[Mask]] = deque()  # windows are read ahead, in another thread

    def windows() -> Iterator[Window]:
        for window, truth in composed(cutouts, clips, seed):
            truths.append(truth)
            yield window

    with closing(predictor.predict(windows())) as predictions:
        for prediction in predictions:
            yield prediction, truths.popleft()


def composed(cutouts: Cutouts, clips: int, seed: int) -> Iterator[tuple[Window, list[Mask]]]:
    """Windows of clips, and the masks of the things in view that sound there.

    Of every fourth clip one thing sounds all the time; in the others two or three take turns.
    """
    for index in range(clips):
        rng = np.random.default_rng([seed, index])
        recipe = SetRecipe(layout="ms3" if index % 4 else "s4", clips=clips, labels=cutouts.labels)
        drawn = draw_clip(rng, recipe, cutouts.labels)
        scene, sound = scene_of(rng, cutouts, drawn), soundtrack(rng, cutouts, drawn)
        for second in range(FRAMES):
            time = second + KEYFRAME_OFFSET
            image, owner = scene.draw(time)
            masks = [scene.mask(owner, (label,)) for label in drawn.sounding[second]]
            heard = sound[None, second * SAMPLE_RATE : (second + 1) * SAMPLE_RATE]
            window = Window(
                keyframe=Keyframe(index=second, frame=second, time=time),
                image=drawn.camera.shoot(rng, image),
                sound=Sound.alone(heard, SAMPLE_RATE),
            )
            yield window, [mask for mask in masks if mask.any()]


def _is_right(mask: Mask, truth: list[Mask]) -> bool:
    """Whether it is one of the things, or all of them together."""
    return any(mask_iou(mask, each) > RIGHT for each in [*truth, *([np.logical_or.reduce(truth)] if truth else [])])


def _line(features: Sequence[Sequence[float]], outcomes: Sequence[bool]) -> tuple[float, ...]:
    x = torch.tensor(features, dtype=torch.float64).reshape(-1, len(FEATURES))
    line = fit_lines(x, torch.tensor(outcomes, dtype=torch.float64)[:, None], _DECAY)[0]
    return tuple(round(weight, 4) for weight in line.tolist())


if TYPE_CHECKING:
    from av2t_core.evaluation.reliability import Reliability  # which brings torch

_SIDE, _MARGIN, _STRIP = 320, 56, 64  # pixels
_INK, _SOFT, _DOT = (32, 32, 32), (170, 170, 170), (216, 27, 96)


def write_diagram(path: Path, measured: Mapping[str, "Reliability"]) -> None:
    """A PNG with a square for each: every dot is a tenth of the scores, below it how many cases that are."""
    width, height = _SIDE + 2 * _MARGIN, _SIDE + _STRIP + 2 * _MARGIN
    sheet = Image.new("RGB", (width * len(measured), height), "white")
    for index, (name, reliability) in enumerate(measured.items()):
        sheet.paste(_panel(name, reliability, (width, height)), (width * index, 0))
    sheet.save(path)


def _panel(name: str, reliability: "Reliability", size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, "white")
    draw, font, small = ImageDraw.Draw(image), ImageFont.load_default(size=15), ImageFont.load_default(size=12)
    left, top, right, bottom = _MARGIN, _MARGIN, _MARGIN + _SIDE, _MARGIN + _SIDE
    for tenth in range(0, 11, 2):
        x, y = left + _SIDE * tenth / 10, bottom - _SIDE * tenth / 10
        draw.line((x, top, x, bottom), fill=(235, 235, 235))
        draw.line((left, y, right, y), fill=(235, 235, 235))
        draw.text((left - 8, y), f"{tenth * 10} %", font=small, fill=_SOFT, anchor="rm")
        draw.text((x, bottom + 6), f"{tenth * 10} %", font=small, fill=_SOFT, anchor="mt")
    draw.line((left, bottom, right, top), fill=_SOFT, width=2)
    draw.rectangle((left, top, right, bottom), outline=_INK)
    most = max(each.count for each in reliability.bins)
    for each in reliability.bins:
        x, y = left + _SIDE * each.said, bottom - _SIDE * each.was
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=_DOT)
        tall = max(1, round(0.5 * _STRIP * each.count / most))
        foot = bottom + _STRIP
        draw.rectangle((x - 7, foot - tall, x + 7, foot), fill=_SOFT)
        draw.text((x, foot + 4), str(each.count), font=small, fill=_INK, anchor="mt")
    cases = sum(each.count for each in reliability.bins)
    draw.text((left, top - 38), f"{name}, {cases} cases", font=font, fill=_INK)
    draw.text(
        (left, top - 18), f"said (to the right) and was (up), off by {reliability.error:.3f}", font=small, fill=_INK
    )
    return image


_STEPS = 200


def fit_lines(x: Tensor, y: Tensor, decay: float, weight: Tensor | None = None) -> Tensor:
    """A line for each column of `y` (examples, lines), 0 or 1, on `x` (examples, width): (lines, width + 1), the bias
    last.

    `weight`: how much an example counts for each line, shape of `y`. `decay`, of the lines' squared lengths: a line
    exists even where all outcomes are alike, or where there are none.
    """
    x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    lines = torch.zeros(y.shape[1], x.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([lines], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        wrong = F.binary_cross_entropy_with_logits(x @ lines.T, y.double(), weight=weight, reduction="sum")
        value = wrong + decay * lines.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return lines.detach()
