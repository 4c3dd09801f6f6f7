from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from av2t_core.data.avsbench import SIZE, LabelledClip
from av2t_core.evaluation.pictures import write_strip
from av2t_core.evaluation.scores import ClipScores
from av2t_core.prediction.drawing import TINT

YELLOW = (255, 255, 0)
GREY = (100, 100, 100)


def strip(
    folder: Path, mask: NDArray[np.bool_], truth: NDArray[np.bool_], size: tuple[int, int] = (SIZE, SIZE)
) -> NDArray[np.uint8]:
    """Of a clip of two grey frames of `size` (H, W), of which the first alone has a mask."""
    for name, picture in (("frame", np.full((*size, 3), GREY, np.uint8)), ("truth", truth.astype(np.uint8) * 255)):
        Image.fromarray(picture).save(folder / f"{name}.png")
    clip = LabelledClip(
        video="v",
        category="",
        split="test",
        frames=(folder / "frame.png",) * 2,
        masks=(folder / "truth.png", None),
        sound=folder / "v.wav",
    )
    scores = ClipScores(
        clip=clip,
        ious=(0.25,),
        sounding=(bool(truth.any()),),
        heard=(False,),
        masked=(bool(mask.any()),),
        f_avsbench=0.0,
        f_reference=0.0,
    )
    write_strip(folder / "v.png", scores, mask[None])
    with Image.open(folder / "v.png") as file:
        assert file.mode == "RGB"
        return np.asarray(file)


@pytest.fixture
def left() -> NDArray[np.bool_]:
    """The left half."""
    return np.arange(SIZE)[None] < np.full((SIZE, 1), SIZE // 2)


def test_the_prediction_is_a_tint_and_the_truth_a_contour(tmp_path: Path, left: NDArray[np.bool_]) -> None:
    image = strip(tmp_path, mask=left, truth=~left)
    tinted, plain = image[SIZE // 2, SIZE // 4], image[SIZE // 2, 3 * SIZE // 4]
    assert tuple(plain) == GREY
    mixed = [0.6 * grey + 0.4 * tint for grey, tint in zip(GREY, TINT, strict=True)]
    assert tinted.tolist() == pytest.approx(mixed, abs=1)
    assert tuple(image[SIZE // 2, SIZE // 2 - 1]) == TINT
    assert tuple(image[SIZE // 2, SIZE // 2]) == YELLOW


def test_only_frames_with_a_mask_are_shown_with_a_caption(tmp_path: Path, left: NDArray[np.bool_]) -> None:
    image = strip(tmp_path, mask=left, truth=left)
    assert image.shape[1] == SIZE
    assert image.shape[0] > SIZE
    assert image[SIZE:].max() > 200


def test_a_silent_frame_says_so(tmp_path: Path, left: NDArray[np.bool_]) -> None:
    """By another caption, and without any contour."""
    captions = [
        strip(tmp_path, mask, truth)[SIZE:].tobytes() for mask in (left, ~left & left) for truth in (left, ~left & left)
    ]
    assert len(set(captions)) == 4
    assert not (strip(tmp_path, ~left & left, ~left & left)[:SIZE] != GREY).any()


def test_a_wide_frame_keeps_its_shape(tmp_path: Path, left: NDArray[np.bool_]) -> None:
    """Its mask is of the square at which it was compared, its truth of the frame's own size."""
    truth = np.zeros((90, 180), np.bool_)
    truth[:, :90] = True
    image = strip(tmp_path, mask=left, truth=truth, size=(90, 180))
    assert image.shape[1] == 2 * SIZE
    assert tuple(image[SIZE // 2, SIZE - 1]) == YELLOW
    assert tuple(image[SIZE // 2, SIZE]) == GREY
    assert tuple(image[SIZE // 2, SIZE // 2]) not in (YELLOW, GREY)


def test_a_picture_of_any_shape_gives_a_strip_that_can_be_looked_at(tmp_path: Path, left: NDArray[np.bool_]) -> None:
    assert strip(tmp_path, mask=left, truth=~left, size=(2, 4000)).shape[1] <= 4 * SIZE
