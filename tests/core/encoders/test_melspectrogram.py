"""Against the formula, summed term by term."""

from math import ceil

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from av2t_core.encoders.melspectrogram import resample_second
from av2t_core.media.sound import MARGIN

TARGET = 44_100
SECONDS = 3


def by_the_formula(clip: NDArray[np.float32], rate: int, n: int) -> float:
    """Sample n of all of the clip, resampled as a whole."""
    cutoff = 0.99 * min(1, TARGET / rate)
    position = n * rate / TARGET
    reach = ceil(6 / cutoff)
    k = np.arange(max(0, int(position) - reach), min(len(clip), int(position) + reach + 2))
    t = cutoff * (k - position)
    weights = np.where(np.abs(t) < 6, cutoff * np.sinc(t) * np.cos(np.pi * t / 12) ** 2, 0)
    return float(weights @ clip[k].astype(np.float64))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_056, 44_101, 48_000, 96_000, 192_000])
def test_a_second_alone_is_what_it_is_in_the_whole_clip(rate: int) -> None:
    rng = np.random.default_rng(0)
    clip = rng.uniform(-1, 1, SECONDS * rate).astype(np.float32)
    padded = torch.from_numpy(np.pad(clip, MARGIN))
    seconds = [resample_second(padded[k * rate : (k + 1) * rate + 2 * MARGIN], rate, TARGET) for k in range(SECONDS)]
    resampled = torch.cat(seconds).numpy()

    assert len(resampled) == SECONDS * TARGET
    seams = [k * TARGET + offset for k in range(SECONDS + 1) for offset in range(-30, 30)]
    places = [n for n in seams if 0 <= n < len(resampled)] + rng.integers(0, len(resampled), 500).tolist()
    expected = [by_the_formula(clip, rate, n) for n in places]
    np.testing.assert_allclose(resampled[places], expected, atol=1e-6)


def test_equal_rates_are_left_alone() -> None:
    samples = torch.randn(2, 3, MARGIN + TARGET + MARGIN)
    second = resample_second(samples, TARGET, TARGET)
    assert torch.equal(second, samples[..., MARGIN:-MARGIN])


def test_batch_and_channels_are_independent() -> None:
    samples = torch.randn(2, 3, MARGIN + 8_000 + MARGIN)
    together = resample_second(samples, 8_000, TARGET)
    assert together.shape == (2, 3, TARGET)
    assert torch.allclose(together[1, 2], resample_second(samples[1, 2], 8_000, TARGET), atol=1e-6)


def test_beyond_the_margin_is_silence() -> None:
    rate = 20 * TARGET  # the sinc reaches 122 samples
    second = resample_second(torch.ones(MARGIN + rate + MARGIN), rate, TARGET)
    torch.testing.assert_close(second[100:-100], torch.ones(TARGET - 200), atol=1e-2, rtol=0)
