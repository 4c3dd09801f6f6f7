import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle, mask2rle
from numpy.typing import NDArray

from av2t_core.labelstudio.rle import encode

SIZES = [(1, 1), (1, 7), (5, 1), (3, 3), (17, 31), (64, 64), (101, 203), (360, 641)]


def check(mask: NDArray[np.bool_]) -> None:
    rle = encode(mask)
    decoded = decode_rle(rle).reshape(*mask.shape, 4)
    assert (decoded == np.where(mask, 255, 0)[..., None]).all()
    reference = mask2rle(np.where(mask, 255, 0).astype(np.uint8))
    assert (decode_rle(reference) == decode_rle(rle)).all()
    # Not longer than the SDK's own, which spends 16 bits on what is left of a long run and may add a byte of zeros.
    assert len(rle) <= len(reference)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [False, True])
def test_uniform(size: tuple[int, int], value: bool) -> None:
    check(np.full(size, value))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("density", [0.02, 0.5, 0.98])
def test_noise(size: tuple[int, int], density: float) -> None:
    rng = np.random.default_rng(size[0] * size[1])
    check(rng.random(size) < density)


@pytest.mark.parametrize("seed", range(20))
def test_blobs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 300, 2)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(rng.integers(1, 5)):
        cy, cx, r = rng.integers(height), rng.integers(width), rng.integers(1, 60)
        mask ^= (y - cy) ** 2 + (x - cx) ** 2 < r**2
    check(mask)


@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 5, 64, 65, 16383, 16384, 16385, 32768, 40000])
def test_runs_at_the_limits_of_their_sizes(pixels: int) -> None:
    mask = np.zeros((1, pixels + 2), bool)
    mask[0, 1:-1] = True
    check(mask)


def test_it_does_not_matter_how_the_mask_lies_in_memory() -> None:
    mask = np.random.default_rng(0).random((30, 40)) < 0.3
    assert encode(np.asfortranarray(mask)) == encode(mask)
    assert encode(mask[::2, ::3]) == encode(mask[::2, ::3].copy())
