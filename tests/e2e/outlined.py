"""The picture of docs/results.md: each keyframe of the real clips, what sounds there and what the model masks.

    python -m tests.e2e.outlined PREDICTIONS docs/real-clips.png

PREDICTIONS has a folder of `av2t predict` for each clip. Frames are not shown, for they may not be passed on.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from av2t_core.data.avsbench import read_mask
from av2t_core.data.real_clips import LabelledKeyframe, RealClip, read_real_clips
from av2t_core.evaluation.scores import LEAST_MASK, mask_iou
from av2t_core.prediction.finding import Mask
from tests.conftest import ROOT

COLUMNS, GAP, NAMES, CAPTION = 18, 4, 104, 14
WIDTH, HEIGHT = 62, 46
PAPER, INK, SOFT, EMPTY = (255, 255, 255), (30, 30, 30), (140, 140, 140), (238, 238, 240)
RIGHT, WRONG, MISSED = (88, 166, 92), (214, 69, 65), (150, 170, 205)


def sheet(clips: list[RealClip], predictions: Path) -> Image.Image:
    """A row for each clip, the ones with something in view that sounds first."""
    rows = sorted(clips, key=lambda clip: (not clip.labels, clip.name))
    high = HEIGHT + CAPTION + GAP
    image = Image.new("RGB", (NAMES + COLUMNS * (WIDTH + GAP), len(rows) * high + GAP), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=11)
    for row, clip in enumerate(rows):
        top = GAP + row * high
        draw.text((GAP, top + 4), clip.name.replace("_", " "), font=font, fill=INK)
        draw.text((GAP, top + 20), ", ".join(clip.labels) or "nothing in view", font=font, fill=SOFT)
        for index, keyframe in enumerate(clip.keyframes):
            left = NAMES + index * (WIDTH + GAP)
            mask = read_mask(predictions / clip.name / "masks" / f"{index:03d}.png")
            cell, said, colour = _cell(clip, keyframe, mask)
            image.paste(cell, (left + (WIDTH - cell.width) // 2, top))
            draw.text((left + WIDTH // 2, top + HEIGHT + 1), said, font=font, fill=colour, anchor="ma")
    return image


def _cell(clip: RealClip, keyframe: LabelledKeyframe, mask: Mask) -> tuple[Image.Image, str, tuple[int, int, int]]:
    """Green where both are, red where only the model's mask is, blue where only the outline is; and the verdict.

    What cannot be told is grey.
    """
    truth = clip.mask(keyframe)
    picture = np.full((*truth.shape, 3), EMPTY, np.uint8)
    wrong = WRONG if keyframe.scored else SOFT
    for where, colour in ((mask & truth, RIGHT), (mask & ~truth, wrong), (truth & ~mask, MISSED)):
        picture[where] = colour
    if not keyframe.scored:
        said, colour = "cannot tell", SOFT
    elif truth.any():
        iou = mask_iou(mask, truth)
        said, colour = f"{iou:.2f}", RIGHT if iou >= 0.5 else WRONG
    else:
        said, colour = ("false", WRONG) if mask.mean() > LEAST_MASK else (keyframe.heard[:9] or "silence", SOFT)
    scale = min(WIDTH / clip.width, HEIGHT / clip.height)
    size = (round(clip.width * scale), round(clip.height * scale))
    return Image.fromarray(picture).resize(size, Image.Resampling.BOX), said, colour


if __name__ == "__main__":
    sheet(read_real_clips(ROOT / "tests" / "data" / "real_clips"), Path(sys.argv[1])).save(sys.argv[2], optimize=True)
