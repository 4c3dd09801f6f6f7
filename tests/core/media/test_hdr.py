"""Clips of high dynamic range, written by the tests in colours whose look in a browser is known."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from numpy.typing import NDArray

from av2t_core.media.clip import Clip
from tests.core.clips import at_rate, write_clip

Floats = NDArray[np.float64]

WHITE = 203  # cd/m2
BAR = 16  # pixels
_BT2020_NCL = 9
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])

# An sRGB colour whose white has 203 cd/m2, and what Chromium's canvas shows.
COLOURS = {
    (255, 255, 255): (187, 187, 187),
    (255, 255, 0): (182, 189, 14),
    (0, 255, 255): (0, 187, 182),
    (0, 255, 0): (0, 188, 17),
    (255, 0, 255): (187, 7, 173),
    (255, 0, 0): (185, 1, 2),
    (0, 0, 255): (18, 3, 166),
    (0, 0, 0): (0, 0, 0),
    (128, 128, 128): (92, 92, 92),
    (200, 100, 50): (145, 70, 37),
}
GREYS = {50: 98, 203: 187, 400: 223, 800: 248}  # cd/m2, and what Chromium's canvas shows


def pq(light: Floats) -> Floats:
    power = (light / 10_000) ** (1305 / 8192)
    return np.asarray(((107 / 128 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32))


def hlg(light: Floats) -> Floats:
    """For a screen of 1000 cd/m2."""
    luminance = (light / 1000) @ [0.2627, 0.6780, 0.0593]
    scene = light / 1000 * np.where(luminance > 0, luminance, 1)[:, None] ** (1 / 1.2 - 1)
    bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


CURVES = {"PQ": (pq, ColorTrc.SMPTE2084), "HLG": (hlg, ColorTrc.ARIB_STD_B67)}


def write_bars(path: Path, light: Floats, curve: Callable[[Floats], Floats], transfer: ColorTrc) -> Path:
    """A second of upright bars. `light`: (bars, 3) of cd/m2 in BT.709's primaries."""
    red, green, blue = curve(light @ TO_BT2020.T).T
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = [64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = BAR * len(light), 32, "yuv444p10le"
        context.colorspace, context.color_range = _BT2020_NCL, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT2020, transfer
        for number in range(10):
            frame = av.VideoFrame(context.width, context.height, context.pix_fmt)
            for plane, values in zip(frame.planes, planes, strict=True):
                line = np.zeros(plane.line_size // 2, "<u2")
                line[: context.width] = np.repeat(np.round(values), BAR)
                plane.update(np.tile(line, (context.height, 1)).tobytes())
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def seen(path: Path) -> tuple[NDArray[np.int_], str]:
    """The colours of a clip's bars, and its remarks."""
    with Clip(path) as clip:
        [window] = clip.windows()
    return window.image[16, BAR // 2 :: BAR].astype(int), " ".join(clip.info.remarks)


@pytest.mark.parametrize("name", CURVES)
def test_colours_are_those_of_the_browser(tmp_path: Path, name: str) -> None:
    code = np.array(list(COLOURS)) / 255
    light = WHITE * np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    found, said = seen(write_bars(tmp_path / "clip.mkv", light, *CURVES[name]))

    assert np.abs(found - list(COLOURS.values())).max() <= 25
    assert np.abs(found - list(COLOURS.values())).mean() <= 5
    assert f"HDR ({name})" in said


@pytest.mark.parametrize("name", CURVES)
def test_highlights_are_told_from_white(tmp_path: Path, name: str) -> None:
    light = np.repeat(np.array(list(GREYS), float)[:, None], 3, axis=1)
    found, _ = seen(write_bars(tmp_path / "clip.mkv", light, *CURVES[name]))

    np.testing.assert_allclose(found, np.repeat(np.array(list(GREYS.values()))[:, None], 3, axis=1), atol=2)


def test_a_clip_of_an_ordinary_screen_stays_as_it_is(tmp_path: Path) -> None:
    bars = np.zeros((32, BAR, 3), np.uint8)
    bars[:] = (200, 100, 50)
    [found], said = seen(write_clip(tmp_path / "clip.mp4", at_rate(10, 1), images=[bars] * 10))

    np.testing.assert_allclose(found, (200, 100, 50), atol=4)
    assert "HDR" not in said


def test_a_picture_as_phones_record_it(shared: Path) -> None:
    with Clip(shared / "cases" / "hdr" / "pq.webm") as clip:
        image = next(iter(clip.windows())).image

    np.testing.assert_allclose(image[120, 16], (187, 187, 187), atol=2)
    np.testing.assert_allclose(image[120, 16 + 5 * 32], (185, 1, 2), atol=4)
    np.testing.assert_allclose(image[120, 16 + 8 * 32], (92, 92, 92), atol=2)
