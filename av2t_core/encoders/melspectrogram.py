"""The log-mel front end: resampling, mono, and the filterbank of Slaney's auditory toolbox.

Resampling is band-limited, by a windowed sinc (Smith, "Digital Audio Resampling Home Page", CCRMA 2002). Sample n of
the new rate lies at p = n * rate / target of the old one and is the sum over its neighbours k of

    c * x[k] * sinc(c * (k - p)) * cos^2(pi * c * (k - p) / (2 * ZEROS)),   c = ROLLOFF * min(1, target / rate)

as far as the cosine's first zero. With these two constants it is what torchaudio computes by default, and so what
MS-CLAP was trained on. soxr and scipy differ.
"""

from functools import cache, lru_cache
from math import ceil, log, pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from av2t_core.media.sound import MARGIN, Sound

ZEROS = 6
"""Zero crossings of the sinc on either side."""

ROLLOFF = 0.99
"""The cut-off as a share of the lower of the two Nyquist frequencies."""


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


def resample_second(samples: Tensor, rate: int, target: int) -> Tensor:
    """A second with its margins, (..., MARGIN + rate + MARGIN) at `rate` Hz, to the second alone, (..., target).

    Whole seconds begin on a sample at every rate, so a second of a clip is the same as if all of the clip had been
    resampled. Only beyond 10.5 times the target rate does the sinc reach past the margin, where it then finds zeros.
    """
    if rate == target:
        return samples[..., MARGIN:-MARGIN]
    first, weights = _weights(rate, target, samples.device)
    reach = weights.shape[1] // 2
    neighbours = F.pad(samples, (reach - MARGIN, reach - MARGIN)).unfold(-1, weights.shape[1], 1)
    return torch.einsum("...nk,nk->...n", neighbours[..., first, :], weights)


@lru_cache(maxsize=8)  # a batch may mix rates, a worker sees many
def _weights(rate: int, target: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each sample of the new second, floor(p) (target,) and the weights (target, 2 * reach + 1) around it."""
    cutoff = ROLLOFF * min(1, target / rate)
    reach = ceil(ZEROS / cutoff)
    position = torch.arange(target) * rate
    distance = torch.arange(-reach, reach + 1)[None] - (position % target).double()[:, None] / target
    crossings = (distance * cutoff).clamp(-ZEROS, ZEROS)
    weights = cutoff * torch.sinc(crossings) * (crossings * (pi / 2 / ZEROS)).cos().square()
    return (position // target).to(device), weights.float().to(device)
