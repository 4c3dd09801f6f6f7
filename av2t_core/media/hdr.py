"""High dynamic range (ITU-R BT.2100) → the sRGB of an ordinary screen, as Chromium shows it there.

Highlights are rolled off by the reference white tone mapping operator of SMPTE ST 2094-50: up to white a picture keeps
its contrast at half the light, and what is brighter shares the other half.
"""

import numpy as np
from av.video.reformatter import ColorTrc
from numpy.typing import NDArray

PQ, HLG = ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67

_WHITE = 203  # cd/m2 of white that is no highlight (ITU-R BT.2408)
_PEAK = 1000 / _WHITE  # the brightest highlight that is told from others, 1 is white
_WHITE_SHOWN = 0.5  # of a screen's light, for white
_BEND = 0.65  # how far the roll-off keeps to the slope below it
_STRIP = 64  # lines at once: a picture of 8K as floats would take half a gigabyte

_TO_BT709 = np.array(  # from BT.2020 (ITU-R BT.2087), light
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020's primaries
_CODES = np.linspace(0, 1, 2**16)


def _pq() -> NDArray[np.float32]:
    """Code → light, 1 is white."""
    root = _CODES ** (1 / 78.84375)
    light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    return (10_000 / _WHITE * light).astype(np.float32)


def _hlg() -> NDArray[np.float32]:
    """Code → light of the scene, 1 is its brightest."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(_CODES <= 0.5, _CODES**2 / 3, (np.exp((_CODES - c) / a) + b) / 12).astype(np.float32)


def _srgb() -> NDArray[np.uint8]:
    """Light, of which 2**16 - 1 is a screen's brightest → code."""
    code = np.where(_CODES <= 0.0031308, 12.92 * _CODES, 1.055 * _CODES ** (1 / 2.4) - 0.055)
    return np.round(255 * code).astype(np.uint8)


_TABLES = {PQ: _pq(), HLG: _hlg()}
_SRGB = _srgb()


def to_srgb(image: NDArray[np.uint16], transfer: ColorTrc) -> NDArray[np.uint8]:
    """(H, W, 3) of BT.2020's primaries → (H, W, 3). `transfer`: PQ or HLG."""
    out = np.empty(image.shape, np.uint8)
    for top in range(0, len(image), _STRIP):
        light = _TABLES[transfer].take(image[top : top + _STRIP])
        if transfer is HLG:  # for a screen of 1000 cd/m2
            light *= _PEAK * (light @ _LUMINANCE)[..., None] ** 0.2
        brightest = np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2])
        light *= _gain(brightest)[..., None]
        shown = np.clip(light @ _TO_BT709.T, 0, 1)
        out[top : top + _STRIP] = _SRGB.take((shown * np.float32(2**16 - 1)).astype(np.uint16))
    return out


def _gain(brightest: NDArray[np.float32]) -> NDArray[np.float32]:
    """By what light is multiplied, by the brightest of the three colours: from white to `_PEAK` a quadratic Bézier."""
    bend_x = 1 + _BEND * (1 / _WHITE_SHOWN - 1)
    bend_y = _WHITE_SHOWN + _BEND * (1 - _WHITE_SHOWN)
    square, linear = _PEAK - 2 * bend_x + 1, bend_x - 1
    beyond = np.clip(brightest, 1, _PEAK) - 1
    at = (np.sqrt(linear**2 + square * beyond) - linear) / square
    shown = (1 - at) ** 2 * _WHITE_SHOWN + 2 * at * (1 - at) * bend_y + at**2
    return np.asarray(shown / np.maximum(brightest, 1), np.float32)
