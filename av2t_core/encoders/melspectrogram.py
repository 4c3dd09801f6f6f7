"""The log-mel front end: resampling, mono, and the filterbank of Slaney's auditory toolbox."""

from functools import cache
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from av2t_core.encoders.resample import resample_second
from av2t_core.media.sound import Sound


def mono(sound: Sound, rate: int) -> NDArray[np.float32]:
    """The second alone, its channels averaged: (rate,); zeros where there is nothing to hear."""
    if not sound.rate:
        return np.zeros(rate, np.float32)
    return resample_second(torch.from_numpy(sound.samples.mean(axis=0)), sound.rate, rate).numpy()


def log_mel(samples: Tensor, *, sample_rate: int, n_fft: int, hop: int, mels: int, low: float, high: float) -> Tensor:
    """samples (B, N) to decibels (B, mels, 1 + N / hop), clamped at -100 dB."""
    window = torch.hann_window(n_fft, device=samples.device)
    spectrum = torch.stft(samples, n_fft, hop, window=window, return_complex=True)
    filters = mel_filters(sample_rate, n_fft, mels, low, high).to(samples.device)
    power = spectrum.real.square() + spectrum.imag.square()
    return 10 * (filters @ power).clamp(min=1e-10).log10()


@cache
def mel_filters(sample_rate: int, n_fft: int, mels: int, low: float, high: float) -> Tensor:
    """(mels, n_fft / 2 + 1) triangles of equal area (Slaney 1998), linear below 1 kHz and logarithmic above."""

    def to_mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1e-9) / 1000) / log(6.4))

    def to_hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(log(6.4) * (mel - 15) / 27))

    low_mel, high_mel = to_mel(np.array([low, high], float))
    edges = to_hertz(np.linspace(low_mel, high_mel, mels + 2))
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return torch.from_numpy(triangles).float()
