"""overlay.mp4: a clip with its masks and its sound, for a person to look at.

H.264 and AAC in an mp4 that every browser plays. The clip is decoded a second time and streamed through, so that
memory does not grow with its length; frames keep their timestamps.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from av2t_core.media.frames import LONGEST_STILL, Frame, Frames
from av2t_core.media.mp4 import Mp4Writer, open_mp4
from av2t_core.media.soundtrack import Soundtrack
from av2t_core.prediction.folder import KeyframeRecord

TINT = (255, 64, 129)
FILL = 0.4  # opacity of the tint inside a mask
_LONGEST_WITHOUT_NEWS = 1.0  # seconds that one frame may stand before it is repeated with the next window's mask
_SMALLEST_FOR_TEXT = 96  # pixels of height


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
    shade: Shade | None = None
    sink: Mp4Writer | None = None
    second = zero
    with (
        Frames(video) as frames,
        Soundtrack(video) as sound,
        open_mp4(out) as container,
    ):
        for frame, time, lasts in _shown(frames):
            image = frame.rgb()
            if sink is None:
                sink = Mp4Writer(container, image.shape[:2], frames.pixel_aspect, sound.rate > 0)
                shade = Shade.of(records[zero], directory)
            while second < floor(time):
                sink.write_sound(sound.second(second).second, sound.rate, second - zero)
                on_second()
                second += 1
                shade = Shade.of(records[second], directory) if second in records else None
            sink.write_image(image if shade is None else shade.over(image), time - zero, lasts)
        if sink is not None:
            rest = round((frames.end - second) * sound.rate)
            sink.write_sound(sound.second(second).second[:, :rest], sound.rate, second - zero)
            sink.close()
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
