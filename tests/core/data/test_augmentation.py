"""What training makes of one photograph and of one recording."""

from pathlib import Path

import numpy as np
import pytest

from av2t_core.data.augmentation import at_tempo, vary, vary_sound
from av2t_core.data.cutouts import SAMPLE_RATE, Image, read_cutout

DOG = Path(__file__).parents[2] / "data" / "cutouts" / "sounding" / "dog"


@pytest.fixture(scope="module")
def image() -> Image:
    return read_cutout(next(DOG.glob("image_*.png")))


def test_a_photograph_becomes_many(image: Image) -> None:
    varied = [vary(np.random.default_rng(seed), image, 96) for seed in range(40)]
    for one in varied:
        assert one.dtype == np.uint8
        assert one.shape[2] == 4
        assert max(one.shape[:2]) <= 96 * np.exp(0.15) + 1
        assert (one[..., :3] <= one[..., 3:]).all()  # premultiplied
        assert one[..., 3].any()
    assert len({one.tobytes() for one in varied}) > 30
    shares = [float((one[..., 3] > 128).mean()) for one in varied]
    assert min(shares) < 0.75 * np.median(shares)  # now and then only a part


def test_the_same_seed_makes_the_same(image: Image) -> None:
    one, other = (vary(np.random.default_rng(3), image, 96) for _ in range(2))
    assert np.array_equal(one, other)


def test_a_small_photograph_is_not_enlarged() -> None:
    small = np.full((20, 30, 4), 200, np.uint8)
    assert all(max(vary(np.random.default_rng(seed), small, 96).shape[:2]) <= 36 for seed in range(20))


def tone(hertz: float, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE).astype(np.float32)


def pitch(sound: np.ndarray) -> float:
    """The frequency, in hertz, that it has most of."""
    return float(np.abs(np.fft.rfft(sound)).argmax() * SAMPLE_RATE / len(sound))


@pytest.mark.parametrize("rate", [0.6, 1.0, 1.6])
def test_another_tempo_keeps_the_pitch_and_the_loudness(rate: float) -> None:
    sound = tone(440, 2)
    changed = at_tempo(sound, rate)
    assert len(changed) / SAMPLE_RATE == pytest.approx(2 / rate, abs=0.1)
    assert pitch(changed) == pytest.approx(440, abs=5)
    middle = changed[len(changed) // 4 : -len(changed) // 4]
    assert float(np.sqrt(np.mean(middle**2))) == pytest.approx(np.sqrt(0.5), rel=0.1)


@pytest.mark.parametrize("length", [0, 1, 700, 801, 1200])
def test_what_is_too_short_for_another_tempo_is_heard_all_the_same(length: int) -> None:
    sound = np.ones(length, np.float32)
    assert np.isfinite(at_tempo(sound, 1.5)).all()
    assert len(at_tempo(sound, 4.0)) == length


def test_a_recording_becomes_many() -> None:
    varied = [vary_sound(np.random.default_rng(seed), tone(440, 1)) for seed in range(40)]
    assert all(one.dtype == np.float32 and np.isfinite(one).all() for one in varied)
    pitches = [pitch(one) for one in varied]
    assert min(pitches) < 330
    assert max(pitches) > 580
    assert {round(len(one) / SAMPLE_RATE, 1) for one in varied} > {0.7, 1.0, 1.3}
