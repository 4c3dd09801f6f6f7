import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle, mask2rle
from numpy.typing import NDArray

from av2t_core.labelstudio.rle import HEADER, decode, encode

SIZES = [(1, 1), (1, 7), (5, 1), (3, 3), (17, 31), (64, 64), (101, 203), (360, 641)]


def check(mask: NDArray[np.bool_]) -> None:
    rle = encode(mask)
    decoded = decode_rle(rle).reshape(*mask.shape, 4)
    assert (decoded == np.where(mask, 255, 0)[..., None]).all()
    reference = mask2rle(np.where(mask, 255, 0).astype(np.uint8))
    assert (decode_rle(reference) == decode_rle(rle)).all()
    # Not longer than the SDK's own, which spends 16 bits on what is left of a long run and may add a byte of zeros.
    assert len(rle) <= len(reference)
    for each in (rle, reference):
        assert (decode(each, (mask.shape[0], mask.shape[1])) == mask).all()


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


def packed(bits: str) -> list[int]:
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def single(index: int, size: int, values: list[int]) -> str:
    return f"0{index:02b}{len(values) - 1:0{size}b}" + "".join(f"{value:08b}" for value in values)


def test_single_values_of_any_colour() -> None:
    """As the page writes what a person drew: of four channels the last one counts, and it is smoothed at edges."""
    pixels = [[9, 9, 9, alpha] for alpha in (0, 127, 128, 255, 200, 1)]
    values = [value for pixel in pixels for value in pixel]
    bits = HEADER.format(count=24) + single(1, 4, values[:9]) + single(0, 3, values[9:16]) + single(3, 16, values[16:])
    rle = packed(bits)
    assert (decode_rle(rle) == values).all()
    assert decode(rle, (2, 3)).tolist() == [[False, False, True], [True, True, False]]
    assert decode([*rle, 0, 0], (2, 3)).sum() == 3  # what comes after the last value is padding


def test_smoothed_edges() -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint8)
    assert (decode(mask2rle(alpha), (30, 40)) == (alpha > 127)).all()


WHOLE = encode(np.random.default_rng(1).random((6, 5)) < 0.5)


@pytest.mark.parametrize(
    ("rle", "sentence"),
    [
        (WHOLE[:3], "cut off"),
        (WHOLE[:8], "cut off"),
        (WHOLE[:-4], "cut off"),
        (encode(np.ones((5, 5), bool)), "of 100 values, and its size asks for 120"),
        ([*WHOLE[:4], 0xFF, *WHOLE[5:]], "words of 32 bits"),
        (packed(HEADER.format(count=120) + "100" + "111" + "1" * 8 + "110" + "1" * 8 + "1" * 8), "does not end"),
        ([], "not a list of bytes"),
        (None, "not a list of bytes"),
        ("0,0,0", "not a list of bytes"),
        ([0, 256], "not a list of bytes"),
        ([-1], "not a list of bytes"),
        ([0.5], "not a list of bytes"),
        ([True, False], "not a list of bytes"),
        ([[1], [2, 3]], "not a list of bytes"),
        ([10**30], "not a list of bytes"),
    ],
)
def test_damage_is_told(rle: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        decode(rle, (6, 5))


def test_no_damage_does_more_than_give_another_mask_or_be_told() -> None:
    rng = np.random.default_rng(0)
    told = set()
    for _ in range(500):
        rle = np.array(WHOLE[: rng.integers(1, len(WHOLE) + 1)])
        rle[rng.integers(len(rle), size=rng.integers(1, 4))] = rng.integers(256)
        try:
            assert decode(rle.tolist(), (6, 5)).shape == (6, 5)
        except ValueError as error:
            told.add(str(error)[:7])
    assert told == {"its rle"}
