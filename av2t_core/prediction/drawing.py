"""Masks drawn onto frames for a person to look at: overlay.mp4, and a contact sheet of the keyframes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

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

MOST = 60  # keyframes on a sheet
_COLUMNS = 5
_WIDTH, _HEIGHT, _WAVE, _CAPTION, _GAP = 240, 480, 28, 18, 6  # pixels; of a picture the most
_PAPER, _INK, _SOFT = (24, 24, 24), (235, 235, 235), (130, 130, 130)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What is laid over the frames of a window."""

    paint: NDArray[np.uint8]  # (H, W, 3) RGB
    opacity: NDArray[np.uint16]  # (H, W, 1) 0 to 255

    @classmethod
    def of(cls, mask: Image.Image, objects: Iterable[tuple[str | None, float, Sequence[float]]]) -> Self | None:
        """Tint, contour and names for a mask of 0 and 255, None where it is empty. Of each object its label, its score
        and its upper left corner."""
        if mask.getbbox() is None:
            return None
        paint = Image.new("RGB", mask.size, TINT)
        opacity = mask.point(lambda value: round(value * FILL))
        # The contour lies around the mask, so that every pixel of the mask is seen as it is.
        around = mask.filter(ImageFilter.MaxFilter(2 * max(1, min(mask.size) // 240) + 1))
        opacity.paste(255, mask=Image.fromarray(np.asarray(around) & ~np.asarray(mask)))
        if mask.height >= _SMALLEST_FOR_TEXT:
            for label, score, (x, y) in objects:
                _write_name(paint, opacity, f"{label or 'sounds'} {score:.0%}", x=round(x), y=round(y))
        return cls(paint=np.asarray(paint), opacity=np.asarray(opacity).astype(np.uint16)[..., None])

    @classmethod
    def of_record(cls, record: KeyframeRecord | None, directory: Path) -> Self | None:
        if record is None:
            return None
        with Image.open(directory / record["mask"]) as file:
            mask = file.convert("L")
        return cls.of(
            mask, [(each["label"], each["score"], (each["box"][0], each["box"][1])) for each in record["objects"]]
        )

    def over(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) of the same size."""
        mixed = (image * (255 - self.opacity) + self.paint * self.opacity + 127) // 255  # at most 255 * 255 + 127
        return mixed.astype(np.uint8)


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
    video: Path,
    keyframes: Sequence[KeyframeRecord],
    directory: Path,
    out: Path,
    on_second: Callable[[], object] = lambda: None,
) -> None:
    """Draw the masks of `keyframes` (at least one; their paths lie below `directory`) over `video` into `out`.

    The clip is decoded a second time and streamed through; its frames keep their timestamps. A window's mask shows
    during its second, and the overlay begins with the first window. `on_second` is called after each second.
    """
    second = zero = keyframes[0]["index"]
    records = {record["index"]: record for record in keyframes}
    layer = Layer.of_record(records[zero], directory)
    with Frames(video) as frames, Soundtrack(video) as sound:
        shown = _shown(frames)
        first = next(shown)
        with Mp4Writer(out, first[0].rgb().shape[:2], frames.pixel_aspect, sound.rate > 0) as mp4:
            for frame, time, lasts in chain([first], shown):
                while second < floor(time):
                    mp4.write_sound(sound.second(second).second, sound.rate, second - zero)
                    on_second()
                    second += 1
                    layer = Layer.of_record(records.get(second), directory)
                image = frame.rgb()
                mp4.write_image(layer.over(image) if layer else image, time - zero, lasts)
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
        self._waves: deque[NDArray[np.float32]] = deque()  # of the windows that are in the model
        self._cells: list[Image.Image] = []
        self._every = 1
        self._added = 0

    def listen(self, windows: "Iterable[Window]") -> "Iterator[Window]":
        """The same windows."""
        for window in windows:
            self._waves.append(_wave(window.sound.second))
            yield window

    def add(self, prediction: "KeyframePrediction") -> None:
        wave = self._waves.popleft()
        if self._added % self._every == 0:
            self._cells.append(_cell(prediction, wave))
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
    corners = [(each.label, each.score, (each.box[0] * scale, each.box[1] * scale)) for each in prediction.objects]
    layer = Layer.of(mask, corners)
    cell = Image.new("RGB", (_WIDTH, size[1] + _WAVE + _CAPTION), _PAPER)
    cell.paste(Image.fromarray(layer.over(image) if layer else image), ((_WIDTH - size[0]) // 2, 0))
    draw = ImageDraw.Draw(cell)
    middle, caption, font = size[1] + _WAVE // 2, size[1] + _WAVE, ImageFont.load_default(size=12)
    for x, loud in enumerate(wave):
        tall = round(float(loud) * (_WAVE // 2 - 2))
        draw.line((x, middle - tall, x, middle + tall), fill=TINT if prediction.sounding else _SOFT)
    verdict = "nothing sounds" if prediction.evidence is None else "nothing sounds in view"
    if prediction.sounding:
        verdict = f"{prediction.score:.0%} sure"
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
