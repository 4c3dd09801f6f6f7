"""Masks drawn onto frames for a person to look at: overlay.mp4, and a contact sheet of the keyframes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import ceil, floor
from pathlib import Path
from typing import TYPE_CHECKING

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
_LONGEST_WITHOUT_NEWS = 1.0  # seconds that one frame may stand before it is repeated with the next window's mask
_SMALLEST_FOR_TEXT = 96  # pixels of height

MOST = 60  # keyframes
_COLUMNS = 5
_WIDTH, _HEIGHT, _WAVE, _CAPTION, _GAP = 240, 480, 28, 18, 6  # pixels; of a picture the most
_PAPER, _INK, _SOFT = (24, 24, 24), (235, 235, 235), (130, 130, 130)


def write_overlay(
    video: Path,
    keyframes: Sequence[KeyframeRecord],
    directory: Path,
    out: Path,
    on_second: Callable[[], object] = lambda: None,
) -> None:
    """Draw the masks of `keyframes` (at least one; their paths lie below `directory`) over `video` into `out`.

    A window's mask shows during its second, and the overlay begins with the first window. `on_second` is called after
    each second.
    """
    zero = keyframes[0]["index"]
    records = {record["index"]: record for record in keyframes}
    second, shade = zero, Shade.of(records[zero], directory)
    with Frames(video) as frames, Soundtrack(video) as sound:
        shown = _shown(frames)
        first = next(shown)
        with Mp4Writer(out, first[0].rgb().shape[:2], frames.pixel_aspect, sound.rate > 0) as mp4:
            for frame, time, lasts in chain([first], shown):
                while second < floor(time):
                    mp4.write_sound(sound.second(second).second, sound.rate, second - zero)
                    on_second()
                    second += 1
                    shade = Shade.of(records[second], directory) if second in records else None
                image = frame.rgb()
                mp4.write_image(image if shade is None else shade.over(image), time - zero, lasts)
            rest = round((frames.end - second) * sound.rate)
            mp4.write_sound(sound.second(second).second[:, :rest], sound.rate, second - zero)
            on_second()


def _shown(frames: Frames) -> Iterator[tuple[Frame, float, float]]:
    """Every frame with the time to show it at and for how long; one that stands long comes again each new second."""
    previous: Frame | None = None
    for frame in frames:
        if previous is not None:
            if frame.time - previous.end > LONGEST_STILL:  # nobody waits for a clock that jumped
                break
            yield from _stills(previous, frame.time)
        previous = frame
    if previous is not None:
        yield from _stills(previous, previous.end)


def _stills(frame: Frame, until: float) -> Iterator[tuple[Frame, float, float]]:
    times = [frame.time]
    if until - frame.time > _LONGEST_WITHOUT_NEWS:
        times += range(floor(frame.time) + 1, ceil(until))
    for time, end in pairwise([*times, until]):
        yield frame, time, end - time


@dataclass(frozen=True, kw_only=True)
class Shade:
    """What a window lays over its frames."""

    paint: NDArray[np.uint8]  # (H, W, 3) RGB
    opacity: NDArray[np.uint16]  # (H, W, 1) 0 to 255

    @classmethod
    def of(cls, record: KeyframeRecord, directory: Path) -> "Shade | None":
        """Tint, contour and the objects' names; None where nothing sounds."""
        with Image.open(directory / record["mask"]) as file:
            mask = file.convert("L")
        names = [(found["label"], found["score"], (found["box"][0], found["box"][1])) for found in record["objects"]]
        return cls.over_mask(mask, names)

    @classmethod
    def over_mask(
        cls, mask: Image.Image, names: Iterable[tuple[str | None, float, tuple[float, float]]]
    ) -> "Shade | None":
        """The same for a mask of 0 and 255 and the label, the score and the upper left corner of each object."""
        if mask.getbbox() is None:
            return None
        paint = Image.new("RGB", mask.size, TINT)
        opacity = mask.point(lambda value: round(value * FILL))
        # The contour lies around the mask, so that every pixel of the mask is seen as it is.
        around = mask.filter(ImageFilter.MaxFilter(2 * max(1, min(mask.size) // 240) + 1))
        opacity.paste(255, mask=Image.fromarray(np.asarray(around) & ~np.asarray(mask)))
        if mask.height >= _SMALLEST_FOR_TEXT:
            for label, score, (x, y) in names:
                _write_name(paint, opacity, f"{label or 'sounds'} {score:.0%}", x=round(x), y=round(y))
        return cls(paint=np.asarray(paint), opacity=np.asarray(opacity).astype(np.uint16)[..., None])

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
