"""Sounds of the actors: varied, repeated over a stretch of time, mixed."""

import math
from collections.abc import Sequence

import numpy as np

from av2t_core.data.cutouts import SAMPLE_RATE, Sound


def sound_stretch(rng: np.random.Generator, recording: Sound, seconds: float) -> Sound:
    """The recording at another speed (and so pitch), repeated with a varied gap, from a random place in it."""
    speed = 2 ** rng.uniform(-0.25, 0.25)
    positions = np.arange(0, len(recording) - 1, speed)
    varied = np.interp(positions, np.arange(len(recording)), recording).astype(np.float32)
    total = round(seconds * SAMPLE_RATE)
    parts, length = [varied], len(varied)
    while length < 2 * total:
        gap = np.zeros(round(rng.uniform(0, 0.15) * SAMPLE_RATE), np.float32)
        parts += [gap, varied]
        length += len(gap) + len(varied)
    endless = np.concatenate(parts)
    start = _loud_start(rng, endless, total)
    return endless[start : start + total].copy()


def _loud_start(rng: np.random.Generator, samples: Sound, length: int) -> int:
    """A place from which something is heard: the loudest of a few random ones."""
    starts = rng.integers(0, max(1, len(samples) - length), 3)
    return int(max(starts, key=lambda s: float(np.square(samples[s : s + length]).mean())))


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
