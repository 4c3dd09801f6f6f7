"""A reliability diagram: how often a model was right, beside how often it said that it would be."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from av2t_core.evaluation.calibrating import Reliability  # which brings torch

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
