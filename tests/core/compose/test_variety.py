"""What training makes of one photograph."""

from pathlib import Path

import numpy as np
import pytest

from av2t_core.compose.cutouts import Image, read_cutout
from av2t_core.compose.variety import vary

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
