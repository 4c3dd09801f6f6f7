"""Variations of photographs and recordings, mixtures of sounds, and what a camera does to a picture.

A class has one or two photographs and recordings; training needs many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from av2t_core.data.cutouts import SAMPLE_RATE, Image, Sound, shrunk


def vary(rng: np.random.Generator, image: Image, longest: int) -> Image:
    """A premultiplied RGBA image (H, W, 4) in another shape or other colours, or a part of it; or all of that, or none.

    `longest`: pixels; a side beyond that is shrunk first, for it will not be shown larger.
    """
    scale = longest / max(image.shape[:2])
    if scale < 1:
        image = shrunk(image, scale)
    if rng.random() < 0.5:
        image = _bent(rng, image)
    if rng.random() < 0.5:
        image = _coloured(rng, image)
    if rng.random() < 0.2:
        image = _cut(rng, image)
    return image


def _bent(rng: np.random.Generator, image: Image) -> Image:
    """Stretched by up to a third, sheared, and softly warped."""
    height, width = image.shape[:2]
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    size = (max(1, round(width * stretch)), max(1, round(height / stretch)))
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, size[0]), np.linspace(-0.5, 0.5, size[1]))
    strength = rng.uniform(0, 0.05)
    dx, dy = (cv2.resize(rng.normal(0, strength, (4, 4)), size, interpolation=cv2.INTER_CUBIC) for _ in range(2))
    columns = (x + rng.uniform(-0.3, 0.3) * y + dx + 0.5) * (width - 1)
    rows = (y + dy + 0.5) * (height - 1)
    return np.asarray(cv2.remap(image, columns.astype(np.float32), rows.astype(np.float32), cv2.INTER_LINEAR), np.uint8)


def _coloured(rng: np.random.Generator, image: Image) -> Image:
    """Turned in hue, more or less saturated (one time in eight grey), of other contrast."""
    alpha = image[..., 3:].astype(np.float32)
    colour = image[..., :3].astype(np.float32)
    grey = colour.mean(axis=2, keepdims=True)
    saturation = 0.0 if rng.random() < 0.125 else rng.uniform(0.5, 1.5)
    colour = grey + (colour - grey) @ (saturation * _turn(rng.normal(0, 0.5))).T.astype(np.float32)
    middle = 0.45 * alpha
    colour = middle + (colour - middle) * rng.uniform(0.6, 1.4)
    return np.concatenate([np.clip(colour, 0, alpha), alpha], axis=2).astype(np.uint8)


def _turn(angle: float) -> NDArray[np.float64]:
    """(3, 3), around the grey diagonal of the cube of colours (Rodrigues' formula)."""
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.asarray(np.eye(3) + np.sin(angle) * across + (1 - np.cos(angle)) * across @ across)


def _cut(rng: np.random.Generator, image: Image) -> Image:
    """Without what lies beyond a random line: up to half of it."""
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height))
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    seen = along[image[..., 3] > 0]
    if not seen.size:
        return image
    kept = along <= np.quantile(seen, rng.uniform(0.5, 0.95))
    return np.ascontiguousarray(image * kept[..., None].astype(np.uint8))


def vary_sound(rng: np.random.Generator, recording: Sound) -> Sound:
    """A recording higher or lower, slower or faster, of another colour; or all of that, or none."""
    if rng.random() < 0.4:
        return recording
    if rng.random() < 0.7:
        recording = _at_speed(recording, 2 ** rng.uniform(-0.7, 0.7))
    if rng.random() < 0.5:
        recording = at_tempo(recording, 2 ** rng.uniform(-0.7, 0.7))
    if rng.random() < 0.6:
        recording = equalised(rng, recording, decibels=15)
    return recording


def _at_speed(recording: Sound, speed: float) -> Sound:
    """And so at another pitch."""
    positions = np.arange(0, len(recording) - 1, speed)
    return np.asarray(np.interp(positions, np.arange(len(recording)), recording), np.float32)


_HOP, _PIECE, _SEARCH = SAMPLE_RATE // 80, SAMPLE_RATE // 20, SAMPLE_RATE // 100


def at_tempo(sound: Sound, rate: float) -> Sound:
    """`rate` times as fast at the same pitch: pieces laid over one another, each where it goes on from the one before.

    WSOLA (Verhelst and Roelands, ICASSP 1993). What is shorter than two pieces stays as it is.
    """
    last = len(sound) - _PIECE
    count = int(last / rate / _HOP)
    if count < 1:
        return sound
    window = np.hanning(_PIECE).astype(np.float32)
    out = np.zeros(count * _HOP + _PIECE, np.float32)
    weight = np.full_like(out, 1e-3)
    place = 0
    for piece in range(count):
        if piece:
            expected = sound[place + _HOP : place + _HOP + _PIECE // 2]
            first = max(0, min(round(piece * _HOP * rate) - _SEARCH, last - 1))
            there = sound[first : min(first + 2 * _SEARCH, last) + len(expected)]
            alike = np.correlate(there, expected, "valid")
            energy = np.convolve(np.square(there), np.ones(len(expected), np.float32), "valid")
            place = min(first + int(np.argmax(alike / np.sqrt(np.maximum(energy, 1e-6)))), last)
        start = piece * _HOP
        out[start : start + _PIECE] += window * sound[place : place + _PIECE]
        weight[start : start + _PIECE] += window
    return out / weight


@dataclass(frozen=True, kw_only=True)
class Camera:
    blur: float = 0.0  # pixels, the deviation of a Gaussian
    noise: float = 0.0  # of 255, its deviation
    quality: int | None = None  # of JPEG; None does not compress

    def shoot(self, rng: np.random.Generator, picture: Image) -> Image:
        """(H, W, 3); `rng` draws the noise."""
        if self.blur:
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), self.blur), np.uint8)
        if self.noise:
            picture = np.clip(picture + rng.normal(0, self.noise, picture.shape), 0, 255).astype(np.uint8)
        if self.quality is not None:
            _, packed = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
            picture = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
        return picture


def draw_camera(rng: np.random.Generator) -> Camera:
    """Each flaw is there one time in four."""
    return Camera(
        blur=float(rng.uniform(0.4, 1.4)) if rng.random() < 0.25 else 0.0,
        noise=float(rng.uniform(2, 10)) if rng.random() < 0.25 else 0.0,
        quality=int(rng.integers(25, 80)) if rng.random() < 0.25 else None,
    )


def sound_stretch(rng: np.random.Generator, recording: Sound, seconds: float) -> Sound:
    """The recording at another speed (and so pitch), repeated with a varied gap, from a place that sounds."""
    varied = _at_speed(recording, 2 ** rng.uniform(-0.25, 0.25))
    total = round(seconds * SAMPLE_RATE)
    parts, length = [varied], len(varied)
    while length < 2 * total:
        gap = np.zeros(round(rng.uniform(0, 0.15) * SAMPLE_RATE), np.float32)
        parts += [gap, varied]
        length += len(gap) + len(varied)
    endless = np.concatenate(parts)
    starts = rng.integers(0, max(1, len(endless) - total), 3)
    start = max(starts, key=lambda start: float(np.square(endless[start : start + total]).mean()))  # the loudest
    return endless[start : start + total].copy()


def mix(rng: np.random.Generator, parts: Sequence[Sound], length: int, noise: float = 1.0) -> Sound:
    """The parts at about equal loudness, sometimes in a room or through a poor microphone, over a bed of noise.

    `noise` 0 leaves the bed out.
    """
    total = np.zeros(length, np.float32)
    for part in parts:
        level = 10 ** (rng.uniform(-26, -14) / 20)
        total += part[:length] * (level / (np.sqrt(np.mean(part**2)) + 1e-6))
    if parts and rng.random() < 0.3:
        total = room(rng, total)
    if parts and rng.random() < 0.4:
        total = equalised(rng, total)
    if noise and rng.random() < 0.6:
        drawn = np.cumsum(rng.normal(size=length)) if rng.random() < 0.3 else rng.normal(size=length)
        bed = equalised(rng, (drawn - np.linspace(drawn[0], drawn[-1], length)).astype(np.float32))
        # Under a sound it must not hide it; alone it may be as loud as a street.
        level = noise * 10 ** (rng.uniform(-70, -38 if parts else -20) / 20)
        total += bed / (np.std(bed) + 1e-9) * level
    return np.asarray(np.clip(total * 10 ** (rng.uniform(-8, 4) / 20), -1, 1), np.float32)


def equalised(rng: np.random.Generator, samples: Sound, decibels: float = 9) -> Sound:
    """Through a random curve of so much more or less, smooth over the octaves from 60 Hz to 8 kHz."""
    spectrum = np.fft.rfft(samples)
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE), 1) / 60)
    knots = rng.uniform(-decibels, decibels, 6)
    gain = 10 ** (np.interp(octaves, np.linspace(0, 7, len(knots)), knots) / 20)
    return np.asarray(np.fft.irfft(spectrum * gain, len(samples)), np.float32)


def room(rng: np.random.Generator, samples: Sound) -> Sound:
    """A short decaying echo."""
    length = round(rng.uniform(0.05, 0.25) * SAMPLE_RATE)
    response = rng.normal(size=length) * np.exp(-5 * np.arange(length) / length) * rng.uniform(0.01, 0.05)
    response[0] = 1
    whole = 2 ** math.ceil(math.log2(len(samples) + length))
    spectrum = np.fft.rfft(samples, whole) * np.fft.rfft(response, whole)
    return np.asarray(np.fft.irfft(spectrum, whole)[: len(samples)], np.float32)
