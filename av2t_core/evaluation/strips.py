"""A clip's frames side by side with what was masked and what is true, for a person to look at."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from av2t_core.data.avsbench import SIZE, read_frame, read_mask
from av2t_core.evaluation.scores import ClipScores
from av2t_core.prediction.drawing import FILL, TINT

_TRUTH = (255, 255, 0)
_GAP = 4  # pixels between frames
_CAPTION = 18  # pixels of height
_WIDEST = 4  # times the height


def write_strip(path: Path, scores: ClipScores, masks: NDArray[np.bool_]) -> None:
    """A PNG of the frames that have a mask: the prediction as a tint, the truth as a contour, below it how they fit.

    `masks` (frames, SIZE, SIZE). DataError: a frame or its mask cannot be read.
    """
    clip, drawn = scores.clip, []
    for index, second in enumerate(clip.labelled):
        truth = clip.masks[second]
        assert truth is not None
        caption = f"{second + 1}: {_caption(scores, index)}"
        drawn.append(_frame(read_frame(clip.frames[second]), masks[index], read_mask(truth), caption))
    strip = Image.new("RGB", (sum(image.width + _GAP for image in drawn) - _GAP, SIZE + _CAPTION))
    left = 0
    for image in drawn:
        strip.paste(image, (left, 0))
        left += image.width + _GAP
    strip.save(path)


def _caption(scores: ClipScores, index: int) -> str:
    if scores.sounding[index]:
        return f"IoU {scores.ious[index]:.2f}" + ("" if scores.masked[index] else ", no mask")
    return "silent" + (", yet masked" if scores.masked[index] else ", no mask")


def _frame(picture: NDArray[np.uint8], mask: NDArray[np.bool_], truth: NDArray[np.bool_], caption: str) -> Image.Image:
    """SIZE pixels high and as wide as the picture's shape wants it, up to _WIDEST times that, above its caption."""
    height, width, _ = picture.shape
    size = (max(1, round(SIZE * min(width / height, _WIDEST))), SIZE)
    image = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
    masked, true = (Image.fromarray(area).convert("L").resize(size, Image.Resampling.NEAREST) for area in (mask, truth))
    image.paste(Image.blend(image, Image.new("RGB", size, TINT), FILL), mask=masked)
    image.paste(TINT, mask=_edge(masked))
    image.paste(_TRUTH, mask=_edge(true))
    captioned = Image.new("RGB", (image.width, SIZE + _CAPTION))
    captioned.paste(image)
    font = ImageFont.load_default(size=12)
    ImageDraw.Draw(captioned).text((4, SIZE + 2), caption, font=font, fill=(255, 255, 255))
    return captioned


def _edge(mask: Image.Image) -> Image.Image:
    """The outermost pixels of a mask of 0 and 255."""
    return ImageChops.subtract(mask, mask.filter(ImageFilter.MinFilter(3)))
