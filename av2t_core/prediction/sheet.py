"""A contact sheet: a clip's keyframes with their masks, and below each the sound of its window, to be looked at.

Made while the clip is predicted, and as small for an hour as for a minute: of many keyframes every second, fourth, … is
shown.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from av2t_core.prediction.overlay import TINT, Shade

if TYPE_CHECKING:
    from av2t_core.media.clip import Window
    from av2t_core.prediction.predictor import KeyframePrediction

MOST = 60  # keyframes
_COLUMNS = 5
_WIDTH, _HEIGHT, _WAVE, _CAPTION, _GAP = 240, 480, 28, 18, 6  # pixels; of a picture the most
_PAPER, _INK, _SOFT = (24, 24, 24), (235, 235, 235), (130, 130, 130)


class ContactSheet:
    """Takes the windows of a clip on their way into the model, and its keyframes on their way out of it.

    for keyframe in predictor.predict_clip(sheet.listen(clip.windows())):
        sheet.add(keyframe)
    sheet.image().save("sheet.png")
    """

    def __init__(self) -> None:
        self._waves: deque[NDArray[np.float32]] = deque()  # of the windows that are in the model
        self._cells: list[Image.Image] = []
        self._every = 1
        self._seen = 0

    def listen(self, windows: "Iterable[Window]") -> "Iterator[Window]":
        """The same windows."""
        for window in windows:
            self._waves.append(_wave(window.sound.second))
            yield window

    def add(self, seen: "KeyframePrediction") -> None:
        wave = self._waves.popleft()
        if self._seen % self._every == 0:
            self._cells.append(_cell(seen, wave))
        self._seen += 1
        if len(self._cells) > MOST:
            self._cells, self._every = self._cells[::2], 2 * self._every

    def image(self) -> Image.Image:
        """RGB, of at least one keyframe."""
        columns = min(_COLUMNS, len(self._cells))
        width, height = self._cells[0].width + _GAP, self._cells[0].height + _GAP
        sheet = Image.new("RGB", (columns * width + _GAP, ceil(len(self._cells) / columns) * height + _GAP), _PAPER)
        for index, cell in enumerate(self._cells):
            sheet.paste(cell, (_GAP + index % columns * width, _GAP + index // columns * height))
        return sheet


def _cell(seen: "KeyframePrediction", wave: NDArray[np.float32]) -> Image.Image:
    height, width = seen.mask.shape
    scale = min(_WIDTH / width, _HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = np.asarray(Image.fromarray(seen.image).resize(size, Image.Resampling.BILINEAR))
    mask = Image.fromarray(seen.mask).convert("L").resize(size, Image.Resampling.NEAREST)
    names = [(thing.label, thing.score, (thing.box[0] * scale, thing.box[1] * scale)) for thing in seen.objects]
    if (shade := Shade.over_mask(mask, names)) is not None:
        picture = shade.over(picture)
    cell = Image.new("RGB", (_WIDTH, size[1] + _WAVE + _CAPTION), _PAPER)
    cell.paste(Image.fromarray(picture), ((_WIDTH - size[0]) // 2, 0))
    draw = ImageDraw.Draw(cell)
    middle = size[1] + _WAVE // 2
    for x, loud in enumerate(wave):
        tall = round(float(loud) * (_WAVE // 2 - 2))
        draw.line((x, middle - tall, x, middle + tall), fill=TINT if seen.sounding else _SOFT)
    draw.text((2, size[1] + _WAVE), f"{seen.keyframe.time:.2f} s", font=ImageFont.load_default(size=12), fill=_INK)
    said = _said(seen)
    draw.text((_WIDTH - 2, size[1] + _WAVE), said, font=ImageFont.load_default(size=12), fill=_INK, anchor="ra")
    return cell


def _said(seen: "KeyframePrediction") -> str:
    if seen.sounding:
        return f"right with {seen.score:.0%}"
    return "nothing sounds" if seen.evidence is None else "nothing sounds in view"


def _wave(second: NDArray[np.float32]) -> NDArray[np.float32]:
    """A second (channels, samples) as _WIDTH loudnesses in 0..1, on a scale on which quiet things are seen."""
    if not second.size:
        return np.zeros(_WIDTH, np.float32)
    edges = np.linspace(0, second.shape[1], _WIDTH + 1).astype(int)[:-1]
    peaks = np.maximum.reduceat(np.abs(second).max(axis=0), np.minimum(edges, second.shape[1] - 1))
    return np.asarray(np.sqrt(np.clip(peaks, 0, 1)), np.float32)
