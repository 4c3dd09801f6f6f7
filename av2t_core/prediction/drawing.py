"""Masks drawn onto frames for a person to look at: overlay.mp4, and a contact sheet of the keyframes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFont

from av2t_core.media.frames import LONGEST_STILL, Frame, Frames
from av2t_core.media.mp4 import Mp4Writer
from av2t_core.media.sound import Soundtrack
from av2t_core.prediction.folder import KeyframeRecord

if TYPE_CHECKING:
    from av2t_core.media.clip import Window
    from av2t_core.prediction.predictor import KeyframePrediction

TINT = (255, 64, 129)
FILL = 0.4  # opacity of the tint inside a mask
_LONGEST_FRAME = 1.0  # seconds that a frame may stand before it is repeated with the next window's mask
_SMALLEST_FOR_TEXT = 96  # pixels of height

_Layer = tuple[Image.Image, tuple[int, int]]
"""RGBA, and where its upper left corner lies in the picture."""

MOST = 60  # keyframes on a sheet
_COLUMNS = 5
_WIDTH, _HEIGHT, _WAVE, _CAPTION, _GAP = 240, 480, 28, 18, 6  # pixels; of a picture the most
_PAPER, _INK, _SOFT = (24, 24, 24), (235, 235, 235), (130, 130, 130)


def _layer(mask: Image.Image, objects: Iterable[tuple[str | None, float, Sequence[float]]]) -> _Layer | None:
    """Tint, contour and names for a mask of 0 and 255, None where it is empty. Of each object its label, its score and
    its box."""
    if mask.getbbox() is None:
        return None
    paint = Image.new("RGB", mask.size, TINT)
    opacity = mask.point(lambda value: round(value * FILL))
    # The contour lies around the mask, so that every pixel of the mask is seen as it is.
    side = 2 * max(1, min(mask.size) // 240) + 1
    around = Image.fromarray(cv2.dilate(np.asarray(mask), np.ones((side, side), np.uint8)))
    opacity.paste(255, mask=ImageChops.subtract(around, mask))
    if mask.height >= _SMALLEST_FOR_TEXT:
        for label, score, (x, y, *_) in objects:
            _write_name(paint, opacity, f"{label or 'sounds'} {score:.0%}", x=round(x), y=round(y))
    paint.putalpha(opacity)
    box = opacity.getbbox()
    assert box is not None
    return paint.crop(box), box[:2]


def _over(image: NDArray[np.uint8], layer: _Layer | None) -> NDArray[np.uint8]:
    """An image (H, W, 3) with a layer, if there is one."""
    if layer is None:
        return image
    paint, corner = layer
    picture = Image.fromarray(image)
    picture.paste(paint, corner, mask=paint)
    return np.asarray(picture)


def _write_name(paint: Image.Image, opacity: Image.Image, text: str, x: int, y: int) -> None:
    """A name on a plate above (x, y), moved inside where it would stick out."""
    font = ImageFont.load_default(size=max(12, paint.height // 30))
    draw = ImageDraw.Draw(paint)
    _, _, width, height = (ceil(side) for side in draw.textbbox((4, 2), text, font=font))
    width, height = width + 4, height + 3
    x = max(0, min(x, paint.width - width))
    y = max(0, min(y - height, paint.height - height))
    plate = (x, y, x + width - 1, y + height - 1)
    draw.rectangle(plate, fill=TINT)
    draw.text((x + 4, y + 2), text, font=font, fill=(255, 255, 255))
    ImageDraw.Draw(opacity).rectangle(plate, fill=255)


def write_overlay(
    video: Path, keyframes: Sequence[KeyframeRecord], directory: Path, out: Path, on_second: Callable[[], object]
) -> None:
    """Draw the masks of `keyframes` (at least one; their paths lie below `directory`) over `video` into `out`.

    The clip is decoded a second time and streamed through; its frames keep their timestamps. A window's mask shows
    during its second, and the overlay begins with the first window. `on_second` is called after each second.
    """

    def layer_of(second: int) -> _Layer | None:
        if (record := records.get(second)) is None:
            return None
        objects = [(each["label"], each["score"], each["box"]) for each in record["objects"]]
        with Image.open(directory / record["mask"]) as mask:
            return _layer(mask.convert("L"), objects)

    second = zero = keyframes[0]["index"]
    records = {record["index"]: record for record in keyframes}
    layer = layer_of(zero)
    with Frames(video) as frames, Soundtrack(video) as sound:
        shown = _shown(frames)
        first = next(shown)
        with Mp4Writer(out, first[0].rgb().shape[:2], frames.pixel_aspect, sound.rate > 0) as mp4:
            for frame, time, lasts in chain([first], shown):
                while second < floor(time):
                    mp4.write_sound(sound.second(second).second, sound.rate, second - zero)
                    on_second()
                    second += 1
                    layer = layer_of(second)
                mp4.write_image(_over(frame.rgb(), layer), time - zero, lasts)
            rest = round((frames.end - second) * sound.rate)
            mp4.write_sound(sound.second(second).second[:, :rest], sound.rate, second - zero)
            on_second()


def _shown(frames: Frames) -> Iterator[tuple[Frame, float, float]]:
    """Every frame with the time to show it at and for how long; one that stands long comes again each new second."""
    for frame, following in pairwise(chain(frames, [None])):
        assert frame is not None
        jumps = following is not None and following.time - frame.end > LONGEST_STILL
        until = frame.end if following is None or jumps else following.time
        times = [frame.time]
        if until - frame.time > _LONGEST_FRAME:
            times += range(floor(frame.time) + 1, ceil(until))
        for time, end in pairwise([*times, until]):
            yield frame, time, end - time
        if jumps:  # the overlay would stand still for an hour or more
            break


class ContactSheet:
    """A clip's keyframes with their masks, and below each the sound of its window.

    Made while the clip is predicted, and as small for an hour as for a minute: of many keyframes every second, fourth
    and so on is shown. It takes the windows on their way into the model, and the predictions on their way out of it.

    for keyframe in predictor.predict_clip(sheet.listen(clip.windows())):
        sheet.add(keyframe)
    sheet.image().save("sheet.png")
    """

    def __init__(self) -> None:
        self._waves: deque[tuple[int, NDArray[np.float32]]] = deque()  # of the windows that are in the model
        self._cells: list[Image.Image] = []
        self._every = 1
        self._added = 0

    def listen(self, windows: "Iterable[Window]") -> "Iterator[Window]":
        """The same windows."""
        for window in windows:
            self._waves.append((window.keyframe.index, _wave(window.sound.second)))
            yield window

    def add(self, prediction: "KeyframePrediction") -> None:
        while (heard := self._waves.popleft())[0] != prediction.keyframe.index:
            pass  # it was only heard
        if self._added % self._every == 0:
            self._cells.append(_cell(prediction, heard[1]))
        self._added += 1
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


def _cell(prediction: "KeyframePrediction", wave: NDArray[np.float32]) -> Image.Image:
    height, width = prediction.mask.shape
    scale = min(_WIDTH / width, _HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = np.asarray(Image.fromarray(prediction.image).resize(size, Image.Resampling.BILINEAR))
    mask = Image.fromarray(prediction.mask).convert("L").resize(size, Image.Resampling.NEAREST)
    layer = _layer(mask, [(e.label, e.score, [side * scale for side in e.box]) for e in prediction.objects])
    cell = Image.new("RGB", (_WIDTH, size[1] + _WAVE + _CAPTION), _PAPER)
    cell.paste(Image.fromarray(_over(image, layer)), ((_WIDTH - size[0]) // 2, 0))
    draw = ImageDraw.Draw(cell)
    middle, caption, font = size[1] + _WAVE // 2, size[1] + _WAVE, ImageFont.load_default(size=12)
    for x, loud in enumerate(wave):
        tall = round(float(loud) * (_WAVE // 2 - 2))
        draw.line((x, middle - tall, x, middle + tall), fill=TINT if prediction.sounding else _SOFT)
    nothing = "nothing sounds" if prediction.evidence is None else "nothing sounds in view"
    verdict = f"{prediction.score:.0%} sure" if prediction.sounding else nothing
    draw.text((2, caption), f"{prediction.keyframe.time:.2f} s", font=font, fill=_INK)
    draw.text((_WIDTH - 2, caption), verdict, font=font, fill=_INK, anchor="ra")
    return cell


def _wave(second: NDArray[np.float32]) -> NDArray[np.float32]:
    """A second (channels, samples) as _WIDTH loudnesses in 0..1, on a scale that shows quiet sounds."""
    if not second.size:
        return np.zeros(_WIDTH, np.float32)
    edges = np.linspace(0, second.shape[1], _WIDTH + 1).astype(int)[:-1]
    peaks = np.maximum.reduceat(np.abs(second).max(axis=0), np.minimum(edges, second.shape[1] - 1))
    return np.asarray(np.sqrt(np.clip(peaks, 0, 1)), np.float32)
