"""Predictions as pictures: those that any program saved are read, to be scored, and strips of a clip are drawn.

What is read are grey pictures in a folder for each clip:

    <video>/1.png to 5.png             a clip's frames, counted from 1; or
    <video>/masks/000.png to 004.png   what `prediction.folder` writes into <video>

Grey is the probability that a pixel sounds, 0 to 255.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from av2t_core.data.avsbench import SIZE, DataError, LabelledClip, read_frame, read_mask
from av2t_core.prediction.drawing import FILL, TINT

if TYPE_CHECKING:
    from av2t_core.evaluation.scores import ClipScores  # which brings torch


def prediction_paths(directory: Path, clip: LabelledClip) -> list[Path]:
    """Of each frame that has a mask. Whether they exist is not looked at."""
    own = directory / clip.video
    if (own / "masks").is_dir():
        return [own / "masks" / f"{second:03}.png" for second in clip.labelled]
    return [own / f"{second + 1}.png" for second in clip.labelled]


def check_predictions(directory: Path, clips: Sequence[LabelledClip]) -> None:
    """DataError: the folder or a file in it is missing, or its frames are not counted from 1."""
    if not directory.is_dir():
        raise DataError(f"{directory} is no folder; it should hold <video>/1.png and so on")
    for clip in clips:
        if (zero := directory / clip.video / "0.png").exists():
            raise DataError(f"{zero} is one too many: frames are counted from 1 here, so rename 0.png to 1.png and on")
    paths = [path for clip in clips for path in prediction_paths(directory, clip)]
    if missing := [path for path in paths if not path.is_file()]:
        raise DataError(f"{missing[0]} is missing ({len(missing)} of {len(paths)} predictions are)")


def read_probabilities(path: Path) -> NDArray[np.float32]:
    """(SIZE, SIZE) in 0..1, resized bilinearly. DataError: it is missing, no picture, or not grey of 8 bits."""
    picture = read_frame(path)
    grey = picture[..., 0]
    with Image.open(path) as file:
        wide = file.mode.startswith("I")  # of more bits, which Pillow cuts off at 255
    if wide or (picture != grey[..., None]).any():
        raise DataError(
            f"{path} has {'more than 8 bits a pixel' if wide else 'colours'}; a prediction is grey, 0 to 255 for the"
            " probability that a pixel sounds"
        )
    resized = cv2.resize(grey.astype(np.float32) / 255, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.float32, copy=False)


def to_logits(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """log(p / (1 - p)), finite for 0 and 1, each of which stands for what rounds to it."""
    p = np.clip(probabilities, 0.5 / 255, 1 - 0.5 / 255)
    logits: NDArray[np.float32] = np.log(p / (1 - p), dtype=np.float32)
    return logits


_TRUTH = (255, 255, 0)
_GAP, _CAPTION = 4, 18  # pixels between frames, and below them
_WIDEST = 4  # times the height


def write_strip(path: Path, scores: "ClipScores", masks: NDArray[np.bool_]) -> None:
    """A PNG of the frames that have a mask: the prediction as a tint, the truth as a contour, below it how they fit.

    `masks` (frames, SIZE, SIZE). DataError: a frame or its mask cannot be read.
    """
    clip, drawn = scores.clip, []
    for index, second in enumerate(clip.labelled):
        truth = clip.masks[second]
        assert truth is not None
        caption = f"IoU {scores.ious[index]:.2f}" if scores.sounding[index] else "silent"
        if not (scores.sounding[index] and scores.masked[index]):
            caption += ", yet masked" if scores.masked[index] else ", no mask"
        drawn.append(
            _frame(read_frame(clip.frames[second]), masks[index], read_mask(truth), f"{second + 1}: {caption}")
        )
    strip = Image.new("RGB", (sum(image.width + _GAP for image in drawn) - _GAP, SIZE + _CAPTION))
    left = 0
    for image in drawn:
        strip.paste(image, (left, 0))
        left += image.width + _GAP
    strip.save(path)


def _frame(picture: NDArray[np.uint8], mask: NDArray[np.bool_], truth: NDArray[np.bool_], caption: str) -> Image.Image:
    """SIZE pixels high and as wide as the picture's shape wants it, up to _WIDEST times that, above its caption."""
    height, width, _ = picture.shape
    size = (max(1, round(SIZE * min(width / height, _WIDEST))), SIZE)
    image = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
    masked, true = (Image.fromarray(area).convert("L").resize(size, Image.Resampling.NEAREST) for area in (mask, truth))
    image.paste(Image.blend(image, Image.new("RGB", size, TINT), FILL), mask=masked)
    for area, colour in ((masked, TINT), (true, _TRUTH)):  # the outermost pixels of each
        image.paste(colour, mask=ImageChops.subtract(area, area.filter(ImageFilter.MinFilter(3))))
    captioned = Image.new("RGB", (image.width, SIZE + _CAPTION))
    captioned.paste(image)
    font = ImageFont.load_default(size=12)
    ImageDraw.Draw(captioned).text((4, SIZE + 2), caption, font=font, fill=(255, 255, 255))
    return captioned
